"""Sampling chains that the gradient of a score guides towards the tilt q ∝ p·exp(β s).

The exact guide would be the gradient of log E[exp(β s(x0)) | x_t]. Like diffusion posterior sampling (Chung et al. 2023)
chains here follow β·∇s(decode(x0hat(x_t))) instead, through the denoiser, each step times the coefficient `Kernel.push`
that makes this exact for Gaussian priors of any covariance and linear scores. Elsewhere it is biased: use the chains as
they are when approximate is enough, or as proposals of a sampler that corrects them by weights.
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

Step = Callable[[Level, Level], Kernel]


@dataclass(frozen=True, kw_only=True)
class Chains:
    """Where B chains ended, and what it took. Nothing in a chain's row depends on the others of its batch.

    Attributes:
        x0: B×C×H×W clean states; NaN where a chain is not alive. condition: B int64 on the prior's device, or None.
        scores: B float64, of the final pictures.
        path_kl: B float64, nats: Σ_t |shift_t|²/(2 sd_t²) along the chain, shift_t being what the guide added to the
            mean. Its mean over chains estimates the KL divergence between the laws of guided and unguided paths, which
            is at least that between their final states (both as this sampler makes them, at this number of steps).
            With the noise of the posterior's variance it overstates the latter at few steps: at 20, 9-fold with
            linear-β levels, by 5 to 15 % with cosine or flow levels (Gaussians of sd 1 and .1).
            Infinite where a step without noise was pushed beside steps with noise; NaN for a guided chain of a
            deterministic kernel, whose paths have no such divergence.
        noisy_path_kl: B float64, the same over the steps with noise alone; `path_kl` where that is finite.
        alive: B bool; false for a chain whose state or score stopped being finite.
        calls: evaluations per chain of `denoise` (with `denoise_gradients`: how many of them were differentiated)
            and of `score`.
    """

    x0: Tensor
    condition: Tensor | None
    scores: Tensor
    path_kl: Tensor
    noisy_path_kl: Tensor
    alive: Tensor
    calls: dict[str, int]


def ancestral_at_rest(t: Level, s: Level) -> Kernel:
    """The ancestral step, but its last, noise-free one is not pushed, so that `path_kl` is finite.

    It suits the sampler's own law rather than the prior's: in a direction of variance v an unguided last step
    x0 = x0hat(x_t) leaves the variance v·r and moves the mean by β·v·r, with r = α² v/(α² v + σ²) of the last noisy
    level. `ancestral` pushes that step too and moves the mean by β·v; the two differ where v is not well above σ².
    """
    kernel = ancestral(t, s)
    return kernel if kernel.sd > 0 else kernel._replace(push=0.0)


def guided(
    prior: Prior,
    score: Score,
    beta: Tensor | float,
    generators: Sequence[torch.Generator],
    *,
    steps: int = 100,
    kernel: Step = ancestral_at_rest,
    groups: Tensor | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """Chains x_s = mean(x_t) + push·β·∇_{x_t} s(decode(x0hat(x_t))) + sd·ε, one from each generator.

    A generator gives its chain's condition, then its first noise, then the noise of its steps, so a chain is the same
    alone and in a batch. With β = 0 for all, nothing is differentiated, only final pictures are scored, and the chains
    are the unguided sampler's to the bit.

    Args:
        beta: B or one for all, ≥ 0, finite. Comparable between units only for standardised scores.
        kernel: `ancestral_at_rest`, `ancestral` (its last step is pushed too), or `deterministic` (DDIM; Euler for a
            flow prior), which misses the tilt of the first state, a share of about α_T·sd in directions of that sd.
        groups: B int64, handed to `score`; zeros if None. on_step: told (done, total).

    Raises:
        UserError: β of another length, negative or not finite; a score of another shape or without a gradient.
    """
    beta_B = _per_chain("β", beta, len(generators))
    if not bool(((beta_B >= 0) & beta_B.isfinite()).all()):
        raise UserError(
            f"β must be finite and at least 0, got {_few(beta_B)}; guide by minus the score for its low end"
        )
    guide = _Guide(lambda k: k.push * beta_B, lambda s: s, None)
    return _run(prior, score, guide, generators, steps, kernel, groups, on_step)


def energy_dps(
    prior: Prior,
    score: Score,
    cap: Tensor | float,
    generators: Sequence[torch.Generator],
    *,
    scale: float = 1.0,
    steps: int = 1000,
    groups: Tensor | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """The published EnergyDPS sampler (Zhou et al. 2026, arXiv:2605.17504), kept as a negative control.

    Each ancestral step, the last noise-free one included, adds scale·∇_{x_t} min(s(decode(x0hat)), cap) with a constant
    scale; x0hat is clamped to the prior's bounds first. This is the tilt for no β: the implied β depends on the number
    of steps and is highest in the directions of least variance; only cap and clamp hold it. Pushing the last step makes
    `path_kl` infinite (unless the cap was reached by then); `noisy_path_kl` has the other steps.

    Unlike the release, which averages scores over a batch, each chain has its own gradient and cap. The noise has the
    posterior's variance also where the published prior has learned another.

    Args:
        cap: B or one for all; infinite for none. Others as in `guided`.
    """
    cap_B = _per_chain("cap", cap, len(generators))
    if bool(cap_B.isnan().any()) or not (math.isfinite(scale) and scale >= 0):
        raise UserError(f"cap must be a number and scale finite and at least 0, got {_few(cap_B)} and {scale}")

    def capped(s_B: Tensor) -> Tensor:
        top_B = _as(cap_B, s_B)
        return torch.where(s_B < top_B, s_B, top_B)  # exactly no gradient once the cap is reached

    constant = torch.full_like(cap_B, scale)
    guide = _Guide(lambda k: constant, capped, prior.bounds)
    return _run(prior, score, guide, generators, steps, ancestral, groups, on_step)


@dataclass(frozen=True)
class _Guide:
    """Each step adds strength(kernel)·∇_{x_t} objective(s), x0hat clamped to the bounds."""

    strength: Callable[[Kernel], Tensor]  # B float64
    objective: Callable[[Tensor], Tensor]  # B scores -> B
    bounds: tuple[float, float] | None


def _run(
    prior: Prior, score: Score, guide: _Guide, generators: Sequence[torch.Generator], steps: int, kernel: Step,
    groups: Tensor | None, on_step: Callable[[int, int], None],
) -> Chains:  # fmt: skip
    """The loop of both samplers."""
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

    def move(x: Tensor, t: Level, k: Kernel) -> tuple[Tensor, Tensor]:
        """The step's mean, and which chains still have finite states and scores."""
        calls["denoise"] += 1
        force_B = guide.strength(k)
        moved = force_B != 0
        if not bool(moved.any()):
            with torch.no_grad():
                mean = k.from_x * x + k.from_x0 * _within(prior.denoise(x, t, condition), guide.bounds)
            return mean, _finite(mean)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = _within(prior.denoise(x, t, condition), guide.bounds)
            s_B = _scored(score, prior.decode(x0), groups)
            if not s_B.requires_grad:
                raise UserError(
                    "a guide needs a score that is differentiable in the pictures; this one has no gradient (was it "
                    "computed under torch.no_grad, or detached?)"
                )
            (slope,) = torch.autograd.grad(guide.objective(s_B).sum(), x)
        calls["denoise_gradients"] += 1
        calls["score"] += 1
        with torch.no_grad():
            force = _as(force_B, x)[:, None, None, None]
            shift = torch.where(force == 0, 0.0, force * slope)
            square_B = shift.flatten(1).float().square().sum(1).cpu().double()
            if k.sd > 0:
                noisy_kl.add_(square_B / (2 * k.sd**2))
            else:
                pushed_bare.logical_or_(square_B != 0)
            mean = k.from_x * x + k.from_x0 * x0 + shift
            return mean, _finite(mean) & (s_B.isfinite().cpu() | ~moved)

    with torch.no_grad():
        for done, (t, k) in enumerate(zip(levels, kernels), 1):
            x, finite = move(x, t, k)
            if k.sd > 0:
                x = x + k.sd * noise_like(prior, generators)
            alive &= finite
            if not bool(alive.all()):  # the dead go on as zeros, which upset no kernel
                x = torch.where(alive.to(x.device)[:, None, None, None], x, 0.0)
            on_step(done, len(kernels))
        scores = _scored(score, prior.decode(x), groups).cpu().double()
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


