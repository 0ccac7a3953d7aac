"""densMAP (Narayan, Berger and Cho 2021): UMAP that keeps local density, by umap-learn."""

from __future__ import annotations

import numpy as np

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.umap import ask, by_umap

__all__ = ["ask", "draw"]


def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by densMAP."""
    return by_umap(problem, keep_density=True)
