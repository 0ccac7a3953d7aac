"""What samplers, guided samplers and inverters need of an image prior.

A prior's state x_t = α_t·x0 + σ_t·ε goes from nearly pure noise to a clean state x0, which `decode` turns into a
picture. Variance-preserving diffusion (α² + σ² = 1), flow matching (α = 1-t, σ = t) and variance-exploding diffusion
(α = 1) all have this form. So one ancestral step, one deterministic step and one guidance coefficient serve them all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

# (pictures B×3×h×w, group B int64) -> B scores, differentiable in the pictures. The group selects the unit of each row.
Score = Callable[[Tensor, Tensor], Tensor]


class Level(NamedTuple):
    """One noise level: x_t = alpha·x0 + sigma·ε.

    Attributes:
        time: the time that the network is given.
        alpha: α_t, ≥ 0.
        sigma: σ_t, ≥ 0.
    """

    time: float
    alpha: float
    sigma: float


@runtime_checkable
class Prior(Protocol):
    """A generative model of pictures.

    Attributes:
        name: as given to `load_prior`.
        identity: sha256 of everything that its samples depend on.
        shape: C×H×W of a state.
        bounds: range of x0 to which published samplers clamp, or None.
        conditions: number of conditions, drawn uniformly; 0 for none. A drawn condition is part of the state, so the
            prior's distribution is the mixture over conditions.
        device: where states live.

    A prior may also have `map_levels(steps)`, of the same form as `levels`. `generate` uses it instead of `levels`, where
    other levels suit a map of few steps better than a chain of many.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device

    def levels(self, steps: int) -> list[Level]:
        """Returns steps + 1 levels from the noisiest to the clean one (alpha 1, sigma 0)."""

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns E[x0 | x_t = x] of states B×C×H×W, differentiable in x; condition is B int64, or None for none."""

    def decode(self, x0: Tensor) -> Tensor:
        """Returns the pictures B×3×h×w, float32 in [0, 1], of clean states; differentiable."""


class Kernel(NamedTuple):
    """A step t -> s: x_s = from_x·x_t + from_x0·x0hat + sd·ε. Guided steps add push·β·∇_x s(decode(x0hat(x_t))).

    Attributes:
        from_x: factor of x_t.
        from_x0: factor of x0hat.
        sd: standard deviation of the noise, ≥ 0.
        push: guidance coefficient that is exact for Gaussian priors and linear scores.
    """

    from_x: float
    from_x0: float
    sd: float
    push: float


def ancestral(t: Level, s: Level) -> Kernel:
    """Returns the step of ancestral sampling with the posterior's variance (Ho et al. 2020, eq. 7; Kingma et al. 2021, eq. 30).

    With `push`, the mean of the chain is exactly that of the tilt exp(β s) for a Gaussian prior of any covariance, a linear
    score a·x0 and any number of steps. Derivation: p(x0|x_t) ∝ p exp(β s) requires that the marginal mean at level t moves
    by α_t·Cov·β·a. Solved for the push this is α_s·σ²_{t|s}/α_t, which is (1-a_t)/√a_t for variance-preserving diffusion.
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
    """Returns the step of DDIM with η = 0 (Song et al. 2021, eq. 12), which is Euler's step for flow matching.

    `push` follows by the same derivation as in `ancestral`: (α_s - α_t·σ_s/σ_t)·σ_t²/α_t.
    """
    ratio = s.sigma / t.sigma
    from_x0 = s.alpha - t.alpha * ratio
    return Kernel(ratio, from_x0, 0.0, from_x0 * t.sigma**2 / t.alpha)


def noise_like(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor:
    """Draws standard normal states, one row from each generator, so that no row depends on the others: B×C×H×W.

    Args:
        prior: gives the shape.
        generators: one for each row.
    """
    return torch.stack([torch.randn(prior.shape, generator=g) for g in generators]).to(prior.device)


def draw_conditions(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor | None:
    """Draws one uniform condition from each generator, B int64; returns None where the prior has no conditions.

    Args:
        prior: gives the number of conditions.
        generators: one for each row.
    """
    if not prior.conditions:
        return None
    return torch.cat([torch.randint(prior.conditions, (1,), generator=g) for g in generators]).to(prior.device)


def map_levels(prior: Prior, steps: int) -> list[Level]:
    """Returns the levels of the few-step map: the prior's `map_levels` if it has that, else its `levels`."""
    own: Callable[[int], list[Level]] = getattr(prior, "map_levels", prior.levels)
    return own(steps)


def map_steps(prior: Prior, steps: int) -> int:
    """Returns the calls of `denoise` that `generate` takes: `steps`, or fewer where the prior's map has fewer."""
    return len(map_levels(prior, steps)) - 1


def generate(prior: Prior, noise: Tensor, condition: Tensor | None = None, *, steps: int = 6, order: int = 2) -> Tensor:
    """Returns the clean states of the deterministic few-step map G(z), B×C×H×W, differentiable.

    With z ~ N(0, 1) and a uniform condition, the distribution of G(z) is the prior p that noise-space sampling tilts
    exactly. The steps are those of the second-order multistep DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, algorithm 2)
    in λ = log(α/σ): deterministic steps, with x0hat extrapolated from the step before.

    Args:
        prior: the generative model.
        noise: z, B×C×H×W.
        condition: B int64, or None.
        steps: calls of `denoise`, ≥ 1.
        order: 2, or 1 for DDIM with η = 0.
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
