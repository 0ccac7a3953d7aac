"""Ladders, banks and the frontier of the mixture of three Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from tests.oracles import frontier as oracle
from torch import Tensor

from entoptic.sampling.frontier import Frontier
from entoptic.sampling.mbar import Ladder

RUNGS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.2, 3.2)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ladder(generator: np.random.Generator, n: int = 64, rungs: tuple[float, ...] = RUNGS) -> Ladder:
    return Ladder(rungs, [torch.from_numpy(oracle.draws(b, (n,), generator)) for b in rungs])


def bank(n: int, seed: int = 0, mixture: oracle.Mixture = oracle.GMM3) -> Tensor:
    return torch.from_numpy(oracle.draws(0, (n,), rng(seed), mixture))


def exact(mixture: oracle.Mixture = oracle.GMM3) -> Frontier:
    """The frontier of the mixture itself: quadrature points are a weighted sample of the prior."""
    x = np.linspace(-20, 25, 9001)
    weights = oracle.pdf(x, mixture)
    log_weights = torch.from_numpy(np.log(np.maximum(weights / weights.sum(), 1e-300)))
    return Frontier(torch.from_numpy(x), log_weights, torch.arange(len(x)) % 32, 32)
