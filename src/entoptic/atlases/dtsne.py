"""dtSNE (arXiv 2301.13732): t-SNE whose map keeps how dense the points lie. Exact, for up to `EXACT` points.

Each pair has the bandwidth σ_ij = (σ_i + σ_j)/2, and the kernel of the map is as wide in proportion: two points of a diffuse
group lie as far apart on the map, measured by the points of a dense one, as they do among the vectors.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.distances import all_of, euclidean, principal

ITERATIONS, EXAGGERATED = 1000, 250
_EXAGGERATION = 12.0
_BISECTIONS = 60
_SLOWEST = 1e-6
"""Share of the narrowest bandwidth's precision that any bandwidth is taken to have at least."""


def ask(problem: MapProblem) -> Asked:
    """Returns the Euclidean distances of the points."""
    return Asked(rows=euclidean(problem.vectors_ND))


@torch.no_grad()
def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by gradient descent on KL(P‖Q) with bandwidths of pairs."""
    n = len(problem)
    squared = torch.from_numpy(all_of(asked.rows, n)).square_()
    scale = squared.sum() / (n * (n - 1))
    squared /= scale.clamp_min(1e-30)  # so that precisions are of the order of 1
    precision = precisions(squared, min(problem.neighbours, (n - 1) / 3))
    pairs = of_pairs(precision)
    p = (-pairs * squared).exp_().fill_diagonal_(0)
    p = (p / p.sum()).float()
    width = (pairs / precision.max()).float()
    del pairs, squared
    own = (precision / precision.max()).float()[:, None]
    start = principal(problem.vectors_ND, 2)
    y = torch.from_numpy(1e-2 * start / max(start[:, 0].std(), 1e-12)).float()
    return _descend(y, p, width, own, problem).numpy()


def precisions(squared_NN: Tensor, perplexity: float) -> Tensor:
    """Finds for each point the precision β = 1/(2σ²) at which its neighbours have a perplexity.

    Args:
        squared_NN: squared distances.
        perplexity: wanted.

    Returns:
        N positive numbers.
    """
    n = len(squared_NN)
    others = squared_NN.clone().fill_diagonal_(torch.inf)
    others -= others.min(1, keepdim=True).values  # the nearest has weight 1
    low, high = squared_NN.new_full((n,), -30.0), squared_NN.new_full((n,), 30.0)  # of the precision's logarithm
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        weights = torch.exp(-middle.exp()[:, None] * others)
        total = weights.sum(1)
        spread = (weights * others.nan_to_num(posinf=0)).sum(1) / total
        entropy = total.log() + middle.exp() * spread
        is_wide = entropy > math.log(perplexity)
        low, high = torch.where(is_wide, middle, low), torch.where(is_wide, high, middle)
    found = ((low + high) / 2).exp()
    return found.clamp_max(found.median() * 1e6).clamp_min(found.max() * _SLOWEST)


def of_pairs(precision_N: Tensor) -> Tensor:
    """Returns the precision of each pair, N×N, whose bandwidth is the mean of its two points' bandwidths."""
    deviation = precision_N.rsqrt()
    return 4 / (deviation[:, None] + deviation[None]).square()


def _descend(y: Tensor, p: Tensor, width: Tensor, own: Tensor, problem: MapProblem) -> Tensor:
    """Gradient descent with momentum and gains. A point's step is divided by its own precision: its distances are as much wider."""
    n = len(y)
    velocity, gains = torch.zeros_like(y), torch.ones_like(y)
    for iteration in range(ITERATIONS):
        early = iteration < EXAGGERATED
        rate = n / _EXAGGERATION if early else float(n)
        kernel = (
            torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(width).add_(1).reciprocal_()
        )
        total = kernel.sum() - n
        pull = p * (_EXAGGERATION if early else 1.0) - kernel / total
        pull.mul_(kernel).mul_(width)
        gradient = 4 * (pull.sum(1, keepdim=True) * y - pull @ y) / own
        agrees = gradient.sign() == velocity.sign()
        gains = torch.where(agrees, gains * 0.8, gains + 0.2).clamp_min_(0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate / 4 * gains * gradient
        y = y + velocity
        y = y - y.mean(0)
        if iteration % 25 == 24:
            problem.progress("drawing the map", iteration + 1, ITERATIONS)
    return y
