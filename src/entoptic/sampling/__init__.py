"""Sampling tilts of a prior: unit scores, banks, guidance, sequential Monte Carlo, MBAR, the frontier."""
