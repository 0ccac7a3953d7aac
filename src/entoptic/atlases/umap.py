"""UMAP (McInnes, Healy and Melville 2018) by umap-learn."""

from __future__ import annotations

import warnings

import numpy as np

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.distances import euclidean, principal, reduced


def ask(problem: MapProblem) -> Asked:
    """Returns the Euclidean distances of the points."""
    return Asked(rows=euclidean(problem.vectors_ND))


def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by UMAP."""
    return by_umap(problem, keep_density=False)


def by_umap(problem: MapProblem, *, keep_density: bool) -> np.ndarray:
    """Runs umap-learn in one thread.

    Args:
        problem: what to map.
        keep_density: whether it is densMAP.
    """
    problem.progress("drawing the map", 0, 1)
    vectors = reduced(problem.vectors_ND).astype(np.float32)
    start = principal(vectors, 2)
    start = (10 * start / max(np.abs(start).max(), 1e-12)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and where numba finds no newer tools
        from umap import UMAP

        umap = UMAP(
            n_neighbors=min(problem.neighbours, len(vectors) - 1), init=start, random_state=problem.seed % 2**32,
            n_jobs=1, densmap=keep_density,
        )  # fmt: skip
        found = np.asarray(umap.fit_transform(vectors), np.float32)
    problem.progress("drawing the map", 1, 1)
    return found
