"""Chains of a prior that is told something, such as a prompt, and how many nats that costs at most."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from entoptic.priors.prior import Prior, ancestral, draw_conditions, noise_like


class Told(NamedTuple):
    """x0: B×C×H×W clean states. path_kl: B float64, nats along each chain; their mean bounds KL(q‖p) from above."""

    x0: Tensor
    path_kl: Tensor


@torch.no_grad()
def told(prior: Prior, other: Prior, generators: Sequence[torch.Generator], *, steps: int = 50) -> Told:
    """Ancestral chains of `other`, the prior as it is when told something, one from each generator.

    Both samplers start from the same noise and take steps of the same variance, so along a path of `other` they differ
    by shift_t = from_x0·(x0hat_other - x0hat_prior), and the KL divergence of its paths from the prior's is
    E Σ_t |shift_t|²/(2 sd_t²). The clean states' divergence is at most that (data processing). The last step has no noise,
    where any difference would cost infinite nats: there both take the prior's own step, a function of the last noisy
    state that costs none.

    A generator gives its chain's condition, then its first noise, then the noise of its steps, as in `guided`; chains
    of one generator differ only by what they are told. Where `other` is `prior` nothing is evaluated twice.
    """
    condition = draw_conditions(prior, generators)
    levels = prior.levels(steps)
    x = noise_like(prior, generators) * levels[0].sigma
    path_kl = torch.zeros(len(x), dtype=torch.float64)
    for t, s in pairwise(levels):
        k, own = ancestral(t, s), prior.denoise(x, t, condition)
        if k.sd == 0:
            return Told(k.from_x * x + k.from_x0 * own, path_kl)
        x0 = own if other is prior else other.denoise(x, t, condition)
        shift = k.from_x0 * (x0 - own)
        path_kl += shift.flatten(1).double().square().sum(1).cpu() / (2 * k.sd**2)
        x = k.from_x * x + k.from_x0 * x0 + k.sd * noise_like(prior, generators)
    return Told(x, path_kl)
