"""Mercat (arXiv 2406.09876): a map on the sphere on which the angles of triples are those of the data.

Only directions count: a point is the direction of its vector, so it lies on a sphere of many dimensions. The angle at point i
between j and k is the angle in which the great circles from i to j and from i to k leave, on both spheres. What lies on a
sphere of two dimensions already can thus be mapped without error.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from entoptic.atlases.contract import Asked, MapProblem
from entoptic.atlases.distances import angular, directions, principal
from entoptic.base.randomness import generator_for

STEPS = 600
_PAIRS = 24
"""Pairs of others that each point compares in a step."""
_RATE = 0.05
_NEAR = 1e-6


def ask(problem: MapProblem) -> Asked:
    """Returns the angles between the directions of the points."""
    return Asked(rows=angular(problem.vectors_ND))


def draw(problem: MapProblem, asked: Asked) -> np.ndarray:
    """Maps points by Riemannian gradient descent on the squared differences of angles, from their three principal axes."""
    x = directions(problem.vectors_ND)
    start = principal(x, 3, centre=False)
    with torch.enable_grad():
        positions = descend(torch.from_numpy(x).float(), torch.from_numpy(start).float(), problem)
    return positions.numpy().astype(np.float32)


def descend(x_ND: Tensor, start_N3: Tensor, problem: MapProblem) -> Tensor:
    """Moves points on the sphere until angles of random triples agree.

    Args:
        x_ND: directions of the data, of length 1.
        start_N3: where the points start; they are put onto the sphere.
        problem: whose seed and progress are used.

    Returns:
        N×3, of length 1.
    """
    draw = generator_for("triples of mercat", problem.seed, len(x_ND))
    n = len(x_ND)
    y = _unit(start_N3 + 1e-4 * torch.randn(n, 3, generator=draw))
    mean, square = torch.zeros_like(y), torch.zeros_like(y[:, :1])
    at = torch.arange(n)[:, None]
    for step in range(STEPS):
        moved = torch.randint(1, n, (2, n, _PAIRS), generator=draw)
        j, k = (at + moved[0]) % n, (at + moved[1]) % n
        wanted = corners(x_ND, j, k)
        y = y.detach().requires_grad_()
        loss = (corners(y, j, k) - wanted).square().mean(1).sum()
        (gradient,) = torch.autograd.grad(loss, y)
        y = y.detach()
        gradient = gradient - (gradient * y).sum(1, keepdim=True) * y  # along the sphere
        mean = 0.9 * mean + 0.1 * gradient
        mean = mean - (mean * y).sum(1, keepdim=True) * y
        square = 0.99 * square + 0.01 * gradient.square().sum(1, keepdim=True)
        rate = _RATE * min(1.0, 2 * (1 - step / STEPS))
        y = _unit(y - rate * mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8))
        if step % 25 == 24:
            problem.progress("drawing the map", step + 1, STEPS)
    return y


def corners(x_ND: Tensor, j_NM: Tensor, k_NM: Tensor) -> Tensor:
    """Returns the angle at each point between the great circles to two others, N×M, between 0 and π.

    Args:
        x_ND: points of length 1.
        j_NM: numbers of one of the others.
        k_NM: numbers of the other.
    """
    a, b = (_tangent(x_ND, x_ND[others]) for others in (j_NM, k_NM))
    cosine = (a * b).sum(-1)
    sine = (a - cosine[..., None] * b).square().sum(-1).add(_NEAR).sqrt()
    return torch.atan2(sine, cosine)


def _tangent(at_ND: Tensor, to_NMD: Tensor) -> Tensor:
    """The direction in which the great circle to another point leaves."""
    along = (to_NMD * at_ND[:, None]).sum(-1, keepdim=True)
    leaves = to_NMD - along * at_ND[:, None]
    return leaves / leaves.square().sum(-1, keepdim=True).add(_NEAR).sqrt()


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
