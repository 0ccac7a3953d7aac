"""Twisted sequential Monte Carlo along a diffusion chain (Wu et al. 2023, arXiv:2306.17775).

N particles go through the noise levels together. At each level
  - a particle is pushed along the gradient of s(x̂0(x_t)), and its weight corrects for the push;
  - it is weighted ("twisted") by ψ_t = exp(λ_t β s(x̂0(x_t))), so that resampling drops unpromising particles early.
At the end ψ_0 = exp(β s(x0)), and all earlier twists have cancelled out.

The weights are proper for the discretised ancestral sampler p_θ. Let h_t(x) = E[exp(β s(x0)) | x_t = x] under it. A
pushed step with weight p/q keeps the expectation of mean(w·h), whatever the push. Resampling by w·ψ and weighting by
1/ψ afterwards keeps it too, whatever ψ. So exp(log Z) is an unbiased estimate of E_{p_θ}[exp(β s(x0))], although λ_t
and the levels of resampling are chosen by looking at the particles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Level, Prior, Score, ancestral, draw_conditions, noise_like
from entoptic.sampling.guidance import WHOLE_CHAIN, inside
from entoptic.sampling.noise_space import checked_scores
from entoptic.sampling.particles import ParticleSet, effective_sample_size, log_mean_exp, resample_systematically

# Share of the effective particles that a twist, and a push, may each cost at one level; beyond it they are weakened.
ESS_LOSS = 0.2
MAX_PUSH = (-math.log(1 - ESS_LOSS)) ** 0.5  # length of a push in standard deviations of the step's noise
STRENGTHS_TRIED = 33  # values of λ_t that are compared


@dataclass
class _Island:
    """The state of one independent run of N particles.

    Attributes:
        index: group number that the score is called with.
        x: N×C×H×W, states at the current level.
        condition: N int64, or None.
        log_w: N float64, log weights at the last level, twist included.
        twist: N float64, the part λ_t β s of `log_w`, which is taken back at the next level.
        base: N float64, log weights of x before it is twisted.
        ancestors: see `ParticleSet`.
        levels: number of levels done.
        strength: λ_t of the current level.
    """

    index: int
    generator: torch.Generator
    x: Tensor
    condition: Tensor | None
    log_w: Tensor
    twist: Tensor
    base: Tensor
    ancestors: Tensor
    log_z: float = 0.0
    least_ess: float = math.inf
    nonfinite: int = 0
    levels: int = 0
    strength: float = 0.0  # λ_t


class _DenoisedBatch(NamedTuple):
    """B states of a level after one call of the denoiser.

    Attributes:
        clean: B×C×H×W, x̂0.
        scores: B float64, s(x̂0), -inf where not finite.
        gradient: B×C×H×W, ∇_x s(x̂0(x)), or None if it was not asked for.
    """

    clean: Tensor
    scores: Tensor
    gradient: Tensor | None

    def at(self, rows: Tensor) -> _DenoisedBatch:
        """Returns the rows `rows` (K int64)."""
        there = rows.to(self.clean.device)
        return _DenoisedBatch(
            self.clean[there], self.scores[rows], None if self.gradient is None else self.gradient[there]
        )  # fmt: skip


def twisted_smc(
    prior: Prior, score: Score, beta: float, generators: Sequence[torch.Generator], *, particles: int = 16,
    steps: int = 100, window: tuple[float, float] = WHOLE_CHAIN, ess: float = 0.5, batch: int = 64,
    on_step: Callable[[int, int], None] | None = None,
) -> list[ParticleSet]:  # fmt: skip
    """Samples the tilt of the `steps`-step ancestral sampler by exp(β s), as N weighted clean states.

    Each generator gives one independent island; islands share batches and nothing else. A generator gives the noise of N
    particles (`noise_like`), their conditions, and at every level one number if the island resamples there and the noise
    of the step. At β = 0 the states are those of the unguided sampler, bit for bit. An island calls the denoiser and the
    score N·steps times each.

    Args:
        prior: the generative model.
        score: differentiable in the pictures; where it does not depend on them nothing is pushed. It is called with
            pictures and the island's number.
        beta: β ≥ 0, finite.
        generators: one for each island, on the CPU.
        particles: N of each island, ≥ 1.
        steps: number of ancestral steps, ≥ 1.
        window: shares of the steps between which particles are pushed, see `entoptic.sampling.guidance.inside`. The weights
            correct for any push, so the distribution is the same.
        ess: in (0, 1]; the particles are resampled where a smaller share of them is effective.
        batch: maximum number of states that are denoised and scored at once, with gradients.
        on_step: called after each level with the number done and `steps`.

    Returns:
        One weighted particle set for each generator, not resampled at the end. `reached` is False where more than half of
        the scores at some level were not finite. The states are then the x̂0 of that level and no sample of the tilt.

    Raises:
        UserError: arguments out of range, or a score that is not one number per picture.
    """
    if particles < 1 or steps < 1 or batch < 1 or not 0 <= beta < math.inf or not 0 < ess <= 1:
        raise UserError(
            "twisted SMC needs particles, steps and batch of at least 1, a finite β of at least 0 and an ess of at "
            f"most 1, got {particles}, {steps}, {batch}, {beta} and {ess}"
        )
    n, levels, finished = particles, prior.levels(steps), {}
    islands = [_start_island(prior, i, generator, n, levels[0]) for i, generator in enumerate(generators)]
    for i, (t, s) in enumerate(pairwise(levels)):
        # The last step has no noise and gives x0 = x̂0, so ψ_0 is known before it. A push there would have infinite KL.
        last = i == steps - 1
        pushed = beta > 0 and not last and inside(window, i, steps)
        denoised = _denoise_and_score(prior, score, islands, t, batch, with_gradient=pushed)
        floor = 1.0 if last else i / steps
        _choose_twist(islands, denoised.scores.reshape(-1, n), beta, floor)
        unfinished = []
        for k, island in enumerate(islands):
            own = denoised.at(torch.arange(k * n, (k + 1) * n))
            island.levels += 1
            island.nonfinite += int((~own.scores.isfinite()).sum())
            island.least_ess = min(island.least_ess, float(effective_sample_size(island.log_w)))
            dead = int((~island.log_w.isfinite()).sum())
            if last or 2 * dead > n:
                note = f"{dead} of {n} particles had scores that are not finite by level {i + 1} of {steps}"
                note = note if 2 * dead > n else ""
                finished[island.index] = _particle_set(island, own, beta, note)
                continue
            _step_down(prior, island, own, beta, t, s, ess)
            unfinished.append(island)
        islands = unfinished
        if on_step is not None:
            on_step(i + 1, steps)
        if not islands:
            break
    return [finished[i] for i in range(len(generators))]


def _start_island(prior: Prior, index: int, generator: torch.Generator, n: int, level: Level) -> _Island:
    """Draws the noise and conditions of n particles."""
    rows = [generator] * n
    x, condition = noise_like(prior, rows) * level.sigma, draw_conditions(prior, rows)
    nought = torch.zeros(n, dtype=torch.float64)
    return _Island(index, generator, x, condition, nought, nought, nought, torch.arange(n))


def _denoise_and_score(
    prior: Prior, score: Score, islands: list[_Island], level: Level, batch: int, *, with_gradient: bool
) -> _DenoisedBatch:
    """Denoises and scores the states of all islands at one level, in batches."""
    x = torch.cat([island.x for island in islands])
    condition = (
        torch.cat([island.condition for island in islands if island.condition is not None])
        if prior.conditions
        else None
    )
    group = torch.tensor([island.index for island in islands], device=x.device).repeat_interleave(len(islands[0].x))
    clean, scores, gradients = [], [], []
    for rows in torch.arange(len(x), device=x.device).split(batch):
        here = x[rows].requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            x0 = prior.denoise(here, level, None if condition is None else condition[rows])
            found = score(prior.decode(x0), group[rows])
        clean.append(x0.detach())
        scores.append(checked_scores(found, len(rows)))
        if with_gradient and found.requires_grad:
            gradients.append(torch.autograd.grad(found.sum(), here)[0])
        elif with_gradient:
            gradients.append(torch.zeros_like(x0))
    s = torch.cat(scores)
    # The weights correct for any push, so it may be 0 where the gradient is not finite.
    gradient = torch.cat(gradients).nan_to_num(0.0, 0.0, 0.0) if with_gradient else None
    return _DenoisedBatch(torch.cat(clean), torch.where(s.isfinite(), s, -math.inf), gradient)


def _choose_twist(islands: list[_Island], scores: Tensor, beta: float, floor: float) -> None:
    """Chooses λ_t of each island in [floor, 1] and twists its weights by it.

    λ_t is the largest value whose conditional effective sample size (Zhou et al. 2016) is at least 80 %. That is the share
    of the particles, effective before, that stays effective after the new weights. If no value reaches 80 %, λ_t is the
    one with the largest share. λ_t may fall from level to level: at high noise all x̂0 look alike, which allows λ = 1, and
    they differ later. The floor is the share of the levels done; it keeps the twist from being put off to the end.

    Args:
        scores: R×N, s(x̂0) of R islands.
        beta: β.
        floor: minimum of λ_t, in [0, 1].
    """
    base = torch.stack([island.base for island in islands])[..., None]  # R×N×1
    old = torch.stack([island.log_w for island in islands])[..., None]
    tilt = torch.where(scores.isfinite(), beta * scores, -math.inf)[..., None]
    strengths = floor + (1 - floor) * torch.linspace(0, 1, STRENGTHS_TRIED, dtype=torch.float64)
    # Not 0·(-inf), which is NaN: a particle without a finite score has weight 0 at every strength.
    new = base + torch.where(tilt.isfinite(), strengths * tilt, -math.inf)
    square = torch.where(new.isfinite(), 2 * new - old, -math.inf)
    kept = (2 * new.logsumexp(1) - square.logsumexp(1) - old.logsumexp(1)).exp().nan_to_num(0.0)  # R×33
    rank = torch.arange(STRENGTHS_TRIED) + 1
    good = (kept >= 1 - ESS_LOSS) * rank
    choice = torch.where(good.any(1), good.argmax(1), kept.argmax(1))
    for i, (island, at) in enumerate(zip(islands, choice.tolist())):
        island.strength, island.log_w = float(strengths[at]), new[i, :, at]
        island.twist = island.strength * tilt[i, :, 0]


def _step_down(
    prior: Prior, island: _Island, denoised: _DenoisedBatch, beta: float, t: Level, s: Level, ess: float
) -> None:
    """Resamples if needed, then takes the pushed step from level t to level s and corrects the weights."""
    n = len(island.log_w)
    if float(effective_sample_size(island.log_w)) < ess * n:
        picks = resample_systematically(
            island.log_w[None], torch.rand(1, generator=island.generator, dtype=torch.float64), n
        )[0]
        island.log_z += float(log_mean_exp(island.log_w))
        there = picks.to(island.x.device)
        island.x, island.condition = island.x[there], None if island.condition is None else island.condition[there]
        island.ancestors, island.twist, denoised = island.ancestors[picks], island.twist[picks], denoised.at(picks)
        island.log_w = torch.zeros_like(island.log_w)
    kernel = ancestral(t, s)
    noise = noise_like(prior, [island.generator] * n)
    island.x = kernel.from_x * island.x + kernel.from_x0 * denoised.clean + kernel.sd * noise
    island.base = torch.where(island.log_w.isfinite(), island.log_w - island.twist, -math.inf)
    if denoised.gradient is None:
        return
    push = kernel.push * island.strength * beta * denoised.gradient
    # After a push of length r·sd the weights p/q have the effective share exp(-r²). Long pushes come from few levels, or
    # from a kink of x̂0 between modes, where the gradient is valid for a fraction of the length. Shorter ones are exact too.
    length = (push.flatten(1).norm(dim=1) / kernel.sd)[:, None, None, None]
    push = push * (MAX_PUSH / length.clamp(min=MAX_PUSH))
    island.x = island.x + push
    # log N(x'; μ, sd²) - log N(x'; μ + push, sd²) at x' = μ + push + sd·ε
    cost = (push.double() * (noise.double() / kernel.sd + push.double() / (2 * kernel.sd**2))).flatten(1).sum(1)
    island.base = island.base - cost.cpu()


def _particle_set(island: _Island, denoised: _DenoisedBatch, beta: float, note: str) -> ParticleSet:
    """Returns the finished island as weighted particles; `note` is the reason if it was stopped."""
    log_w, n = island.log_w, len(island.log_w)
    calls = n * island.levels
    return ParticleSet(
        states=denoised.clean,
        condition=island.condition,
        steps=None,
        scores=denoised.scores,
        log_weights=torch.where(log_w.isfinite(), log_w - log_w.logsumexp(0), -math.inf),
        beta=beta,
        log_z=island.log_z + float(log_mean_exp(log_w)),
        rungs=(),
        ancestors=island.ancestors,
        copies=torch.arange(n),
        lineage=torch.arange(n),
        least_ess=island.least_ess,
        denoise_calls=calls,
        score_calls=calls,
        nonfinite=island.nonfinite,
        reached=not note,
        note=note,
    )
