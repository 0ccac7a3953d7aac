"""Chains that the gradient of a score guides towards the tilt q ∝ p·exp(β s), and chains under a condition.

Exact guidance needs the gradient of log E[exp(β s(x0)) | x_t]. As in diffusion posterior sampling (Chung et al. 2023),
chains here use β·∇s(decode(x0hat(x_t))) instead, through the denoiser. Each step multiplies it by the coefficient
`Kernel.push`, which makes the guidance exact for Gaussian priors of any covariance and linear scores. In other cases it
is biased. The chains serve as approximate samples, or as proposals of a sampler that corrects them by weights.
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
from entoptic.priors.prior import Kernel, Level, Prior, Score, ancestral, draw_conditions, noise_like

StepRule = Callable[[Level, Level], Kernel]
"""Gives the kernel of the step from one noise level to the next."""
WHOLE_CHAIN = (0.0, 1.0)
"""The window of guidance that acts at every step."""


@dataclass(frozen=True, kw_only=True)
class Chains:
    """The end states of B guided chains, with their cost. No row depends on the other rows of its batch.

    Attributes:
        x0: B×C×H×W clean states; NaN where a chain is not alive.
        condition: B int64 on the prior's device, or None.
        scores: B float64, of the final pictures.
        path_kl: B float64, Σ_t |shift_t|²/(2 sd_t²) along the chain in nats, where shift_t is what the guidance adds to the
            mean of step t. Its average over chains estimates the KL divergence between the path distributions of guided and
            unguided sampler at this number of steps. That is an upper bound on the KL divergence between their final
            states. With the posterior's variance as noise it is a loose bound at few steps: at 20 steps 9 times too large
            with linear-β levels, 5 to 15 % with cosine or flow levels (Gaussians of sd 1 and 0.1).
            It is infinite where a step without noise was pushed beside steps with noise, and NaN for a guided chain of a
            deterministic kernel, whose paths have no KL divergence.
        noisy_path_kl: B float64, the same sum over the steps with noise only; equal to `path_kl` where that is finite.
        alive: B bool; False for a chain whose state or score was not finite at some step.
        calls: evaluations per chain, of `denoise`, of its gradient (`denoise_gradients`) and of `score`.
    """

    x0: Tensor
    condition: Tensor | None
    scores: Tensor
    path_kl: Tensor
    noisy_path_kl: Tensor
    alive: Tensor
    calls: dict[str, int]


def inside(window: tuple[float, float], step: int, steps: int) -> bool:
    """Returns whether a step lies in a window: from ≤ step/steps < to, so that (0, 1) holds every step.

    Args:
        window: (from, to), shares of the steps.
        step: its number, from 0.
        steps: of the chain.
    """
    share = step / steps
    return window[0] <= share + 1e-9 and share < window[1] - 1e-9


def ancestral_at_rest(t: Level, s: Level) -> Kernel:
    """Returns the ancestral step from level t to level s, with no push in the last, noise-free step.

    So `path_kl` is finite. The result is the tilt of the sampler's own distribution rather than of the prior. In a
    direction of variance v, an unguided last step x0 = x0hat(x_t) leaves the variance v·r and moves the mean by β·v·r, with
    r = α² v/(α² v + σ²) at the last noisy level. `ancestral` pushes that step too and moves the mean by β·v. The two
    differ where v is not much larger than σ².
    """
    kernel = ancestral(t, s)
    return kernel if kernel.sd > 0 else kernel._replace(push=0.0)


def guided_chains(
    prior: Prior,
    score: Score,
    beta: Tensor | float,
    generators: Sequence[torch.Generator],
    *,
    steps: int = 100,
    kernel: StepRule = ancestral_at_rest,
    groups: Tensor | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """Samples chains x_s = mean(x_t) + push·β·∇_{x_t} s(decode(x0hat(x_t))) + sd·ε, one from each generator.

    A generator gives its chain's condition, then its first noise, then the noise of its steps. So a chain is the same
    alone and in a batch. If all β are 0, no gradient is computed, only the final pictures are scored, and the chains are
    those of the unguided sampler, bit for bit.

    Args:
        prior: the generative model.
        score: s, differentiable in the pictures.
        beta: β ≥ 0, finite; B values or one for all. Comparable between units only for standardised scores.
        generators: B random generators, on the CPU.
        steps: number of steps, ≥ 1.
        kernel: `ancestral_at_rest`; `ancestral`, whose last step is pushed too; or `deterministic` (DDIM, which is Euler's
            step for a flow prior). The last misses the tilt of the first state, a share of about α_T·sd in a direction of
            standard deviation sd.
        groups: B int64, passed to `score`; None for zeros.
        on_step: called after each step with (done, total).

    Raises:
        UserError: β of another length, negative or not finite; a score of another shape or without a gradient.
    """
    beta_B = _per_chain("β", beta, len(generators))
    if not bool(((beta_B >= 0) & beta_B.isfinite()).all()):
        raise UserError(
            f"β must be finite and at least 0, got {_few(beta_B)}; guide by minus the score for its low end"
        )
    guidance = _Guidance(lambda k: k.push * beta_B, lambda s: s, None)
    return _run_chains(prior, score, guidance, generators, steps, kernel, groups, on_step)


def energy_dps(
    prior: Prior,
    score: Score,
    cap: Tensor | float,
    generators: Sequence[torch.Generator],
    *,
    scale: float = 1.0,
    steps: int = 1000,
    window: tuple[float, float] = WHOLE_CHAIN,
    groups: Tensor | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """Samples chains of the published EnergyDPS sampler (Zhou et al. 2026, arXiv:2605.17504), as a negative control.

    Each ancestral step, the last noise-free one included, adds scale·∇_{x_t} min(s(decode(x0hat)), cap). The scale is
    constant, and x0hat is clamped to the prior's bounds first. The result is no tilt for any β: the implied β depends on
    the number of steps and is largest in the directions of least variance. Only the cap and the clamp limit it. The push of
    the last step makes `path_kl` infinite (unless the cap was reached before it); `noisy_path_kl` covers the other steps.

    The release averages scores over a batch; here each chain has its own gradient and cap. The noise has the posterior's
    variance, also where the published prior has learned another.

    Args:
        prior: the generative model.
        score: s, differentiable in the pictures.
        cap: score at which guidance stops; B values or one for all; infinite for no cap.
        generators: B random generators, on the CPU.
        scale: constant factor of the gradient, ≥ 0.
        steps: number of steps, ≥ 1.
        window: shares of the steps between which gradients are added, see `inside`.
        groups: B int64, passed to `score`; None for zeros.
        on_step: called after each step with (done, total).

    Raises:
        UserError: a cap that is NaN or of another length, or a scale out of range.
    """
    cap_B = _per_chain("cap", cap, len(generators))
    if bool(cap_B.isnan().any()) or not (math.isfinite(scale) and scale >= 0):
        raise UserError(f"cap must be a number and scale finite and at least 0, got {_few(cap_B)} and {scale}")

    def capped(s_B: Tensor) -> Tensor:
        top_B = _cast_like(cap_B, s_B)
        return torch.where(s_B < top_B, s_B, top_B)  # the gradient is exactly 0 once the cap is reached

    constant = torch.full_like(cap_B, scale)
    guidance = _Guidance(lambda k: constant, capped, prior.bounds, window)
    return _run_chains(prior, score, guidance, generators, steps, ancestral, groups, on_step)


@dataclass(frozen=True)
class _Guidance:
    """What a sampler adds to each step: strength(kernel)·∇_{x_t} objective(s(decode(x0hat))).

    Attributes:
        strength: gives B float64 for a step's kernel.
        objective: maps B scores to B values.
        bounds: x0hat is clamped to them; None for no clamp.
        window: shares of the steps between which it adds anything.
    """

    strength: Callable[[Kernel], Tensor]
    objective: Callable[[Tensor], Tensor]
    bounds: tuple[float, float] | None
    window: tuple[float, float] = WHOLE_CHAIN


def _run_chains(
    prior: Prior, score: Score, guidance: _Guidance, generators: Sequence[torch.Generator], steps: int, kernel: StepRule,
    groups: Tensor | None, on_step: Callable[[int, int], None],
) -> Chains:  # fmt: skip
    """Runs the chains of both samplers."""
    if not generators:
        raise UserError("chains need at least one generator, one for each")
    if groups is None:
        groups = torch.zeros(len(generators), dtype=torch.int64)
    if groups.shape != (len(generators),):
        raise UserError(f"groups must be one for each of the {len(generators)} chains, got {tuple(groups.shape)}")
    groups = groups.to(prior.device)
    levels = prior.levels(steps)
    kernels = [kernel(t, s) for t, s in pairwise(levels)]
    condition = draw_conditions(prior, generators)
    x = noise_like(prior, generators) * levels[0].sigma
    alive = torch.ones(len(x), dtype=torch.bool)
    noisy_kl = torch.zeros(len(x), dtype=torch.float64)
    pushed_bare = torch.zeros(len(x), dtype=torch.bool)  # whether a step without noise was pushed
    calls = {"denoise": 0, "denoise_gradients": 0, "score": 0}

    def move(x: Tensor, t: Level, k: Kernel, acts: bool) -> tuple[Tensor, Tensor]:
        """Returns the step's mean, and which chains have finite states and scores (B bool)."""
        calls["denoise"] += 1
        force_B = guidance.strength(k) if acts else torch.zeros(len(x), dtype=torch.float64)
        moved = force_B != 0
        if not bool(moved.any()):
            with torch.no_grad():
                mean = k.from_x * x + k.from_x0 * _within(prior.denoise(x, t, condition), guidance.bounds)
            return mean, _finite(mean)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = _within(prior.denoise(x, t, condition), guidance.bounds)
            s_B = _score_pictures(score, prior.decode(x0), groups)
            if not s_B.requires_grad:
                raise UserError(
                    "a guide needs a score that is differentiable in the pictures; this one has no gradient (was it "
                    "computed under torch.no_grad, or detached?)"
                )
            (gradient,) = torch.autograd.grad(guidance.objective(s_B).sum(), x)
        calls["denoise_gradients"] += 1
        calls["score"] += 1
        with torch.no_grad():
            force = _cast_like(force_B, x)[:, None, None, None]
            shift = torch.where(force == 0, 0.0, force * gradient)
            square_B = shift.flatten(1).float().square().sum(1).cpu().double()
            if k.sd > 0:
                noisy_kl.add_(square_B / (2 * k.sd**2))
            else:
                pushed_bare.logical_or_(square_B != 0)
            mean = k.from_x * x + k.from_x0 * x0 + shift
            return mean, _finite(mean) & (s_B.isfinite().cpu() | ~moved)

    with torch.no_grad():
        for done, (t, k) in enumerate(zip(levels, kernels), 1):
            x, finite = move(x, t, k, inside(guidance.window, done - 1, len(kernels)))
            if k.sd > 0:
                x = x + k.sd * noise_like(prior, generators)
            alive &= finite
            if not bool(alive.all()):  # a lost chain goes on as zeros, so that no NaN enters the batch
                x = torch.where(alive.to(x.device)[:, None, None, None], x, 0.0)
            on_step(done, len(kernels))
        scores = _score_pictures(score, prior.decode(x), groups).cpu().double()
    calls["score"] += 1
    alive &= scores.isfinite()
    lost = ~alive
    has_law = any(k.sd > 0 for k in kernels)
    path_kl = noisy_kl.masked_fill(pushed_bare, math.inf if has_law else math.nan)
    return Chains(
        x0=x.masked_fill(lost.to(x.device)[:, None, None, None], math.nan),
        condition=condition,
        scores=scores.masked_fill(lost, math.nan),
        path_kl=path_kl.masked_fill(lost, math.nan),
        noisy_path_kl=noisy_kl.masked_fill(lost, math.nan),
        alive=alive,
        calls=calls,
    )


