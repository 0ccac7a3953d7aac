"""What a metric of a set of pictures is: features go in batch by batch, evidence comes out.

Two halves of a set can be measured apart and merged. Neither the order of batches nor where they are cut changes the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.metrics.evidence import Evidence, missing

ANY = (-math.inf, math.inf)
SHARE = (0.0, 1.0)
POSITIVE = (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class SetCard:
    """What is said of a metric of sets.

    Attributes:
        name: of its evidence.
        title: for people.
        direction: "higher" or "lower" is better, "none" where neither is.
        bounds: of the quantity. An unbiased estimate, and its interval, may lie outside.
        scale: unit of the value, "" for none.
    """

    name: str
    title: str
    direction: str
    bounds: tuple[float, float]
    scale: str = ""


class SetMetric(Protocol):
    """A metric of sets.

    Attributes:
        card: what is said of it.
        embedder: name of the network whose features or answers it takes.
        least: fewest pictures for which it has a value.
    """

    card: SetCard
    embedder: str
    least: int

    @property
    def n(self) -> int:
        """How many pictures it has seen."""
        ...

    def update(self, features: Tensor) -> None:
        """Takes the next pictures.

        Args:
            features: N×C, or N answers where the metric counts answers.
        """
        ...

    def merge(self, other: Self) -> None:
        """Takes what another metric of the same settings has seen, which is left as it was."""
        ...

    def compute(self) -> Evidence:
        """Returns the value with n and interval, or a sentence that says why there is none."""
        ...


class Measured(NamedTuple):
    """A value with its 95 % interval and what it is made of."""

    value: float
    interval: tuple[float, float]
    detail: dict[str, Any]


def evidence(card: SetCard, n: int, found: Measured, embedder: str) -> Evidence:
    """Returns what a metric found as evidence; the embedder is named in its detail."""
    low, high = found.interval
    return Evidence(
        card.name, found.value, n, (low, high), card.direction, card.scale, detail={"embedder": embedder} | found.detail
    )


def too_few(card: SetCard, n: int, least: int, embedder: str, why: str = "", what: str = "pictures") -> Evidence:
    """Returns the refusal of a set that is too small.

    Args:
        card: of the metric.
        n: what there is.
        least: what it takes.
        embedder: name of the network.
        why: what goes wrong with less, a clause.
        what: was counted.
    """
    reason = f"{card.name} needs at least {least} {what}, there are {n}" + (f": {why}" if why else "")
    return missing(card.name, reason, direction=card.direction, scale=card.scale, detail={"embedder": embedder})


def checked(features: Tensor, width: int | None = None) -> Tensor:
    """Returns features as they are kept: N×C float32 on the CPU.

    Args:
        features: N×C.
        width: C of those before, None for the first.

    Raises:
        UserError: another shape, or numbers that are not finite.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise UserError(f"expected features of shape N×C, got {'×'.join(map(str, features.shape)) or 'a number'}")
    if width is not None and features.shape[1] != width:
        raise UserError(f"expected {width} features for each picture, got {features.shape[1]}: use one embedder")
    kept = features.detach().to("cpu", torch.float32)
    if not bool(kept.isfinite().all()):
        bad = int((~kept.isfinite().all(1)).nonzero()[0])
        raise UserError(f"the features of picture {bad} are not finite")
    return kept


def check_alike(mine: tuple[object, ...], other: tuple[object, ...]) -> None:
    """Raises a `UserError` where two metrics that are merged have other settings."""
    if mine != other:
        raise UserError(f"only metrics of the same settings can be merged: {mine} and {other}")
