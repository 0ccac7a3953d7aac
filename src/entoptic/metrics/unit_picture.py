"""`UnitPicture`: one saved picture of a unit, as the metrics read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from entoptic.base.pixels import to_float
from entoptic.images.unit_reference import UnitReference
from entoptic.models.model import Model
from entoptic.sampling.sampled_distribution import SampledDistribution
from entoptic.units.unit import Unit


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitPicture:
    """One saved picture of a unit. What several metrics need is computed when it is first read, then kept.

    Attributes:
        pixels: H×W×3 uint8, exactly as saved.
        unit: what it is a picture of.
        reference: real photos or statistics that the unit's pictures are compared with.
        verifiers: other networks with the same labels; a network never verifies itself.
        distribution: that the picture was drawn from, None for an optimised picture.
    """

    pixels: np.ndarray
    unit: Unit
    reference: UnitReference
    verifiers: Sequence[Model] = ()
    distribution: SampledDistribution | None = None

    @cached_property
    def image(self) -> Tensor:
        """1×3×H×W float32 in [0, 1]."""
        return to_float(self.pixels)

    @cached_property
    def seen(self) -> Tensor:
        """1×3×H×W in [0, 1] at the network's input size, on its device."""
        model = self.unit.model
        return model.fit(self.image.to(model.device))

    @cached_property
    def values(self) -> Tensor:
        """1×C×D, the values of the unit's layer."""
        with torch.no_grad():
            return self.unit.model.read(self.seen, [self.unit.tap])[self.unit.tap]

    @cached_property
    def value(self) -> float:
        """The unit's score."""
        return float(self.unit.read(self.values)[0])
