"""Trained diffusion and flow-matching networks as priors.

A prior here is a network, the schedule that it was trained for and a way from states to pictures. `pipelines` reads
them from folders of diffusers, `saved` from our own.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entoptic.base.cache import content_key
from entoptic.errors import UserError
from entoptic.priors.prior import Level
from entoptic.priors.schedule import Schedule

# --- guidance and pictures -------------------------------------------------------------------------------------------


def guided(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, given: Tensor, null: Tensor, weight: float) -> Tensor:
    """null + weight·(given - null) of the network's outputs, one call (Ho & Salimans 2022; weight 1 is no guidance).

    call: (states B×…, conditions B×…) -> outputs. It holds for E[x0|x_t] too, which is affine in the output.
    """
    if weight in (0, 1):
        return call(x, given if weight else null)
    with_it, without = call(torch.cat([x, x]), torch.cat([given, null])).chunk(2)
    return without + weight * (with_it - without)


def to_pictures(x: Tensor) -> Tensor:
    """B×1×H×W or B×3×H×W in [-1, 1] to RGB float32 in [0, 1]; the clamp passes gradients inside the range."""
    pictures = ((x.float() + 1) / 2).clamp(0, 1)
    return pictures.repeat(1, 3, 1, 1) if x.shape[1] == 1 else pictures


# --- priors ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DiffusionPrior:
    """A network without text: unconditional, or with classes (see `Prior` for the first six fields).

    Attributes:
        schedule: levels and parameterisation. network: (states B×C×H×W, times B, classes B or None) -> outputs, whose
            first C channels count (the others are learned variances). pictures: clean states to RGB in [0, 1].
        null: the class that stands for none, where the network was trained with one.
        guidance: weight of classifier-free guidance.
        module: the network itself, to which an inverter adds its control. states: pictures B×3×H×W in [0, 1] to clean
            states, the inverse of `pictures`; None where there is none.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device
    schedule: Schedule
    network: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    pictures: Callable[[Tensor], Tensor]
    null: int | None = None
    guidance: float = 1.0
    module: nn.Module | None = None
    states: Callable[[Tensor], Tensor] | None = None

    def levels(self, steps: int) -> list[Level]:
        return self.schedule.levels(steps)

    def map_levels(self, steps: int) -> list[Level]:
        return self.schedule.map_levels(steps)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x]; condition -1 is none.

        Raises:
            UserError: no condition, where the network was never trained without one.
        """
        return self.schedule.clean(x, self._output(x.float(), level.time, condition).to(x.dtype), level)

    def _output(self, x: Tensor, time: float, condition: Tensor | None) -> Tensor:
        channels = self.shape[0]
        if not self.conditions:
            return self.network(x, _times(x, time), None)[:, :channels]
        if self.null is None:
            if condition is None:
                raise UserError(
                    f"{self.name} was trained with classes only; give each state one of 0 … {self.conditions - 1}"
                )
            return self.network(x, _times(x, time), condition)[:, :channels]
        null = torch.full((len(x),), self.null, device=x.device)
        if condition is None:
            return self.network(x, _times(x, time), null)[:, :channels]
        given = torch.where(condition < 0, null, condition)
        return guided(
            lambda x, classes: self.network(x, _times(x, time), classes)[:, :channels], x, given, null, self.guidance
        )

    def decode(self, x0: Tensor) -> Tensor:
        return self.pictures(x0)


@dataclass(eq=False)
class TextPrior:
    """A text-to-image network at a fixed text, which makes it a prior without conditions.

    Attributes:
        identity: covers the weights (`weights`), the text and the guidance.
        network: (states B×C×H×W, times B, text B×L×D) -> outputs. text, null: 1×L×D embeddings of the prompt and of
            the empty prompt. encode: prompts to embeddings.
        module, states: as in `DiffusionPrior`.
    """

    name: str
    identity: str
    shape: tuple[int, int, int]
    bounds: tuple[float, float] | None
    conditions: int
    device: torch.device
    schedule: Schedule
    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    pictures: Callable[[Tensor], Tensor]
    encode: Callable[[Sequence[str]], Tensor]
    weights: str
    text: Tensor
    null: Tensor
    guidance: float = 1.0
    module: nn.Module | None = None
    states: Callable[[Tensor], Tensor] | None = None

    def levels(self, steps: int) -> list[Level]:
        return self.schedule.levels(steps)

    def map_levels(self, steps: int) -> list[Level]:
        return self.schedule.map_levels(steps)

    def denoise(
        self, x: Tensor, level: Level, condition: Tensor | None = None, *, text: Tensor | None = None
    ) -> Tensor:
        """E[x0 | x_t = x, text], differentiable in both; text: 1×L×D or B×L×D embeddings, default the prior's own."""
        given, null = (
            part.expand(len(x), -1, -1) for part in (self._fitting(self.text if text is None else text), self.null)
        )
        output = guided(
            lambda x, text: self.network(x, _times(x, level.time), text)[:, : self.shape[0]],
            x.float(), given, null, self.guidance,
        )  # fmt: skip
        return self.schedule.clean(x, output.to(x.dtype), level)

    def decode(self, x0: Tensor) -> Tensor:
        return self.pictures(x0)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of prompts, one row each: B×L×D.

        Raises:
            UserError: a prompt that the text encoder would cut off.
        """
        return self.encode(prompts)

    def with_text(self, text: Tensor) -> TextPrior:
        """The prior at another text, 1×L×D."""
        text = self._fitting(text.detach())
        return dataclasses.replace(
            self, text=text, identity=text_identity(self.weights, text, self.null, self.guidance)
        )

    def _fitting(self, text: Tensor) -> Tensor:
        if (
            text.ndim != 3
            or text.shape[2] != self.null.shape[2]
            or (self.guidance != 1 and text.shape[1] != self.null.shape[1])
        ):
            raise UserError(
                f"{self.name} reads embeddings of shape B×{self.null.shape[1]}×{self.null.shape[2]}, got "
                f"{tuple(text.shape)}; `embed` makes them from prompts"
            )
        return text.to(self.device, self.null.dtype)


def _times(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, device=x.device)


def text_identity(weights: str, text: Tensor, null: Tensor, guidance: float) -> str:
    texts = [hashlib.sha256(part.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for part in (text, null)]
    return content_key({"weights": weights, "text": texts, "guidance": guidance})


def checked_guidance(name: str, guidance: float | None, default: float, *, null: bool) -> float:
    """A guidance weight that the prior can use.

    Raises:
        UserError: a negative or infinite weight, or one other than 1 where there is no output without a condition.
    """
    weight = default if guidance is None else float(guidance)
    if not 0 <= weight < float("inf"):
        raise UserError(f"a guidance weight must be 0 or more (1 is none), got {guidance}")
    if weight != 1 and not null:
        raise UserError(
            f"{name} has no class or text, with and without which guidance could compare it; leave out guidance={weight:g}"
        )
    return weight
