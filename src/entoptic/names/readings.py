"""One pass of a network over photos: penultimate features, logits and the units' scores, kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError, counted
from entoptic.images.photos import Photos
from entoptic.images.unit_reference import evenly_spaced
from entoptic.images.unread import remember_unread, unread
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap
from entoptic.names.penultimate import Penultimate, read_once
from entoptic.units.unit import Unit

LEAST = 60
"""Photos without which nothing is named: a third of them judges the names."""
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What a network does on photos.

    Attributes:
        photos: numbers of the photos that were read, in order.
        features_NC: what its last layer reads; empty (N×0) where it was not asked for.
        logits_NK: its logits, N×0 alike.
        scores_NU: of the units.
        unread: names of photos that could not be read.
    """

    photos: tuple[int, ...]
    features_NC: Tensor
    logits_NK: Tensor
    scores_NU: Tensor
    unread: tuple[str, ...] = ()


def photos_key(model: Model, photos: Photos, most: int) -> str:
    """Returns the hash of a network and of the photos that `read_photos` would read."""
    return content_key(_about(model, photos, evenly_spaced(len(photos), most)))


def _about(model: Model, photos: Photos, numbers: Sequence[int]) -> dict[str, Any]:
    return {
        "what": "names", "version": _VERSION, "model": model.card.identity, "card": model.card.preprocessing_json(),
        "photos": [photos.sha256(i) for i in numbers],
    }  # fmt: skip


def read_photos(
    model: Model,
    units: Sequence[Unit],
    photos: Photos,
    *,
    where: Penultimate | None,
    most: int,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Readings:
    """Reads photos once; what is in the cache is not read again.

    Args:
        model: the network.
        units: whose scores are read.
        photos: to read from; of more than `most`, photos at even distances.
        where: the features are, or None where neither features nor logits are needed.
        most: photos at most.
        batch_size: photos in one forward pass.
        progress: called with (what, done, total).

    Raises:
        UserError: there are too few photos that can be read.
    """
    numbers = evenly_spaced(len(photos), most)
    check_count(len(numbers), photos)
    about = _about(model, photos, numbers)
    layer = "" if where is None else f"{where.layer} {where.named}"
    of_network = content_key(about | {"layer": layer})
    of_units = content_key(about | {"units": [unit.identity for unit in units]})
    held = load_cached("names", of_network, {"read": 1, "features": 2, "logits": 2}) if where else None
    scores = load_cached("names", of_units, {"read": 1, "scores": 2})
    if scores is None or (where and held is None):
        read = _pass(model, units, photos, numbers, where, batch_size, progress)
        scores = {name: read[name] for name in ("read", "scores")}
        save_cached("names", of_units, scores)
        if where:
            held = {name: read[name] for name in ("read", "features", "logits")}
            save_cached("names", of_network, held)
    else:
        remember_unread(photos, model.card.prepare, numbers, scores["read"].tolist())
    found = scores["read"].tolist()
    check_count(len(found), photos)
    empty = torch.zeros(len(found), 0)
    features, logits = (held["features"], held["logits"]) if held else (empty, empty)
    return Readings(
        photos=tuple(found), features_NC=features, logits_NK=logits, scores_NU=scores["scores"],
        unread=unread(photos, numbers, found),
    )  # fmt: skip


def check_count(count: int, photos: Photos) -> None:
    """Checks that there are enough photos to name units on.

    Raises:
        UserError: there are not.
    """
    if count < LEAST:
        raise UserError(
            f"{counted(count, 'photo')} in {photos.source} can be read; names need at least {LEAST}, a third of which judges "
            "them, and are better with 1,000"
        )


def _pass(
    model: Model, units: Sequence[Unit], photos: Photos, numbers: list[int], where: Penultimate | None,
    batch_size: int, progress: Progress,
) -> dict[str, Tensor]:  # fmt: skip
    taps = {unit.tap for unit in units}
    parts: dict[str, list[Tensor]] = {"read": [], "features": [], "logits": [], "scores": []}
    done = 0
    for read, images in photos.batches(model.card.prepare, batch_size, numbers):
        images = images.to(model.device)
        if where is not None:
            features, values = read_once(model, images, where, taps)
            parts["features"].append(features)
            parts["logits"].append(values[Tap(LOGITS)][:, :, 0].cpu())
        else:
            with torch.no_grad():
                values = model.read(images, taps)
        parts["scores"].append(torch.stack([unit.read(values[unit.tap]).float().cpu() for unit in units], 1))
        parts["read"].append(torch.tensor(read))
        done += len(read)
        progress("reading photos", done, len(numbers))
    return {name: torch.cat(some) for name, some in parts.items() if some}
