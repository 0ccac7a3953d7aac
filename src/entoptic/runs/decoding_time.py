"""How long the decoding of maps will take: said before it begins, and all that `--dry-run` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from entoptic.base.progress import short_time
from entoptic.base.randomness import generator_for
from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter


@dataclass(frozen=True, kw_only=True)
class DecodingTime:
    """The work of a request that decodes maps.

    Attributes:
        pictures: that are decoded.
        evaluations: of the inverter's network for each of them.
        readings: passes of the network under study over each of them, verifiers included.
        seconds: that all of it takes, from one timed step and one timed reading on a single picture.
    """

    pictures: int
    evaluations: int
    readings: int
    seconds: float

    def __str__(self) -> str:
        work = f"{counted(self.pictures, 'picture')} to decode, {counted(self.evaluations, 'network evaluation')} each"
        return f"{work}: about {short_time(self.seconds)}"


def decoding_time(
    inverter: Inverter, pictures: int, *, steps: int | None = None, guidance: float | None = None, readings: int = 1
) -> DecodingTime:
    """Times one step of the sampler and one reading, and multiplies them.

    Args:
        inverter: that decodes.
        pictures: how many.
        steps: of the sampler; None for the inverter's own.
        guidance: weight of the map; None for the inverter's own.
        readings: passes of the network under study over each picture.
    """
    used = inverter.steps if steps is None else steps
    weight = inverter.guidance if guidance is None else guidance
    if not pictures:
        return DecodingTime(pictures=0, evaluations=0, readings=readings, seconds=0.0)
    maps = inverter.maps
    empty = torch.zeros(1, maps.channels, *maps.grid)
    noise = inverter.noise([generator_for("timed", 0)])
    step = picture = 0.0
    for _ in range(2):  # the first call also prepares kernels
        started = time.monotonic()
        shown = inverter.sample(empty, noise, steps=1, guidance=weight)
        step = time.monotonic() - started
        started = time.monotonic()
        maps.read(shown)
        picture = time.monotonic() - started
    return DecodingTime(
        pictures=pictures, evaluations=used * (1 if weight == 1 else 2), readings=readings,
        seconds=pictures * (used * step + readings * picture),
    )  # fmt: skip
