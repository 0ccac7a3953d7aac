"""Parallel tempering in noise space, an independent check of noise-space SMC.

Chains run at every β of a ladder at once and swap states (Geyer 1991). Chains at low β move between modes and pass
what they find up the ladder. The sampler shares no weights with `noise_smc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Prior, Score, draw_conditions, noise_like
from entoptic.sampling.noise_space import NoiseSpace, Walkers, next_stride


@dataclass(frozen=True)
class Tempered:
    """K rungs of one group, after burn-in.

    Attributes:
        betas: K.
        scores: K×(kept sweeps·chains) float64, in the order of sweeps; successive ones are correlated.
        states: K×chains×C×H×W, the last noise.
        condition: K×chains int64, or None.
        acceptance: K, of the noise moves.
        swaps: K-1, accepted share of the swaps between neighbours; below about 0.1 the rungs are too far apart.
        denoise_calls: calls of the denoiser, summed over states.
        score_calls: calls of the score, summed over states.
        nonfinite: proposals whose score was not finite.
    """

    betas: tuple[float, ...]
    scores: Tensor
    states: Tensor
    condition: Tensor | None
    acceptance: Tensor
    swaps: Tensor
    denoise_calls: int
    score_calls: int
    nonfinite: int


def parallel_tempering(
    prior: Prior, score: Score, betas: Sequence[float], generators: Sequence[torch.Generator], *, chains: int = 4,
    sweeps: int = 200, burn: int = 50, steps: int = 8, batch: int = 256,
) -> list[Tempered]:  # fmt: skip
    """Runs `chains` ladders of chains per generator, each at all `betas`; a sweep moves every chain and tries swaps.

    Rungs i and i+1 swap with probability min(1, exp((β_i - β_{i+1})(s_{i+1} - s_i))), even and odd i in turn. Strides are
    adapted during the `burn` sweeps, which are dropped, and fixed afterwards. So the kept part is an exact Markov chain.
    Each group takes K·chains·(1 + burn + sweeps) evaluations, a quarter more where the prior has conditions.

    Raises:
        UserError: fewer than 2 rungs, β not ascending from 0 or above, or arguments out of range.
    """
    if len(betas) < 2 or not all(0 <= a < b < math.inf for a, b in pairwise(betas)):
        raise UserError(f"parallel tempering needs at least 2 ascending β of at least 0, got {list(betas)}")
    if chains < 1 or sweeps < 1 or burn < 0 or steps < 1 or batch < 1:
        raise UserError(
            "parallel tempering needs chains, sweeps, steps and batch of at least 1 and burn of at least 0, got "
            f"{chains}, {sweeps}, {steps}, {batch} and {burn}"
        )
    space = NoiseSpace(prior, score, steps, batch)
    g_count, k_count = len(generators), len(betas)
    shape = (g_count, k_count, chains)  # of all that is kept per chain
    groups, per_group = list(range(g_count)), k_count * chains
    rows = [g for generator in generators for g in [generator] * per_group]
    z, condition = noise_like(prior, rows), draw_conditions(prior, rows)
    group = torch.arange(g_count, device=z.device).repeat_interleave(per_group)
    walkers = Walkers(z, condition, space.scores(z, condition, group))
    beta = torch.tensor(list(betas), dtype=torch.float64)
    beta_B = beta[:, None].expand(shape).flatten()
    stride = torch.ones(g_count, k_count, dtype=torch.float64)
    took, tried, swapped, offered = (torch.zeros(g_count, k_count, dtype=torch.float64) for _ in range(4))
    lost, spent = torch.zeros(2, g_count, dtype=torch.int64)
    spent += per_group  # the first states
    kept = []
    for sweep in range(-burn, sweeps):
        if sweep == 0:
            for count in (took, tried, swapped, offered):
                count.zero_()
        walkers, walked, _, calls, nonfinite = space.move(
            walkers, beta_B, stride[..., None].expand(shape).flatten(), groups, generators
        )
        took += walked.reshape(shape).sum(2)
        tried += chains
        spent += calls.reshape(g_count, -1).sum(1)
        lost += nonfinite.reshape(g_count, -1).sum(1)
        done = sweep + burn + 1
        if sweep < 0 and (done & (done - 1) == 0 or sweep == -1):  # windows that double in length
            stride = next_stride(stride, took / tried.clamp(min=1))
            took.zero_()
            tried.zero_()
        walkers = _swap(walkers, beta, shape, sweep % 2, generators, swapped, offered)
        if sweep >= 0:
            kept.append(walkers.scores.reshape(shape))
    scores = torch.stack(kept, 2).reshape(g_count, k_count, -1)
    z = walkers.z.reshape(*shape, *prior.shape)
    conditions = [None] * g_count if walkers.condition is None else list(walkers.condition.reshape(shape))
    acceptance, swaps = took / tried.clamp(min=1), (swapped / offered.clamp(min=1))[:, :-1]
    return [
        Tempered(
            tuple(betas),
            scores[i],
            z[i],
            kept_condition,
            acceptance[i],
            swaps[i],
            steps * int(spent[i]),
            int(spent[i]),
            int(lost[i]),
        )
        for i, kept_condition in enumerate(conditions)
    ]


def _swap(
    walkers: Walkers, beta: Tensor, shape: tuple[int, int, int], first: int, generators: Sequence[torch.Generator],
    swapped: Tensor, offered: Tensor,
) -> Walkers:  # fmt: skip
    """Tries to swap the rungs (first, first+1), (first+2, …), … of every chain; adds counts to `swapped` and `offered`."""
    low = torch.arange(first, shape[1] - 1, 2)
    uniform = torch.stack([torch.rand((len(low), shape[2]), generator=g, dtype=torch.float64) for g in generators])
    s = walkers.scores.reshape(shape)
    ratio = (beta[low] - beta[low + 1])[:, None] * (s[:, low + 1] - s[:, low])
    accepted = (uniform.log() < ratio) & s[:, low].isfinite() & s[:, low + 1].isfinite()
    rows = torch.arange(s.numel()).reshape(shape)
    a, b = rows[:, low], rows[:, low + 1]
    rows = rows.index_copy(1, low, torch.where(accepted, b, a)).index_copy(1, low + 1, torch.where(accepted, a, b))
    swapped[:, low] += accepted.sum(2)
    offered[:, low] += shape[2]
    return walkers.at(rows.flatten())