def _scored(score: Score, pictures: Tensor, groups: Tensor) -> Tensor:
    s_B = score(pictures, groups)
    if s_B.shape != groups.shape:
        raise UserError(f"a score must give one number per picture, ({len(groups)},); it gave {tuple(s_B.shape)}")
    return s_B


def _finite(x: Tensor) -> Tensor:
    return x.isfinite().flatten(1).all(1).cpu()


def _within(x0: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return x0 if bounds is None else x0.clamp(*bounds)


def _per_chain(name: str, value: Tensor | float, count: int) -> Tensor:
    """B float64 on the CPU, where the algebra of weights lives."""
    given = torch.as_tensor(value).detach().cpu().double()
    if given.ndim and given.shape != (count,):
        raise UserError(f"{name} must be one number, or one for each of the {count} chains; got {tuple(given.shape)}")
    return given.expand(count).clone()


def _as(values: Tensor, like: Tensor) -> Tensor:
    """Of the dtype and on the device of `like`; cast first, as not every device has float64."""
    return values.to(like.dtype).to(like.device)


def _few(values: Tensor) -> str:
    return ", ".join(f"{v:g}" for v in values[:4].tolist()) + (" …" if len(values) > 4 else "")


class ConditionedChains(NamedTuple):
    """x0: B×C×H×W clean states. path_kl: B float64, nats along each chain; their mean bounds KL(q‖p) from above."""

    x0: Tensor
    path_kl: Tensor


@torch.no_grad()
def conditioned_chains(
    prior: Prior, other: Prior, generators: Sequence[torch.Generator], *, steps: int = 50
) -> ConditionedChains:
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
            return ConditionedChains(k.from_x * x + k.from_x0 * own, path_kl)
        x0 = own if other is prior else other.denoise(x, t, condition)
        shift = k.from_x0 * (x0 - own)
        path_kl += shift.flatten(1).double().square().sum(1).cpu() / (2 * k.sd**2)
        x = k.from_x * x + k.from_x0 * x0 + k.sd * noise_like(prior, generators)
    return ConditionedChains(x, path_kl)
