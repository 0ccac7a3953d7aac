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
from typing import NamedTuple

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.noise_space import checked
from entoptic.priors.particles import Cloud, effective, log_mean_exp, systematic
from entoptic.priors.prior import Level, Prior, Score, ancestral, draw_conditions, noise_like

# A twist may cost this share of the particles at one level before it is weakened there.
KEPT = 0.8
TWISTS = 33  # strengths that are tried


class _Look(NamedTuple):
    """What is seen of states B at one level. clean: x̂0. scores: B float64, -inf where not finite. push: ∇_x s, B."""

    clean: Tensor
    scores: Tensor
    gradient: Tensor
    nonfinite: Tensor


def twisted_smc(
    prior: Prior, score: Score, beta: float, generators: Sequence[torch.Generator], *, particles: int = 16,
    steps: int = 100, ess: float = 0.5, batch: int = 64, on_step: Callable[[int, int], None] | None = None,
) -> list[Cloud]:  # fmt: skip
    """N weighted clean states of the tilt of the `steps`-step ancestral sampler by exp(β s).

    Each generator is one independent run; runs share batches and nothing else. It draws the noise of N particles
    (noise_like), their conditions, then for each level its noise and, where it resamples, one number. β = 0 gives the
    unguided sampler's states unchanged. A run makes particles·steps calls of the network and as many of the score.

    Args:
        score: differentiable in the pictures; where it does not depend on them there is no push.
        beta: ≥ 0. ess: in (0, 1]; resample below this share of effective particles.
        batch: the most states that are denoised and scored at once, with gradients.
        on_step: told the levels done and their number.

    Returns:
        One cloud per generator, weighted and not resampled at the end. `reached` is False where more than half of the
        scores at some level were not finite; its states are the x̂0 of that level.

    Raises:
        UserError: arguments out of range, or a score that is not one number per picture.
    """
    if particles < 1 or steps < 1 or batch < 1 or not 0 <= beta < math.inf or not 0 < ess <= 1:
        raise UserError(
            "twisted SMC needs particles, steps and batch of at least 1, a finite β of at least 0 and an ess between 0 "
            f"and 1, got {particles}, {steps}, {batch}, {beta} and {ess}"
        )
    n, levels = particles, prior.levels(steps)
    running = list(range(len(generators)))  # groups; row i of what follows belongs to running[i]
    rows = [g for generator in generators for g in [generator] * n]
    x, condition = noise_like(prior, rows) * levels[0].sigma, draw_conditions(prior, rows)
    shape = (len(running), n)
    log_w = torch.zeros(shape, dtype=torch.float64)  # without the twist, which is in `log_twist`
    log_twist, log_z = torch.zeros_like(log_w), torch.zeros(shape[0], dtype=torch.float64)
    least = torch.full(shape[:1], float(n), dtype=torch.float64)
    lost = torch.zeros(shape[:1], dtype=torch.int64)
    ancestors = torch.arange(n).expand(shape).clone()
    clouds: dict[int, Cloud] = {}
    for i, (t, s) in enumerate(zip(levels, levels[1:])):
        last = i == steps - 1
        group = torch.tensor(running, device=x.device).repeat_interleave(n)
        look = _look(prior, score, x, t, condition, group, batch, with_gradient=beta > 0 and not last)
        scores, copies = look.scores.reshape(-1, n), torch.arange(n).expand(len(running), n)
        lost += look.nonfinite.reshape(-1, n).sum(1)
        # The last step has no noise and gives x0 = x̂0, so ψ_0 is known here, and its push would cost infinite nats.
        old = log_w + log_twist
        share = torch.ones(len(running), dtype=torch.float64)
        if not last:
            share = _strength(old, log_w, _tilt(scores, beta), floor=i / steps)
        log_twist = _tilt(scores, share[:, None] * beta)
        now = log_w + log_twist
        alive = scores.isfinite().sum(1)
        failed = 2 * alive < n
        size = effective(now)
        least = torch.minimum(least, size)
        if last or bool(failed.any()):
            total = log_mean_exp(now)
            for row, name in enumerate(running):
                if not (last or failed[row]):
                    continue
                mine = slice(row * n, (row + 1) * n)
                note = ""
                if failed[row]:
                    note = f"{n - int(alive[row])} of {n} scores at level {i + 1} of {steps} were not finite"
                clouds[name] = Cloud(
                    look.clean[mine], None if condition is None else condition[mine], None, scores[row],
                    (now[row] - now[row].logsumexp(0)).nan_to_num(-math.inf, neginf=-math.inf), beta,
                    float(log_z[row] + total[row]), (), ancestors[row], copies[row], float(least[row]),
                    n * (i + 1), n * (i + 1), int(lost[row]), not note, note,
                )  # fmt: skip
