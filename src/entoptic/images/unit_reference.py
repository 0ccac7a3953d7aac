"""`UnitReference`: what the pictures of one unit are measured against.

The record holds the unit's scores on real photos, the photos that stand for the unit, and the moments of the units
beside it. `References.unit_reference` makes it; the metrics read it and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.images.index import ActivationIndex
from entoptic.images.photo_scores import RealScores
from entoptic.images.photos import Photos
from entoptic.images.unread import remember_unread
from entoptic.models.model import Model
from entoptic.units.dictionary import digest
from entoptic.units.unit import Unit, read_siblings

STRONGEST = 12
"""Number of photos that stand for a unit: those that drive it most."""
ARBITRARY = 12
"""Number of photos that stand for all photos: at even distances through the set, the same for every unit."""
MOMENTS = 256
"""Largest number of photos behind the moments of a layer's units."""
NO_PHOTOS = "no photos were given"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ExemplarPhotos:
    """Photos that a unit's pictures are compared with, at the network's input size.

    Attributes:
        strongest: N×3×H×W in [0, 1], the photos that drive the unit most, the strongest first.
        arbitrary: M×3×H×W in [0, 1], photos of anything that are not among the strongest.
    """

    strongest: Tensor
    arbitrary: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerMoments:
    """Moments over real photos of every unit of a layer, or of every feature of a dictionary.

    Attributes:
        mean: C float32, of the units' activations.
        sd: C float32, their population standard deviation.
        n: number of photos.
    """

    mean: Tensor
    sd: Tensor
    n: int


def _no_photos() -> str:
    return NO_PHOTOS


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitReference:
    """What the pictures of one unit are measured against.

    Each part is a property that is computed when it is first read and then kept, because most metrics need one part
    only and some parts take a pass over photos. A part that is not available is the reason why, as a string.
    `UnitReference(unit=unit)` is the record of a unit without photos or statistics.

    Attributes:
        unit: the unit.
        load_real_scores: computes `real_scores`.
        load_exemplars: computes `exemplars`.
        load_moments: computes `moments`.
        load_weak: computes `weak`.
    """

    unit: Unit
    load_real_scores: Callable[[], RealScores | str] = _no_photos
    load_exemplars: Callable[[], ExemplarPhotos | str] = _no_photos
    load_moments: Callable[[], LayerMoments | str] = _no_photos
    load_weak: Callable[[], Tensor | str] = _no_photos
    _results: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def real_scores(self) -> RealScores | str:
        """The unit's scores on real photos."""
        return self.load_real_scores()

    @cached_property
    def exemplars(self) -> ExemplarPhotos | str:
        """The unit's strongest photos, and arbitrary ones."""
        return self.load_exemplars()

    @cached_property
    def moments(self) -> LayerMoments | str:
        """Moments of all units of the unit's layer, read as the unit is."""
        return self.load_moments()

    @cached_property
    def weak(self) -> Tensor | str:
        """Photos from the half that drives the unit less, N×3×H×W in [0, 1]; for a logit, none of its class."""
        return self.load_weak()

    def once(self, compute: Callable[[UnitReference], T]) -> T:
        """Returns `compute(self)`: computed at the first call, then kept with this record.

        Args:
            compute: a function of a module; what it returns must depend on this record only.
        """
        if compute not in self._results:
            self._results[compute] = compute(self)
        return self._results[compute]


def layer_moments(
    model: Model, photos: Photos, unit: Unit, index: ActivationIndex | None = None, *, batch_size: int = 32
) -> LayerMoments:
    """Measures the moments over real photos of every unit of a layer, each read as `unit` is.

    An index that holds the layer gives them over all its photos. Else at most `MOMENTS` photos are read, at even
    distances through the set; the result is kept on disk by content.

    Args:
        model: the network.
        photos: the real photos.
        unit: whose layer and readout.
        index: of this network on these photos.
        batch_size: photos per forward pass.
    """
    if index is not None and unit in index:
        of_layer = model.layer(unit.layer).channels if unit.dictionary is None else len(unit.dictionary.names)
        held = [index.moments(replace(unit, index=i)) for i in range(of_layer)]
        variance = torch.tensor([m.variance for m in held], dtype=torch.float64)
        mean = torch.tensor([m.mean for m in held])
        return LayerMoments(mean=mean, sd=variance.sqrt().float(), n=held[unit.index].n)
    indices = evenly_spaced(len(photos), MOMENTS)
    key = content_key(
        {"weights": model.card.identity, "card": model.card.preprocessing(), "tap": str(unit.tap),
         "readout": unit.readout, **({"dictionary": digest(unit.dictionary)} if unit.dictionary is not None else {}),
         "photos": [photos.sha256(i) for i in indices]}
    )  # fmt: skip
    known = load_cached("moments", key, {"mean": 1, "sd": 1, "n": 0})
    if known is None:
        rows = []
        with torch.no_grad(), model.frozen():
            for _, images in photos.batches(model.card.prepare, batch_size, indices):
                values_BCD = model.read(images.to(model.device), [unit.tap])[unit.tap]
                rows.append(read_siblings(unit, values_BCD).cpu().double())
        table = torch.cat(rows)
        known = {
            "mean": table.mean(0).float(),
            "sd": table.std(0, unbiased=False).float(),
            "n": torch.tensor(len(table)),
        }
        save_cached("moments", key, known)
    else:
        remember_unread(photos, model.card.prepare, indices, int(known["n"]))
    return LayerMoments(mean=known["mean"], sd=known["sd"], n=int(known["n"]))


def evenly_spaced(total: int, count: int) -> list[int]:
    """Returns at most `count` of the positions 0 … total-1, at even distances."""
    return sorted({int((k + 0.5) * total / count) for k in range(count)}) if total > count else list(range(total))
