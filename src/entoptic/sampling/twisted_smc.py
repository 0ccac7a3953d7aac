"""Twisted sequential Monte Carlo along a diffusion prior: guided proposals, corrected by weights.

N particles go down the noise levels together. Each is pushed along the gradient of s(x̂0(x_t)), weighted by how much
that push changed its law, and twisted by ψ_t = exp(λ_t β s(x̂0(x_t))), so that those which promise little are dropped
early (Wu et al. 2023). The twists cancel out at the end, where ψ_0 = exp(β s(x0)).

Weights are proper for the discretised ancestral sampler p_θ: let h_t(x) = E[exp(β s(x0)) | x_t = x] under it. A guided
step with weight p/q keeps the expectation of the mean of w·h, whatever the push. Resampling by w·ψ and weighing by 1/ψ
afterwards keeps it too, whatever the ψ. So exp(log Z) is unbiased for E_{p_θ}[exp(β s(x0))] even though λ_t and the
moments of resampling are chosen by looking at the particles.
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
from entoptic.sampling.noise_space import checked
from entoptic.sampling.particles import ParticleSet, effective, log_mean_exp, systematic

# A twist, and a push, may each cost this share of the particles at one level before it is weakened there.
LOSS = 0.2
LONGEST = (-math.log(1 - LOSS)) ** 0.5
STRENGTHS = 33  # that are tried


@dataclass
class _Run:
    """One group on its way down.

    All N float64: log_w, the log weights at the last level, of which `twist` is the part λ_t β s that will be taken
    back; base, the log weights of x as it is now, not twisted yet.
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


class _Look(NamedTuple):
    """What is seen of B states at a level. clean: x̂0. scores: float64, -inf if not finite. gradient: ∇_x s, or None."""

    clean: Tensor
    scores: Tensor
    gradient: Tensor | None

    def at(self, rows: Tensor) -> _Look:
        there = rows.to(self.clean.device)
        return _Look(
            self.clean[there], self.scores[rows], None if self.gradient is None else self.gradient[there]
        )  # fmt: skip


def twisted_smc(
    prior: Prior, score: Score, beta: float, generators: Sequence[torch.Generator], *, particles: int = 16,
    steps: int = 100, ess: float = 0.5, batch: int = 64, on_step: Callable[[int, int], None] | None = None,
) -> list[ParticleSet]:  # fmt: skip
    """N weighted clean states of the tilt of the `steps`-step ancestral sampler by exp(β s).

    Each generator is one independent run; runs share batches and nothing else. It gives the noise of N particles
    (noise_like), their conditions, then at every level one number if it resamples there and the level's noise. β = 0
    gives the unguided sampler's states unchanged. A run calls the network and the score particles·steps times each.

    Args:
        score: differentiable in the pictures; where it does not depend on them nothing is pushed.
        beta: ≥ 0. ess: in (0, 1]; below this share of effective particles they are resampled.
        batch: the most states that are denoised and scored at once, with gradients.
        on_step: told how many levels are done, and of how many.

    Returns:
        One cloud per generator, weighted: it is not resampled at the end. `reached` is False where more than half of
        the scores at some level were not finite; the states are then the x̂0 of that level, of no law.

    Raises:
        UserError: arguments out of range, or a score that is not one number per picture.
    """
    if particles < 1 or steps < 1 or batch < 1 or not 0 <= beta < math.inf or not 0 < ess <= 1:
        raise UserError(
            "twisted SMC needs particles, steps and batch of at least 1, a finite β of at least 0 and an ess of at "
            f"most 1, got {particles}, {steps}, {batch}, {beta} and {ess}"
        )
    n, levels, clouds = particles, prior.levels(steps), {}
    runs = [_begun(prior, i, generator, n, levels[0]) for i, generator in enumerate(generators)]
    for i, (t, s) in enumerate(pairwise(levels)):
        # The last step has no noise and gives x0 = x̂0: ψ_0 is known before it, and a push would cost infinite nats.
        last = i == steps - 1
        look = _look(prior, score, runs, t, batch, with_gradient=beta > 0 and not last)
        floor = 1.0 if last else i / steps
        _twist(runs, look.scores.reshape(-1, n), beta, floor)
        going = []
        for k, run in enumerate(runs):
            mine = look.at(torch.arange(k * n, (k + 1) * n))
            run.levels += 1
            run.nonfinite += int((~mine.scores.isfinite()).sum())
            run.least_ess = min(run.least_ess, float(effective(run.log_w)))
            dead = int((~run.log_w.isfinite()).sum())
            if last or 2 * dead > n:
                note = f"{dead} of {n} particles had scores that are not finite by level {i + 1} of {steps}"
                note = note if 2 * dead > n else ""
                clouds[run.index] = _cloud(run, mine, beta, note)
                continue
            _descend(prior, run, mine, beta, t, s, ess)
            going.append(run)
        runs = going
        if on_step is not None:
            on_step(i + 1, steps)
        if not runs:
            break
    return [clouds[i] for i in range(len(generators))]


def _begun(prior: Prior, index: int, generator: torch.Generator, n: int, level: Level) -> _Run:
    rows = [generator] * n
    x, condition = noise_like(prior, rows) * level.sigma, draw_conditions(prior, rows)
    nought = torch.zeros(n, dtype=torch.float64)
    return _Run(index, generator, x, condition, nought, nought, nought, torch.arange(n))


