"""Small priors with known answers, and what tests of samplers share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entoptic.priors.prior import Level
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.particles import ParticleSet

BIG = 100_000  # batch: toys fit at once


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def gmm3() -> GaussianMixture:
    """The toy of the closed forms in `test_closed_forms`: three Gaussians on a line."""
    return GaussianMixture(
        torch.tensor([0.55, 0.35, 0.10]), column([-2, 0.5, 3]), column([0.36, 0.16, 0.25]), linear_schedule=True
    )


def gmm8() -> GaussianMixture:
    g = torch.Generator().manual_seed(5)
    means = torch.randn((4, 2, 2, 2), generator=g, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.4, 0.3, 0.2, 0.1]), means, 0.05 + 0.4 * torch.rand(means.shape, generator=g))


def total(pictures: Tensor, group: Tensor) -> Tensor:
    return pictures.flatten(1).sum(1)


def seeded(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * first + i) for i in range(count)]


def column_of(particle_sets: Sequence[ParticleSet], name: str) -> Tensor:
    return torch.tensor([float(getattr(c, name)) for c in particle_sets], dtype=torch.float64)


class Conditional:
    """A prior of one law per condition, that counts the states it denoises."""

    def __init__(self, laws: Sequence[GaussianMixture]) -> None:
        self.laws, self.conditions, self.denoised = laws, len(laws) if len(laws) > 1 else 0, 0
        self.name, self.identity, self.bounds = "toy:conditional", "", None
        self.shape, self.device = laws[0].shape, laws[0].device

    def levels(self, steps: int) -> list[Level]:
        return self.laws[0].levels(steps)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        self.denoised += len(x)
        every = torch.stack([law.denoise(x, level) for law in self.laws])
        return every[condition, torch.arange(len(x))] if condition is not None else every[0]

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def conditional() -> Conditional:
    one = torch.ones(1)
    return Conditional(
        [GaussianMixture(one, column([m]), column([v])) for m, v in ((-1.0, 0.3), (0.2, 0.8), (1.0, 0.1))]
    )
