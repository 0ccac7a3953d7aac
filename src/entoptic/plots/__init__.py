"""Drawings as SVG and PNG: marks and axes, the frontier, overlays of steered pictures."""
