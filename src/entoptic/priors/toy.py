"""Priors with closed forms: Gaussian mixtures and stored photos. Tests compare samplers with them."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Level


def cosine_levels(steps: int) -> list[Level]:
    """Returns steps + 1 variance-preserving levels with α = cos, σ = sin, from nearly pure noise (α = 0.006) to clean."""
    quarter = math.pi / 2
    angles = [quarter * 0.996 * (1 - i / steps) for i in range(steps + 1)]
    return [Level(a / quarter, math.cos(a), math.sin(a)) for a in angles[:-1]] + [Level(0.0, 1.0, 0.0)]


def linear_levels(steps: int, *, train: int = 1000, first: float = 1e-4, last: float = 0.02) -> list[Level]:
    """Returns the levels of the linear-β schedule of `train` steps (Ho et al. 2020), evenly respaced to `steps`.

    Raises:
        UserError: not 1 ≤ steps ≤ train.
    """
    if not 1 <= steps <= train:
        raise UserError(f"a schedule trained with {train} steps can be sampled in 1 to {train}, got {steps}")
    kept = (1 - torch.linspace(first, last, train, dtype=torch.float64)).cumprod(0)  # ᾱ_t
    at = torch.linspace(train - 1, 0, steps, dtype=torch.float64).round().long()
    noisy = [Level(float(i), float(kept[i]) ** 0.5, float(1 - kept[i]) ** 0.5) for i in at.tolist()]
    return [*noisy, Level(0.0, 1.0, 0.0)]


class GaussianMixture:
    """The mixture p(x0) = Σ_k w_k N(x0; μ_k, Σ_k) over states of any shape, as a prior with the exact denoiser.

    Args:
        weights: K, w_k; normalised here.
        means: K×C×H×W, μ_k.
        variances: K×C×H×W, the diagonals of Σ_k.
        linear_schedule: use the linear-β levels of 1000 steps instead of the cosine levels.
        scale: pictures are offset + scale·x0, neither clamped nor resized; C must be 3 to show them.
        offset: see `scale`.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, variances: Tensor, *, linear_schedule: bool = False,
        scale: float = 1.0, offset: float = 0.0,
    ) -> None:  # fmt: skip
        if not (len(weights) == len(means) == len(variances)) or means.shape != variances.shape or means.ndim != 4:
            raise UserError(
                f"a mixture needs weights K and means and variances K×C×H×W, got {tuple(weights.shape)}, "
                f"{tuple(means.shape)}, {tuple(variances.shape)}"
            )
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.means, self.variances = means.double(), variances.double()
        self._levels = linear_levels if linear_schedule else cosine_levels
        self._scale, self._offset = scale, offset
        self.name, self.conditions, self.bounds = "toy:mixture", 0, None
        self.shape = (means.shape[1], means.shape[2], means.shape[3])
        self.device = means.device
        digest = hashlib.sha256(repr((linear_schedule, scale, offset)).encode())
        for part in (self.log_weights, self.means, self.variances):
            digest.update(part.numpy().tobytes())
        self.identity = digest.hexdigest()

    def levels(self, steps: int) -> list[Level]:
        """Returns steps + 1 levels from the noisiest to the clean one."""
        return self._levels(steps)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns E[x0 | x_t = x] = Σ_k r_k(x)·(μ_k + α v_k/(α² v_k + σ²)·(x - α μ_k)), r_k the posterior of component k."""
        a, noise_var = level.alpha, level.sigma**2
        x_B1 = x.double().unsqueeze(1)
        var = a**2 * self.variances + noise_var
        gap = x_B1 - a * self.means
        log_r = self.log_weights - 0.5 * (gap.square() / var + var.log()).flatten(2).sum(2)
        per_component = self.means + a * self.variances / var * gap
        return (log_r.softmax(1)[..., None, None, None] * per_component).sum(1).to(x.dtype)

    def decode(self, x0: Tensor) -> Tensor:
        """Returns offset + scale·x0."""
        return (
            (self._offset + self._scale * x0).float() if x0.dtype != torch.float64 else self._offset + self._scale * x0
        )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws exact samples, count×C×H×W float64."""
        k = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        return self.means[k] + self.variances[k].sqrt() * torch.randn(
            (count, *self.shape), generator=generator, dtype=torch.float64
        )

    def tilted(self, direction: Tensor, beta: float) -> tuple[GaussianMixture, float]:
        """Returns the tilt by exp(β·⟨direction, x0⟩), which is again a mixture, and its log Z."""
        a = direction.double()
        m = (self.means * a).flatten(1).sum(1)
        v = (self.variances * a.square()).flatten(1).sum(1)
        log_w = self.log_weights + beta * m + beta**2 * v / 2
        tilted_mixture = GaussianMixture(
            (log_w - log_w.logsumexp(0)).exp(), self.means + beta * self.variances * a, self.variances,
            linear_schedule=self._levels is linear_levels, scale=self._scale, offset=self._offset,
        )  # fmt: skip
        return tilted_mixture, float(log_w.logsumexp(0))


class StoredPictures:
    """The uniform distribution over M stored pictures, as a prior. Its exact denoiser is a softmax over them.

    Sampling gives back stored pictures only. It serves to test code, and as the prior of retrieval.

    Args:
        pictures: M×3×H×W in [0, 1].
    """

    def __init__(self, pictures: Tensor) -> None:
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not len(pictures):
            raise UserError(f"stored pictures must be M×3×H×W with M ≥ 1, got {tuple(pictures.shape)}")
        self.states = 2 * pictures.float() - 1
        self.name, self.conditions = "toy:stored", 0
        self.bounds: tuple[float, float] | None = (-1.0, 1.0)
        self.shape = (3, pictures.shape[2], pictures.shape[3])
        self.device = pictures.device
        self.identity = hashlib.sha256(self.states.cpu().numpy().tobytes()).hexdigest()

    def levels(self, steps: int) -> list[Level]:
        """Returns steps + 1 levels from the noisiest to the clean one."""
        return cosine_levels(steps)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns E[x0 | x_t = x], B×3×H×W: the average of the stored pictures, weighted by their posterior."""
        flat = self.states.flatten(1).to(x.dtype)
        # ‖x - α·x_m‖² without M×B×C×H×W intermediates; the ‖x‖² that all share is left out.
        near = -(level.alpha**2 * flat.square().sum(1) - 2 * level.alpha * x.flatten(1) @ flat.T)
        share = (near / (2 * max(level.sigma, 1e-12) ** 2)).softmax(1)
        return (share @ flat).reshape(x.shape)

    def decode(self, x0: Tensor) -> Tensor:
        """Returns states in [-1, 1] as pictures in [0, 1]."""
        return ((x0 + 1) / 2).clamp(0, 1)
