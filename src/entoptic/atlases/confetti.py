"""CONFETTI (Heiter, Fischer and Vreeken 2021, arXiv 2103.01828): a map without what is known already.

What is known is a distance too. It is taken from the distances of the points, and t-SNE maps what remains.
"""

from __future__ import annotations

import numpy as np
import torch

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.distances import all_of, euclidean, held
from entoptic.atlases.tsne import embed
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError

NEAR = 10
"""Neighbours that must not show what is known."""
_ANCHORS = 1000
_LARGEST = 64.0
_STEPS = 24


def ask(problem: MapProblem) -> Asked:
    """Returns the distances of the points without what is known.

    Raises:
        UserError: nothing is known, or it is the same for all points.
    """
    if problem.known_NN is None:
        raise UserError("map confetti takes out what is known, and nothing was named; give --known class, for instance")
    if not problem.known_NN.any():
        raise UserError("map confetti: what is known is the same for all points, so there is nothing to take out")
    own = all_of(euclidean(problem.vectors_ND), len(problem))
    weight = problem.removed
    if weight is None:
        weight = hiding_weight(own, problem.known_NN)
    return Asked(rows=held(without(own, problem.known_NN, weight)), about={"lambda": weight})


def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by t-SNE on these distances."""
    remains = asked.rows(np.arange(len(problem)))
    draw = generator_for("start of confetti", problem.seed, len(problem))
    start = 1e-4 * torch.randn(len(problem), 2, generator=draw, dtype=torch.float64).numpy()
    return embed(remains, "precomputed", start, problem)


def without(own_NN: np.ndarray, known_NN: np.ndarray, weight: float) -> np.ndarray:
    """Takes known distances out of the points' own: D′ = Dˣ − (λ/2) Dᶻ + λ off the diagonal, both scaled to at most 1.

    For two metrics the result is a metric, whatever λ > 0: what is added lies between λ/2 and λ.

    Args:
        own_NN: Dˣ.
        known_NN: Dᶻ.
        weight: λ.

    Returns:
        Distances N×N, float64.
    """
    own, known = (d / max(d.max(), 1e-300) for d in (own_NN.astype(np.float64), known_NN.astype(np.float64)))
    remains = own - weight / 2 * known + weight
    np.fill_diagonal(remains, 0)
    return remains


def hiding_weight(own_NN: np.ndarray, known_NN: np.ndarray, near: int = NEAR) -> float:
    """Finds the λ at which neighbours are as far apart in what is known as any two points are.

    The larger λ, the further apart in it are neighbours; so λ is found by bisection.

    Args:
        own_NN: distances of the points.
        known_NN: distances of what is known.
        near: neighbours that are counted.
    """
    n = len(own_NN)
    anchors = np.unique(np.linspace(0, n - 1, min(n, _ANCHORS)).astype(int))
    own, known = own_NN[anchors] / max(own_NN.max(), 1e-300), known_NN[anchors] / max(known_NN.max(), 1e-300)
    own = own.copy()
    own[np.arange(len(anchors)), anchors] = np.inf  # no point is its own neighbour
    wanted = known.sum() / (len(anchors) * (n - 1))
    low, high = 0.0, _LARGEST
    for _ in range(_STEPS):
        weight = (low + high) / 2
        nearest = np.argpartition(own - weight / 2 * known, near, axis=1)[:, :near]
        if np.take_along_axis(known, nearest, 1).mean() < wanted:
            low = weight
        else:
            high = weight
    return high
