"""Slow references for sequential Monte Carlo: plain samples, reweighted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from entoptic.priors.prior import Level, Prior, Score, ancestral, draw_conditions, generate, noise_like


def ancestral_chain(prior: Prior, steps: int, rows: Sequence[torch.Generator]) -> tuple[Tensor, Tensor | None]:
    """The unguided ancestral sampler, one row from each generator (which may be given many times)."""
    levels = prior.levels(steps)
    x, condition = noise_like(prior, rows) * levels[0].sigma, draw_conditions(prior, rows)
    for t, s in pairwise(levels):
        k = ancestral(t, s)
        x = k.from_x * x + k.from_x0 * prior.denoise(x, t, condition)
        if s.sigma:
            x = x + k.sd * noise_like(prior, rows)
    return x, condition


def ddpm_samples(prior: Prior, steps: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """The same law as `ancestral_chain`, drawn at once from Ho et al. (2020), eq. 6-7, for α² + σ² = 1.

    μ̃ = √ᾱ_s·β_t/(1-ᾱ_t)·x0 + √a_t·(1-ᾱ_s)/(1-ᾱ_t)·x_t and β̃ = (1-ᾱ_s)/(1-ᾱ_t)·β_t.
    """

    def randn() -> Tensor:
        return torch.randn((count, *prior.shape), generator=generator, dtype=torch.float64)

    levels = prior.levels(steps)
    x = randn()
    condition = torch.randint(prior.conditions, (count,), generator=generator) if prior.conditions else None
    for t, s in pairwise(levels):
        kept_t, kept_s = t.alpha**2, s.alpha**2
        a = kept_t / kept_s
        x0 = prior.denoise(x, Level(*t), condition)
        x = (kept_s**0.5 * (1 - a) * x0 + a**0.5 * (1 - kept_s) * x) / (1 - kept_t)
        x = x + ((1 - kept_s) / (1 - kept_t) * (1 - a)) ** 0.5 * randn()
    return x, condition


def generator_scores(prior: Prior, score: Score, steps: int, count: int, generator: torch.Generator) -> Tensor:
    """Scores of plain samples of the few-step generator."""
    z = torch.randn((count, *prior.shape), generator=generator, dtype=torch.float64)
    return score(prior.decode(generate(prior, z, steps=steps)), torch.zeros(count, dtype=torch.int64)).double()


def reweighted(scores: Tensor, beta: float) -> tuple[float, float, float, float]:
    """log Z, its standard error, E_q[s] and its standard error, from plain samples."""
    w = (beta * scores - (beta * scores).max()).exp()
    share = w / w.sum()
    mean = float(share @ scores)
    log_z = float((beta * scores).logsumexp(0)) - math.log(len(scores))
    relative = w / w.mean()
    return log_z, float(relative.std()) / len(w) ** 0.5, mean, float(((share * (scores - mean)) ** 2).sum()) ** 0.5
