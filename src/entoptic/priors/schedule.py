"""Noise schedules of trained networks: their levels, and E[x0 | x_t] from the network's output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, nearest
from entoptic.priors.prior import Level

TARGETS = ("epsilon", "v_prediction", "sample")
"""What a network trained with α² + σ² = 1 may predict: ε, v or x0."""

_LEAST_KEPT = 2.0**-24
"""Minimum of ᾱ, for schedules that end in pure noise. At α = 0 there is no guidance coefficient; α = 2⁻¹² is close enough."""

_NOISIEST = 0.999
"""σ of the first level of flow matching; below 1 for the same reason."""

MAP_ENDS = (160.0, 0.1)
"""σ/α of the first and last noisy levels of a diffusion's few-step map.

The first is about that of the usual linear β at its noisiest. Six steps reach the last one with small enough gaps: a
smaller value would gain less in fine detail than the wider gaps would cost.
"""


@dataclass(frozen=True)
class Diffusion:
    """A variance-preserving schedule, x_t = √ᾱ_t·x0 + √(1-ᾱ_t)·ε at t = 0 … T-1 (Ho et al. 2020).

    Attributes:
        kept: ᾱ_t, T numbers, descending (the field names are part of a prior's identity).
        target: what the network predicts, one of `TARGETS`.

    Raises:
        UserError: an unknown target, or a noise-predicting network with a level of pure noise.
    """

    kept: tuple[float, ...]
    target: str

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UserError(
                f'prediction type "{self.target}" is not known here; expected one of {", ".join(TARGETS)}'
                f"{nearest(str(self.target), TARGETS)}"
            )
        if self.target == "epsilon" and self.kept[-1] < _LEAST_KEPT:
            raise UserError(
                "this schedule ends in pure noise, where a network that predicts the noise gives no information on the "
                "picture; its scheduler's prediction_type must be v_prediction or sample, or rescale_betas_zero_snr off"
            )

    def levels(self, steps: int) -> list[Level]:
        """Returns `steps` of the T levels and the clean one, evenly spaced from the noisiest.

        The noisiest level comes first, because sampling starts from pure noise (Lin et al. 2023).

        Raises:
            UserError: not 1 ≤ steps ≤ T.
        """
        train = len(self.kept)
        if not 1 <= steps <= train:
            raise UserError(f"a schedule trained with {train} steps can be sampled in 1 to {train}, got {steps}")
        return self._at([round(train * (steps - i) / steps) - 1 for i in range(steps)])

    def map_levels(self, steps: int) -> list[Level]:
        """Returns `steps` of the T levels, spaced as evenly in log(α/σ) as possible, and the clean one.

        They are for `generate`, whose steps are exact where the estimate of x0 is linear in log(α/σ). Evenly spaced times of a
        linear β would leave all of σ < α/2 to the last step, which is of first order (docs/decisions/015). Ancestral chains
        have many steps and use `levels`.

        Raises:
            UserError: not 1 ≤ steps ≤ T.
        """
        train = len(self.kept)
        if not 1 <= steps <= train:
            raise UserError(f"the few-step map of a schedule trained with {train} steps has 1 to {train}, got {steps}")
        log_snr = [0.5 * math.log(k / (1 - k)) for k in (max(k, _LEAST_KEPT) for k in self.kept)]  # log(α/σ)
        first, last = (-math.log(end) for end in MAP_ENDS)
        first, last = max(first, log_snr[-1]), min(last, log_snr[0])
        times: list[int] = []
        for i in range(steps):
            wanted = first + (last - first) * i / max(steps - 1, 1)
            closest = min(range(train), key=lambda t: abs(log_snr[t] - wanted))
            # Distinct times, with enough of them left for the remaining steps.
            times.append(max(min(closest, times[-1] - 1 if times else train - 1), steps - 1 - i))
        return self._at(times)

    def _at(self, times: Sequence[int]) -> list[Level]:
        """Returns the levels at these times, and the clean one."""
        kept = [max(self.kept[t], _LEAST_KEPT) for t in times]
        return [Level(float(t), k**0.5, (1 - k) ** 0.5) for t, k in zip(times, kept)] + [Level(0.0, 1.0, 0.0)]

    def clean(self, x: Tensor, output: Tensor, level: Level) -> Tensor:
        """Returns E[x0 | x_t] from the output: from ε, from v = α·ε - σ·x0 (Salimans & Ho 2022), or the output itself.

        Args:
            x: B×C×H×W, x_t.
            output: B×C×H×W, the network's output.
            level: the level of x.
        """
        if self.target == "epsilon":
            return (x - level.sigma * output) / level.alpha
        if self.target == "v_prediction":
            return level.alpha * x - level.sigma * output
        return output

    def at(self, u_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (times, α, σ) for training, each B.

        Args:
            u_B: B in [0, 1), position between clean (0) and noise (1).
        """
        place = (u_B * len(self.kept)).long().clamp(0, len(self.kept) - 1)
        kept = torch.tensor(self.kept, dtype=torch.float64, device=u_B.device)[place].clamp_min(_LEAST_KEPT)
        return place.float(), kept.sqrt().float(), (1 - kept).sqrt().float()

    def training_target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns what the network is trained to predict, B×C×H×W; alpha and sigma broadcast to that shape."""
        if self.target == "epsilon":
            return noise
        return alpha * noise - sigma * x0 if self.target == "v_prediction" else x0


@dataclass(frozen=True)
class Flow:
    """Flow matching: x_t = (1-t)·x0 + t·ε, and the network predicts the velocity ε - x0 (Lipman et al. 2023).

    Attributes:
        shift: levels are evenly spaced in t/(shift + (1-shift)·t), so a shift above 1 gives more noisy ones (Esser et al.
            2024, eq. 23); > 0.
        train: the network is given the time train·t.

    Raises:
        UserError: a shift ≤ 0.
    """

    shift: float = 1.0
    train: int = 1000

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UserError(f"the shift of a flow's levels must be above 0 (1 leaves them even), got {self.shift}")

    def levels(self, steps: int) -> list[Level]:
        """Returns steps + 1 levels from t = 0.999 to the clean one.

        Raises:
            UserError: steps < 1.
        """
        if steps < 1:
            raise UserError(f"a flow is sampled in 1 step or more, got {steps}")
        first = _NOISIEST / (self.shift - (self.shift - 1) * _NOISIEST)
        even = [first * (steps - i) / steps for i in range(steps)]
        times = [self.shift * u / (1 + (self.shift - 1) * u) for u in even]
        return [Level(self.train * t, 1 - t, t) for t in times] + [Level(0.0, 1.0, 0.0)]

    def map_levels(self, steps: int) -> list[Level]:
        """Returns `levels`. They are evenly spaced in σ/(α + σ), with many at low noise, and the shift is chosen by the model."""
        return self.levels(steps)

    def clean(self, x: Tensor, output: Tensor, level: Level) -> Tensor:
        """Returns E[x0 | x_t] = x_t - t·(ε - x0)."""
        return x - level.sigma * output

    def at(self, u_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (times, α, σ), each B, at t = u in [0, 1)."""
        return self.train * u_B, 1 - u_B, u_B

    def training_target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns the velocity ε - x0."""
        return noise - x0


Schedule = Diffusion | Flow


def read_schedule(scheduler: Any) -> Schedule:
    """Returns the schedule that a scheduler of diffusers is configured for. Its own way of taking steps is not used.

    Raises:
        UserError: noise levels of another form; the message lists the supported ones.
    """
    config: Mapping[str, Any] = scheduler.config
    kind, target = type(scheduler).__name__, config.get("prediction_type", "epsilon")
    if kind.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        if config.get("use_dynamic_shifting") or config.get("invert_sigmas"):
            raise UserError(
                f"{kind} with use_dynamic_shifting or invert_sigmas is not supported; set them to false and give a "
                "fixed shift in scheduler_config.json"
            )
        if not kind.startswith("FlowMatch") and target != "flow_prediction":
            raise UserError(f'{kind} with flow sigmas needs prediction_type "flow_prediction", got "{target}"')
        return Flow(float(config.get("shift", config.get("flow_shift", 1.0))), int(config["num_train_timesteps"]))
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        raise UserError(
            f"the levels of {kind} are not supported; variance-preserving schedules (DDPMScheduler, DDIMScheduler, "
            "PNDMScheduler, …) and FlowMatchEulerDiscreteScheduler are"
        )
    return Diffusion(tuple(kept.double().tolist()), target)


def read_bounds(scheduler: Any) -> tuple[float, float] | None:
    """Returns the range to which the scheduler clamps its estimate of x0, or None."""
    config: Mapping[str, Any] = scheduler.config
    if not config.get("clip_sample", False):
        return None
    limit = float(config.get("clip_sample_range", 1.0))
    return (-limit, limit)
