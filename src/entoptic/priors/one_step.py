"""Networks distilled to few steps, as priors: one step from pure noise to a picture.

Such a network is no denoiser. A consistency function (Song et al. 2023; Luo et al. 2023) gives the end of the
deterministic path through its state, and an adversarially distilled one (Sauer et al. 2023) gives any state that a
discriminator takes for real. Neither is E[x0 | x_t], so chains and guidance by levels have no meaning for them. The map
from pure noise to a picture is what they were made for. It is deterministic, and sampling in noise space is exact for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Level

_SIGMA_DATA = 0.5
"""σ_data of the boundary condition of consistency functions (Luo et al. 2023, appendix)."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a network was distilled.

    Attributes:
        what: for people, such as "a consistency function".
        scaling: factor of the time in the boundary condition of a consistency function; None for other distillations.
    """

    what: str
    scaling: float | None = None

    def finish(self, x: Tensor, x0: Tensor, time: float) -> Tensor:
        """Returns the clean state from a state and the estimate that the network's output stands for.

        A consistency function is c_skip·x + c_out·x0 with c_skip = σ²/(s² + σ²) and c_out = s/√(s² + σ²) at the scaled
        time s, so that it is the identity at time 0.

        Args:
            x: B×C×H×W.
            x0: B×C×H×W, the estimate of the clean state.
            time: the network time of x.
        """
        if self.scaling is None:
            return x0
        s = time * self.scaling
        total = s**2 + _SIGMA_DATA**2
        return _SIGMA_DATA**2 / total * x + s / total**0.5 * x0


def read_distillation(scheduler: Any) -> Distillation | None:
    """Returns how the network of a text pipeline was distilled, or None for a network that was not.

    No config says so in words. Consistency models come with their own scheduler. Adversarially distilled ones (SD-Turbo,
    SDXL-Turbo) come with Euler's scheduler, trailing times and noise prediction, which undistilled ones do not have.

    Args:
        scheduler: of diffusers.

    Raises:
        UserError: a distillation whose map from noise is not known here.
    """
    config: Mapping[str, Any] = scheduler.config
    kind, target = type(scheduler).__name__, config.get("prediction_type", "epsilon")
    if kind == "TCDScheduler":
        raise UserError(
            "TCDScheduler stands for a network distilled by trajectory consistency, whose map from noise is not known here; "
            "give the undistilled pipeline, or one with LCMScheduler"
        )
    if kind == "LCMScheduler":
        return Distillation(what="a consistency function", scaling=float(config.get("timestep_scaling", 10.0)))
    euler = kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
    if euler and target == "epsilon" and config.get("timestep_spacing") == "trailing":
        return Distillation(what=f"distilled to few steps ({kind} with trailing times)")
    return None


def guidance_embedding(guidance: float, width: int) -> Tensor:
    """Returns the guidance weight as networks with distilled guidance read it (Meng et al. 2023), 1×width.

    It is a sinusoidal embedding of 1000·(guidance - 1), because the paper's weight is 0 for no guidance.

    Args:
        guidance: weight, 1 for none.
        width: numbers in the embedding, ≥ 4.
    """
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - 1))
    angles = 1000 * (guidance - 1) * rates
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(width - 2 * half)])[None].float()


@dataclass(eq=False)
class OneStepPrior:
    """A network that turns pure noise into a picture in one step (see `Prior` for the first six fields).

    Attributes:
        distillation: how it was made.
        level: the only level, the noisiest one.
        generator: states B×C×H×W at that level to clean states.
        pictures: clean states to RGB in [0, 1].
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device
    distillation: Distillation
    level: Level
    generator: Callable[[Tensor], Tensor]
    pictures: Callable[[Tensor], Tensor]

    def levels(self, steps: int) -> list[Level]:
        """Refuses chains: there are no levels on the way.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.name} {self.no_chains}")

    def map_levels(self, steps: int) -> list[Level]:
        """Returns the two levels of the map from noise, whatever number of steps is asked for."""
        return [self.level, Level(0.0, 1.0, 0.0)]

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns the clean states that the network makes of states at its only level, B×C×H×W; not E[x0 | x_t].

        Args:
            x: B×C×H×W.
            level: the noisiest one.
            condition: not used.

        Raises:
            UserError: another level.
        """
        if level != self.level:
            raise UserError(f"{self.name} {self.no_chains}")
        return self.generator(x.float()).to(x.dtype)

    def decode(self, x0: Tensor) -> Tensor:
        """Returns the pictures of clean states."""
        return self.pictures(x0)

    @property
    def no_chains(self) -> str:
        """Why chains are refused, and what is not. It completes "PRIOR …"."""
        return (
            f"is {self.distillation.what}: it makes a picture of pure noise in one step and is no denoiser at the levels on "
            "the way, which chains, prompt searches and inverters need; klsc and best-of take it, and the others take the "
            "pipeline that it was distilled from"
        )
