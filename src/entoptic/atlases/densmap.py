"""densMAP (Narayan, Berger and Cho 2021): UMAP that keeps local density, by umap-learn."""

from __future__ import annotations

from entoptic.atlases.contract import Layout, MapProblem
from entoptic.atlases.umap import by_umap


def make(problem: MapProblem) -> Layout:
    """Maps points by densMAP."""
    return by_umap(problem, keep_density=True)
