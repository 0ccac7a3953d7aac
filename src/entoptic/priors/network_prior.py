"""Trained diffusion and flow-matching networks as priors.

A prior here is a network, the schedule that it was trained with, and a function from states to pictures. The module
`diffusers_folder` reads them from folders of diffusers, `saved` from our own format.
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


def classifier_free_guidance(
    call: Callable[[Tensor, Tensor], Tensor], x: Tensor, given: Tensor, null: Tensor, weight: float
) -> Tensor:
    """Returns null + weight·(given - null) of the network's outputs (Ho & Salimans 2022), in one call; weight 1 is none.

    It also holds for E[x0|x_t], which is an affine function of the output.

    Args:
        call: the network, (states B×…, conditions B×…) -> outputs.
        x: B×C×H×W states.
        given: B×…, the conditions.
        null: B×…, the conditions that stand for none.
        weight: guidance weight, ≥ 0.
    """
    if weight in (0, 1):
        return call(x, given if weight else null)
    conditional, unconditional = call(torch.cat([x, x]), torch.cat([given, null])).chunk(2)
    return unconditional + weight * (conditional - unconditional)


def to_pictures(x: Tensor) -> Tensor:
    """Returns pictures B×1×H×W or B×3×H×W in [-1, 1] as RGB float32 in [0, 1]. The clamp passes gradients inside the range."""
    pictures = ((x.float() + 1) / 2).clamp(0, 1)
    return pictures.repeat(1, 3, 1, 1) if x.shape[1] == 1 else pictures


# --- priors ----------------------------------------------------------------------------------------------------------


class _Scheduled:
    """What every network does by its schedule and its pictures."""

    schedule: Schedule
    pictures: Callable[[Tensor], Tensor]

    def levels(self, steps: int) -> list[Level]:
        """Returns steps + 1 levels from the noisiest to the clean one."""
        return self.schedule.levels(steps)

    def map_levels(self, steps: int) -> list[Level]:
        """Returns the levels of the few-step map, see `Prior`."""
        return self.schedule.map_levels(steps)

    def decode(self, x0: Tensor) -> Tensor:
        """Returns the pictures of clean states."""
        return self.pictures(x0)


@dataclass(eq=False)
class DiffusionPrior(_Scheduled):
    """A network without text: unconditional or with classes (see `Prior` for the first six fields).

    Attributes:
        schedule: its levels and parameterisation.
        network: (states B×C×H×W, times B, classes B or None) -> outputs. The first C channels are used; others are learned
            variances.
        pictures: clean states to RGB in [0, 1].
        null: the class that stands for no class, if the network was trained with one.
        guidance: weight of classifier-free guidance; 1 is none.
        module: the network itself, to which an inverter adds its control.
        states: pictures B×3×H×W in [0, 1] to clean states, the inverse of `pictures`; None if there is none.
        enlarge: pictures of the network's own size to those that `pictures` gives; None where these are the same.
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
    enlarge: Callable[[Tensor], Tensor] | None = None

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        """Returns E[x0 | x_t = x], B×C×H×W.

        Args:
            x: B×C×H×W.
            level: the noise level of x.
            condition: B int64, -1 for no class; None for no class in any row.

        Raises:
            UserError: no condition, although the network was trained with classes only.
        """
        return self.schedule.clean(x, self._output(x.float(), level.time, condition).to(x.dtype), level)

    def _output(self, x: Tensor, time: float, condition: Tensor | None) -> Tensor:
        """Returns the network's output B×C×H×W, with guidance where there are classes."""
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
        return classifier_free_guidance(
            lambda x, classes: self.network(x, _times(x, time), classes)[:, :channels], x, given, null, self.guidance
        )


@dataclass(eq=False)
class TextPrior(_Scheduled):
    """A text-to-image network at a fixed text, which makes it a prior without conditions.

    Attributes:
        identity: hash of the weights (`weights`), the text and the guidance weight.
        network: (states B×C×H×W, times B, text B×L×D) -> outputs.
        encode: prompts to text embeddings.
        text: 1×L×D, embedding of the prompt.
        null: 1×L×D, embedding of the empty prompt.
        guidance: weight of classifier-free guidance; 1 is none.
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

    def denoise(
        self, x: Tensor, level: Level, condition: Tensor | None = None, *, text: Tensor | None = None
    ) -> Tensor:
        """Returns E[x0 | x_t = x, text], B×C×H×W, differentiable in x and text.

        Args:
            x: B×C×H×W.
            level: the noise level of x.
            condition: not used.
            text: 1×L×D or B×L×D embeddings; None for the prior's own.
        """
        given, null = (
            part.expand(len(x), -1, -1) for part in (self._checked_text(self.text if text is None else text), self.null)
        )
        output = classifier_free_guidance(
            lambda x, text: self.network(x, _times(x, level.time), text)[:, : self.shape[0]],
            x.float(), given, null, self.guidance,
        )  # fmt: skip
        return self.schedule.clean(x, output.to(x.dtype), level)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Returns the embeddings of prompts, B×L×D.

        Raises:
            UserError: a prompt that is longer than the text encoder reads.
        """
        return self.encode(prompts)

    def with_text(self, text: Tensor) -> TextPrior:
        """Returns the prior at another text, 1×L×D."""
        text = self._checked_text(text.detach())
        return dataclasses.replace(
            self, text=text, identity=text_identity(self.weights, text, self.null, self.guidance)
        )

    def _checked_text(self, text: Tensor) -> Tensor:
        """Returns the text on the prior's device.

        Raises:
            UserError: embeddings of another shape.
        """
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
    """Returns the network time for each row of x, B."""
    return torch.full((len(x),), time, device=x.device)


def text_identity(weights: str, text: Tensor, null: Tensor, guidance: float) -> str:
    """Returns the hash of a text prior: of its weights, its texts and the guidance weight."""
    texts = [hashlib.sha256(part.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for part in (text, null)]
    return content_key({"weights": weights, "text": texts, "guidance": guidance})


def checked_guidance(name: str, guidance: float | None, default: float, *, null: bool) -> float:
    """Returns a guidance weight that the prior can use.

    Args:
        name: of the prior, for errors.
        guidance: the weight asked for; None for `default`.
        default: used if none is asked for.
        null: whether the network has an output without a condition.

    Raises:
        UserError: a negative or infinite weight, or one other than 1 without such an output.
    """
    weight = default if guidance is None else float(guidance)
    if not 0 <= weight < float("inf"):
        raise UserError(f"a guidance weight must be 0 or more (1 is none), got {guidance}")
    if weight != 1 and not null:
        raise UserError(
            f"{name} has no class or text, with and without which guidance could compare it; leave out guidance={weight:g}"
        )
    return weight
