"""What a sampler, a guided sampler and an inverter need to know of an image prior.

A prior's state x_t = α_t·x0 + σ_t·ε runs from almost pure noise to a clean x0, which `decode` turns into pictures.
Variance-preserving diffusion (α² + σ² = 1), flow matching (α = 1-t, σ = t) and variance exploding (α = 1) are all of
this form, so one ancestral step, one deterministic step and one exact guidance coefficient serve them all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

# (pictures B×3×h×w, group B int64) -> B scores, differentiable in the pictures; the group tells which unit scores which.
Score = Callable[[Tensor, Tensor], Tensor]


class Level(NamedTuple):
    """One noise level: x_t = alpha·x0 + sigma·ε. `time` is what the network is told."""

    time: float
    alpha: float
    sigma: float


@runtime_checkable
class Prior(Protocol):
    """A generative model of pictures.

    Attributes:
        name: as given to `load_prior`. identity: sha256 of all that its samples depend on.
        shape: C×H×W of a state. bounds: range of x0 to which published samplers clamp, or None.
        conditions: how many conditions there are that it draws from uniformly; 0 where it has none. A condition that is
            drawn is part of the state: the law of the prior is then the mixture over conditions.
        device: where states live.

    A prior whose levels suit chains of many steps better than a map of few may also have `map_levels(steps)`, of the
    form of `levels`, which `generate` then takes.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device

    def levels(self, steps: int) -> list[Level]:
        """steps + 1 levels from the noisiest to the clean one, whose alpha is 1 and sigma 0."""

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x] for states B×C×H×W, differentiable in x. condition: B int64, None for none."""

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures B×3×h×w float32 in [0, 1] of clean states, differentiable."""


class Kernel(NamedTuple):
    """A step t -> s: x_s = from_x·x_t + from_x0·x0hat + sd·ε (+ push·β·∇_x s(decode(x0hat(x_t))) when guided)."""

    from_x: float
    from_x0: float
    sd: float
    push: float


def ancestral(t: Level, s: Level) -> Kernel:
    """The step of ancestral sampling with the posterior's variance (Ho et al. 2020, eq. 7; Kingma et al. 2021, eq. 30).

    `push` is the exact guidance coefficient: for a Gaussian prior of any covariance and a linear score it makes the
    chain's mean that of the tilt exp(β s), whatever the number of steps. From p(x0|x_t) ∝ p exp(β s), the marginal
    means must move by α_t·Cov·β·a at every level; solving for the push gives α_s·σ²_{t|s}/α_t, which is (1-a_t)/√a_t
    where variance is preserved.
    """
    ratio = t.alpha / s.alpha
    step_var = max(t.sigma**2 - ratio**2 * s.sigma**2, 0.0)  # σ²_{t|s}
    return Kernel(
        ratio * s.sigma**2 / t.sigma**2,
        s.alpha * step_var / t.sigma**2,
        (step_var * s.sigma**2 / t.sigma**2) ** 0.5,
        s.alpha * step_var / t.alpha,
    )


def deterministic(t: Level, s: Level) -> Kernel:
    """The step of DDIM with η = 0 (Song et al. 2021, eq. 12), which for flow matching is Euler's.

    `push` by the same argument: (α_s - α_t·σ_s/σ_t)·σ_t²/α_t.
    """
    ratio = s.sigma / t.sigma
    from_x0 = s.alpha - t.alpha * ratio
    return Kernel(ratio, from_x0, 0.0, from_x0 * t.sigma**2 / t.alpha)


def noise_like(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal states, one row from each generator, so that no draw depends on batch mates."""
    return torch.stack([torch.randn(prior.shape, generator=g) for g in generators]).to(prior.device)


def draw_conditions(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor | None:
    """One condition from each generator, uniform; None where the prior has none."""
    if not prior.conditions:
        return None
    return torch.cat([torch.randint(prior.conditions, (1,), generator=g) for g in generators]).to(prior.device)


def map_levels(prior: Prior, steps: int) -> list[Level]:
    """Levels of the few-step map: those of a prior that has `map_levels` for it, else its `levels`."""
    own: Callable[[int], list[Level]] = getattr(prior, "map_levels", prior.levels)
    return own(steps)


def generate(prior: Prior, noise: Tensor, condition: Tensor | None = None, *, steps: int = 6, order: int = 2) -> Tensor:
    """Clean states of the deterministic few-step map G(z): `steps` calls of `denoise`, differentiable.

    z ~ N(0, 1), condition uniform, makes G(z) the law p of the few-step generator, for which noise-space sampling is
    exact. Steps are those of the second-order multistep DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, algorithm 2) in
    λ = log(α/σ): the deterministic step with x0hat extrapolated from the step before; order 1 is
    DDIM's (η = 0). noise: B×C×H×W.
    """
    levels = map_levels(prior, steps)
    x, before = noise * levels[0].sigma, None
    h_before = math.inf
    for t, s in itertools.pairwise(levels):
        k = deterministic(t, s)
        x0 = prior.denoise(x, t, condition)
        h = math.log(s.alpha / s.sigma) - math.log(t.alpha / t.sigma) if s.sigma > 0 else math.inf
        ahead = x0
        if (
            order > 1 and before is not None and math.isfinite(h)
        ):  # the last step, to σ = 0, is infinitely long: first order
            ahead = x0 + (x0 - before) * (h / (2 * h_before))
        x = k.from_x * x + k.from_x0 * ahead
        before, h_before = x0, h
    return x
