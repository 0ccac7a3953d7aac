"""Circuits: through which components of a network a unit gets what it looks for."""
