"""Where a study's photos come from: a photo set ranked by the network, or the runs' own small copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable, UserError
from entoptic.study.design import Design
from entoptic.study.material import UnitMaterial
from entoptic.study.stimuli import Stimuli
from entoptic.study.unit_ranks import PhotoBatch, Ranked, batches_of_units

if TYPE_CHECKING:
    from entoptic.images.photos import Photos
    from entoptic.models.model import Model

STRONGEST = 12
"""Photos from which the natural arm of intruder is drawn."""


@dataclass(kw_only=True)
class RankedPhotos:
    """A photo set, ranked for every unit.

    Attributes:
        photos: the set.
        models: by sha256 of their weights.
        batches: of each unit, by the unit's name.
        reasons: why some units have none.
        strongest: the photos that drive each unit most.
    """

    photos: Photos
    models: dict[str, Model]
    batches: dict[str, tuple[PhotoBatch, ...]]
    reasons: dict[str, str]
    strongest: dict[str, tuple[Ranked, ...]]

    def write(self, stimuli: Stimuli, unit: UnitMaterial, ranked: Ranked) -> str:
        """Writes a photo as the unit's network sees it; returns the stimulus's name."""

        def pixels() -> np.ndarray:
            from entoptic.base.pixels import quantise

            photo = self.photos.read(ranked.index)
            if photo is None:
                raise UserError(f"{self.photos[ranked.index].name} could be read before and cannot be now")
            return quantise(self.models[unit.weights].card.prepare(photo))

        return stimuli.photo(unit.name, ranked, self.photos[ranked.index].name, pixels)


def rank_photos(
    source: Any,
    units: Sequence[UnitMaterial],
    design: Design,
    *,
    model: Any = None,
    device: str = "auto",
    progress: Progress = silent,
) -> RankedPhotos:
    """Ranks photos for every unit by the network that the unit belongs to.

    Args:
        source: anything `Photos.open` takes.
        units: of the study.
        design: references, batches and queries.
        model: the network, where it has no loadable name.
        device: "auto", "cpu", "cuda:1", ….
        progress: called with (what, done, total).

    Raises:
        UserError: the photos or a network cannot be read, or a network has other weights than the run's.
    """
    from entoptic.images.photo_scores import score_photos
    from entoptic.images.photos import Photos
    from entoptic.models.sources import load
    from entoptic.units.unit import bind

    photos = Photos.open(source)
    models: dict[str, Model] = {}
    scores: dict[str, list[tuple[int, float]]] = {}
    for weights in dict.fromkeys(unit.weights for unit in units):
        own = [unit for unit in units if unit.weights == weights]
        loaded = load(model if model is not None else own[0].model, device=device)
        if loaded.card.weights_sha256 != weights:
            raise NotAvailable(
                f"{own[0].model} has other weights now than in the run, so photos cannot be ranked for its units"
            )
        models[weights] = loaded
        bound = {one.name: bind(loaded, one.unit)[0] for one in own}
        found = score_photos(loaded, list(bound.values()), photos, progress=progress)
        scores |= {name: found.ranked(unit) for name, unit in bound.items()}
    batches, reasons = batches_of_units(
        scores, references=design.references, batches=design.batches, query=design.query, seed=design.seed
    )
    strongest = {
        name: tuple(Ranked(index=i, score=score, rank=rank) for rank, (i, score) in enumerate(ranked[:STRONGEST], 1))
        for name, ranked in scores.items()
    }
    return RankedPhotos(photos=photos, models=models, batches=batches, reasons=reasons, strongest=strongest)
