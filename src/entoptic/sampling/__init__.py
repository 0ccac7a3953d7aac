"""Tilting a prior towards a unit: scores, banks, guidance, sequential Monte Carlo, MBAR, the frontier."""