def _look(prior: Prior, score: Score, runs: list[_Run], level: Level, batch: int, *, with_gradient: bool) -> _Look:
    x = torch.cat([run.x for run in runs])
    condition = torch.cat([run.condition for run in runs if run.condition is not None]) if prior.conditions else None
    group = torch.tensor([run.index for run in runs], device=x.device).repeat_interleave(len(runs[0].x))
    clean, scores, gradients = [], [], []
    for rows in torch.arange(len(x), device=x.device).split(batch):
        here = x[rows].requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            x0 = prior.denoise(here, level, None if condition is None else condition[rows])
            found = score(prior.decode(x0), group[rows])
        clean.append(x0.detach())
        scores.append(checked(found, len(rows)))
        if with_gradient and found.requires_grad:
            gradients.append(torch.autograd.grad(found.sum(), here)[0])
        elif with_gradient:
            gradients.append(torch.zeros_like(x0))
    s = torch.cat(scores)
    # Any push is allowed, since weights account for it: none where there is no gradient to follow.
    gradient = torch.cat(gradients).nan_to_num(0.0, 0.0, 0.0) if with_gradient else None
    return _Look(torch.cat(clean), torch.where(s.isfinite(), s, -math.inf), gradient)


def _twist(runs: list[_Run], scores: Tensor, beta: float, floor: float) -> None:
    """Choose λ_t of each run in [floor, 1] and twist by it. scores: R×N.

    It is the strongest of which the conditional ESS (Zhou et al. 2016), the share of particles that survive the new
    weights as well as they did the old, is 80 %; where none is, the one that keeps most. It may fall again: far up all
    x̂0 look alike, which allows λ = 1 there, and says nothing of the levels at which they part. The floor, the share
    of levels done, sees to it that the twist is not put off to the end.
    """
    base = torch.stack([run.base for run in runs])[..., None]  # R×N×1
    old = torch.stack([run.log_w for run in runs])[..., None]
    tilt = torch.where(scores.isfinite(), beta * scores, -math.inf)[..., None]
    strengths = floor + (1 - floor) * torch.linspace(0, 1, STRENGTHS, dtype=torch.float64)
    # 0·(-inf) would be no number; a particle without a score has weight 0 at every strength.
    new = base + torch.where(tilt.isfinite(), strengths * tilt, -math.inf)
    square = torch.where(new.isfinite(), 2 * new - old, -math.inf)
    kept = (2 * new.logsumexp(1) - square.logsumexp(1) - old.logsumexp(1)).exp().nan_to_num(0.0)  # R×33
    rank = torch.arange(STRENGTHS) + 1
    good = (kept >= 1 - LOSS) * rank
    choice = torch.where(good.any(1), good.argmax(1), kept.argmax(1))
    for i, (run, at) in enumerate(zip(runs, choice.tolist())):
        run.strength, run.log_w = float(strengths[at]), new[i, :, at]
        run.twist = run.strength * tilt[i, :, 0]


def _descend(prior: Prior, run: _Run, look: _Look, beta: float, t: Level, s: Level, ess: float) -> None:
    """Resample if needed, then take the guided step t -> s and weigh it."""
    n = len(run.log_w)
    if float(effective(run.log_w)) < ess * n:
        picks = systematic(run.log_w[None], torch.rand(1, generator=run.generator, dtype=torch.float64), n)[0]
        run.log_z += float(log_mean_exp(run.log_w))
        there = picks.to(run.x.device)
        run.x, run.condition = run.x[there], None if run.condition is None else run.condition[there]
        run.ancestors, run.twist, look = run.ancestors[picks], run.twist[picks], look.at(picks)
        run.log_w = torch.zeros_like(run.log_w)
    kernel = ancestral(t, s)
    noise = noise_like(prior, [run.generator] * n)
    run.x = kernel.from_x * run.x + kernel.from_x0 * look.clean + kernel.sd * noise
    run.base = torch.where(run.log_w.isfinite(), run.log_w - run.twist, -math.inf)
    if look.gradient is None:
        return
    push = kernel.push * run.strength * beta * look.gradient
    # A step of length r·sd leaves weights p/q of effective share exp(-r²). Long pushes come from few levels or a kink of
    # x̂0 between modes, where the gradient holds for a fraction of their length; any shorter one is as exact.
    length = (push.flatten(1).norm(dim=1) / kernel.sd)[:, None, None, None]
    push = push * (LONGEST / length.clamp(min=LONGEST))
    run.x = run.x + push
    # log N(x'; μ, sd²) - log N(x'; μ + push, sd²) at x' = μ + push + sd·ε
    cost = (push.double() * (noise.double() / kernel.sd + push.double() / (2 * kernel.sd**2))).flatten(1).sum(1)
    run.base = run.base - cost.cpu()


def _cloud(run: _Run, look: _Look, beta: float, note: str) -> ParticleSet:
    log_w, n = run.log_w, len(run.log_w)
    calls = n * run.levels
    return ParticleSet(
        look.clean, run.condition, None, look.scores, torch.where(log_w.isfinite(), log_w - log_w.logsumexp(0), -math.inf), beta,
        run.log_z + float(log_mean_exp(log_w)), (), run.ancestors, torch.arange(n), torch.arange(n), run.least_ess, calls, calls,
        run.nonfinite, not note, note,
    )  # fmt: skip
