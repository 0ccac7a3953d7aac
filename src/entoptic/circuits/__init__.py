"""Circuits: through which components of a network a unit gets what it looks for."""

from entoptic.circuits import eap, eap_ig, patching, random_edges  # noqa: F401 (each registers its finder)
