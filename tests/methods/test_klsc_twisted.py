"""What the islands of twisted diffusion may say together, on a toy whose sampler's law is known by quadrature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entoptic.base.estimates import t_quantile
from entoptic.methods.klsc_twisted import refusal_of_chains
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.particles import ParticleSet, estimate_across_islands
from entoptic.sampling.twisted_smc import twisted_smc

ISLANDS, RUNS = 4, 10
MEAN_AT_2 = 3.3613


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1, 1)


def runs(beta: float) -> list[list[ParticleSet]]:
    """Runs of the method's own particles and steps on three Gaussians, the highest of them a tenth of the prior."""
    prior = GaussianMixture(torch.tensor([0.55, 0.35, 0.10]), column(-2, 0.5, 3), column(0.36, 0.16, 0.25))

    def score(pictures: Tensor, island: Tensor) -> Tensor:
        return pictures.flatten(1).sum(1)

    generators = [torch.Generator().manual_seed(i) for i in range(ISLANDS * RUNS)]
    islands = twisted_smc(prior, score, beta, generators, particles=16, steps=50, batch=1024)
    return [islands[i : i + ISLANDS] for i in range(0, len(islands), ISLANDS)]


def test_islands_that_know_their_law_tell_it() -> None:
    """2.7 nats. Their mean by quadrature of the 50-step sampler's own law, which the intervals hold."""
    found = [(refusal_of_chains(run), estimate_across_islands(run)) for run in runs(2.0)]
    assert sum(not why for why, _ in found) >= 9
    held = [abs(one.mean - MEAN_AT_2) <= t_quantile(ISLANDS - 1) * one.mean_se for why, one in found if not why]
    assert sum(held) >= len(held) - 2


def test_islands_that_come_from_few_ancestors_do_not() -> None:
    """4.2 nats, all of them in the tenth: log Z lies low by half a nat, and the intervals do not know it."""
    found = runs(4.0)
    assert sum(bool(refusal_of_chains(run)) for run in found) >= 9
    assert all(not run[0].note for run in found)


def test_what_is_needed_is_counted_over_the_islands() -> None:
    def island(ess: int, roots: int, n: int = 16) -> ParticleSet:
        weights = torch.full((n,), -math.inf, dtype=torch.float64)
        weights[:ess] = -math.log(ess)
        alive = torch.arange(n)
        ancestors = alive % roots
        return ParticleSet(
            torch.zeros(n, 1, 1, 1), None, None, torch.zeros(n, dtype=torch.float64), weights, 1.0, 0.0, (), ancestors,
            alive, alive, float(ess), 0, 0, 0, True, "",
        )  # fmt: skip

    assert refusal_of_chains([island(8, 8)] * 4) == ""
    assert refusal_of_chains([island(12, 8)] * 3 + [island(8, 8)]) == "", "one island may be worse than the others"
    assert "12 of 64, and at least 20" in refusal_of_chains([island(3, 3)] * 4)
    assert "descend from 7 first ones, and at least 8" in refusal_of_chains([island(16, 16)] * 3 + [island(16, 7)])
    assert "descend from 9 first ones, and at least 10" in refusal_of_chains([island(40, 9, 40)] * 4)