def _score_pictures(score: Score, pictures: Tensor, groups: Tensor) -> Tensor:
    """Returns the score of each picture, B.

    Raises:
        UserError: not one number per picture.
    """
    s_B = score(pictures, groups)
    if s_B.shape != groups.shape:
        raise UserError(f"a score must give one number per picture, ({len(groups)},); it gave {tuple(s_B.shape)}")
    return s_B


def _finite(x: Tensor) -> Tensor:
    """Returns which rows are finite, B bool on the CPU."""
    return x.isfinite().flatten(1).all(1).cpu()


def _within(x0: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Returns x0 clamped to the bounds, if there are any."""
    return x0 if bounds is None else x0.clamp(*bounds)


def _per_chain(name: str, value: Tensor | float, count: int) -> Tensor:
    """Returns one value for each chain, B float64 on the CPU.

    Raises:
        UserError: another number of values.
    """
    given = torch.as_tensor(value).detach().cpu().double()
    if given.ndim and given.shape != (count,):
        raise UserError(f"{name} must be one number, or one for each of the {count} chains; got {tuple(given.shape)}")
    return given.expand(count).clone()


def _cast_like(values: Tensor, like: Tensor) -> Tensor:
    """Returns the values with the dtype and on the device of `like`. The cast comes first: not every device has float64."""
    return values.to(like.dtype).to(like.device)


def _few(values: Tensor) -> str:
    return ", ".join(f"{v:g}" for v in values[:4].tolist()) + (" …" if len(values) > 4 else "")


class ConditionedChains(NamedTuple):
    """The end states of chains under a condition.

    Attributes:
        x0: B×C×H×W clean states.
        path_kl: B float64, KL contributions along the chains in nats; their average is an upper bound on KL(q‖p).
    """

    x0: Tensor
    path_kl: Tensor


@torch.no_grad()
def conditioned_chains(
    prior: Prior, other: Prior, generators: Sequence[torch.Generator], *, steps: int = 50
) -> ConditionedChains:
    """Samples ancestral chains of `other`, a conditioned version of the prior, one from each generator.

    Both samplers start from the same noise and take steps of the same variance. So at each step their means differ by
    shift_t = from_x0·(x0hat_other - x0hat_prior), and the KL divergence between their paths is E Σ_t |shift_t|²/(2 sd_t²). It
    is an upper bound on the KL divergence between their clean states (data processing inequality). The last step has no
    noise, so any difference there would have infinite KL. Both take the prior's own step there, which adds none.

    A generator gives its chain's condition, then its first noise, then the noise of its steps, as in `guided_chains`. Chains
    of equal generators differ only by `other`. If `other` is `prior`, nothing is evaluated twice.

    Args:
        prior: the unconditioned model p.
        other: the conditioned model q, for example with a prompt; same states and levels as `prior`.
        generators: B random generators, on the CPU.
        steps: number of steps, ≥ 1.
    """
    condition = draw_conditions(prior, generators)
    levels = prior.levels(steps)
    x = noise_like(prior, generators) * levels[0].sigma
    path_kl = torch.zeros(len(x), dtype=torch.float64)
    for t, s in pairwise(levels):
        k, own = ancestral(t, s), prior.denoise(x, t, condition)
        if k.sd == 0:
            return ConditionedChains(k.from_x * x + k.from_x0 * own, path_kl)
        x0 = own if other is prior else other.denoise(x, t, condition)
        shift = k.from_x0 * (x0 - own)
        path_kl += shift.flatten(1).double().square().sum(1).cpu() / (2 * k.sd**2)
        x = k.from_x * x + k.from_x0 * x0 + k.sd * noise_like(prior, generators)
    return ConditionedChains(x, path_kl)
