"""Whether classes look at their object or beside it: where the relevance of their logits lies, on photos with masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from entoptic.base.estimates import mean_interval
from entoptic.base.progress import Progress
from entoptic.errors import NotAvailable, counted
from entoptic.images.masks import Masks, read_mask
from entoptic.images.photos import Photos
from entoptic.metrics.attribution import pixel_relevance
from entoptic.models.model import LOGITS, Model
from entoptic.runs.report_records import Looks
from entoptic.units.grammar import parse
from entoptic.units.unit import bind_one

LEAST = 4
"""Photos with a mask below which nothing is said of a class."""
MOST = 24
"""Photos of a class whose relevance is computed."""


def looks_of(
    model: Model, photos: Photos, masks: Path, index: int, label: str, rows: Sequence[int], progress: Progress
) -> Looks:
    """Measures how much of a class's relevance lies on the objects, against the share of the picture that they take.

    Args:
        model: the network.
        photos: the set.
        masks: folder of masks.
        index: of the class.
        label: of the class.
        rows: numbers of its photos, the first of which are looked at.
        progress: is called with (what, done, total).

    Raises:
        NotAvailable: too few of the photos have a mask with the object in it, or relevance.
        Unreadable: a mask is no picture.
    """
    found = Masks.find(masks)
    files = {i: file for i in rows if (file := found.of(photos[i].name)) is not None}
    there = list(files)[:MOST]
    if len(there) < LEAST:
        raise NotAvailable(
            f"{counted(len(there), 'photo')} of it {'has' if len(there) == 1 else 'have'} a mask; {LEAST} are needed"
        )
    unit = bind_one(model, parse(f"{LOGITS}:{index}"))
    inside, area = [], []
    what = f"relevance of {label}"
    for numbers, images in photos.batches(model.card.prepare, 8, there):
        masks_NHW = torch.stack([read_mask(files[i], model.card)[0] for i in numbers])
        maps_NHW = pixel_relevance(unit, images).double()
        whole_N = maps_NHW.sum((1, 2))
        share_N = (maps_NHW * masks_NHW).sum((1, 2)) / whole_N.clamp_min(1e-300)
        size_N = masks_NHW.double().mean((1, 2))
        kept = (whole_N > 0) & (size_N > 0) & (size_N < 1)
        inside += share_N[kept].tolist()
        area += size_N[kept].tolist()
        progress(what, min(len(there), len(inside)), len(there))
    progress(what, len(there), len(there))
    if len(inside) < LEAST:
        raise NotAvailable(
            f"on {counted(len(inside), 'photo')} the mask shows a part of the picture and the class has relevance; {LEAST} are "
            "needed"
        )
    low, high = mean_interval(inside)
    more = [a - b for a, b in zip(inside, area)]
    less, most = mean_interval(more)
    return Looks(
        label=label, inside=float(np.mean(inside)), low=max(0.0, low), high=min(1.0, high), area=float(np.mean(area)),
        more=float(np.mean(more)), more_low=less, more_high=most, n=len(inside),
    )  # fmt: skip
