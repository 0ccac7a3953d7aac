"""What stands beside a unit's pictures: its strongest and weakest real photos, where they drive it, and which classes.

Everything is stored with the run, small and ready to show; the gallery computes nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.base.cache import content_key
from entoptic.base.estimates import mean_interval
from entoptic.base.pixels import small_jpeg, to_float
from entoptic.errors import NotAvailable, UserError
from entoptic.images.photos import Photos
from entoptic.images.receptive_field import crop_box, picture_grid, tokens_before
from entoptic.images.references import References
from entoptic.images.unread import unread_record
from entoptic.models.model import LOGITS, Model
from entoptic.models.relevance import relevance
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers
from entoptic.runs.store import Run
from entoptic.runs.verify_files import numbers_sha256
from entoptic.units.unit import Unit, slug

Scored = Sequence[tuple[int, float]]
"""(position of a photo, its score)."""

FORMAT = 1
STRONGEST, WEAKEST, CLASSES = 8, 4, 8


def write_context(run: Run, unit: Unit, references: References) -> None:
    """Stores a unit's context in the run, unless it is there already for the same photos."""
    photos, card = references.photos, references.model.card
    assert photos is not None
    index = references.index
    key = content_key(
        {"format": FORMAT, "unit": unit.identity, "weights": card.identity, "card": card.preprocessing(),
         "photos": photos.fingerprint(), "index": index.key if index is not None and unit in index else None}
    )  # fmt: skip
    known = run.context(slug(unit))
    if known is not None and known.get("key") == key:
        return
    try:
        strongest, weakest, scored, n = _ranked(unit, references)
    except NotAvailable:  # the photos have no order: its pictures' evidence says why
        return
    files: dict[str, bytes] = {}
    record = {
        "format": FORMAT,
        "key": key,
        "unit": str(unit),
        "weights_sha256": card.weights_sha256,
        "photos": {"source": photos.source, "n": n} | unread_record(photos),
        "strongest": _shown(unit, photos, strongest, "top", files),
        "weakest": _shown(unit, photos, weakest, "bottom", files),
        "classes": by_class(unit.model, photos, scored),
    }
    # For `verify`, which need not find the photos again.
    record["sha256"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    record["numbers_sha256"] = numbers_sha256(record)
    run.write_context(slug(unit), record, files)


def _ranked(unit: Unit, references: References) -> tuple[Scored, Scored, Scored, int]:
    """Strongest and weakest photos, those whose scores are known one by one, and how many were looked at.

    An index knows the scores of its reservoir only; without an index those of all photos are there.
    """
    index, photos = references.index, references.photos
    assert photos is not None
    if index is None or unit not in index:
        scores = references.scores([unit])
        ranked = scores.ranked(unit)
        return (
            ranked[:STRONGEST],
            ranked[: -WEAKEST - 1 : -1],
            list(zip(scores.indices, scores.of(unit).tolist())),
            len(ranked),
        )
    numbers = {photo.name: i for i, photo in enumerate(photos)}
    strongest, weakest = (
        [(numbers[hit.photo], hit.value) for hit in hits[:count]]
        for hits, count in ((index.top(unit), STRONGEST), (index.bottom(unit), WEAKEST))
    )
    places, sample = index.sample(unit.layer, str(unit.address.readout))
    sampled = list(zip(places, sample[unit.index].tolist())) if places else []
    return strongest, weakest, sampled, index.moments(unit).n


def _shown(unit: Unit, photos: Photos, ranked: Scored, name: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Entries of photos, their small copies put into `files`: whole, and the strongest cropped to what drives the unit."""
    model = unit.model
    entries = []
    for rank, (index, value) in enumerate(ranked, 1):
        photo = photos.read(index)
        if photo is None:
            continue
        image = model.card.prepare(photo)[None]
        entry: dict[str, Any] = {"file": f"{name}-{rank}.jpg", "photo": photos[index].name, "value": value}
        entry["label"] = class_name(model, photos, index)
        files[entry["file"]] = small_jpeg(image[0])
        values = _read(unit, image)
        light = spotlight(unit, image, values)
        if light is not None:
            entry["where"] = f"{name}-{rank}.where.png"
            buffer = io.BytesIO()
            Image.fromarray(light, "LA").save(buffer, "PNG")
            files[entry["where"]] = buffer.getvalue()
        box = _field(unit, values) if name == "top" else None
        if box is not None:
            top, left, height, width = box
            entry["crop"] = f"{name}-{rank}.crop.jpg"
            files[entry["crop"]] = small_jpeg(image[0, :, top : top + height, left : left + width])
        entries.append(entry)
    return entries


def _read(unit: Unit, image: Tensor) -> Tensor:
    with torch.no_grad():
        return unit.model.read(image.to(unit.model.device), [unit.tap])[unit.tap]


def class_name(model: Model, photos: Photos, index: int) -> str:
    """What a person calls the class of a photo: the model's own label where it has one, "" without a label."""
    photo = photos[index]
    known = {identifier: i for i, identifier in enumerate(model.card.label_ids or ())}
    place = next((known[label] for label in photo.labels if label in known), photo.class_index)
    return (model.card.label(place) if place is not None else None) or (photo.labels[0] if photo.labels else "")


def by_class(model: Model, photos: Photos, scored: Scored) -> list[dict[str, Any]]:
    """The classes whose photos drive the unit most: label, mean, 95 % interval and n of each, strongest first.

    Classes of fewer than three photos have no interval worth the name and are left out.
    """
    groups: dict[str, list[float]] = {}
    for index, value in scored:
        if name := class_name(model, photos, index):
            groups.setdefault(name, []).append(value)
    bars: list[dict[str, Any]] = []
    for name, members in groups.items():
        if len(members) >= 3:
            low, high = mean_interval(members)
            bars.append(
                {"label": name, "mean": sum(members) / len(members), "low": low, "high": high, "n": len(members)}
            )
    return sorted(bars, key=lambda bar: bar["mean"], reverse=True)[:CLASSES]


# --- where ---------------------------------------------------------------------------------------------------------


def grid_of(model: Model, layer: str) -> tuple[int, int, int] | None:
    """(leading tokens, rows, columns) of a layer's positions as a map over the picture, None where they are none."""
    grid = picture_grid(model, model.layer(layer))
    return None if grid is None else (tokens_before(model.layer(layer), grid), *grid)


def where(unit: Unit, image: Tensor, values_BCD: Tensor) -> np.ndarray | None:
    """Where a picture (1×3×H×W) drives a unit: rows×columns, not negative; None where that is not known.

    The unit's own activation map; for units without a place (logits, class tokens, vectors) its relevance at the
    deepest layer below it that has a map.
    """
    if unit.parts:
        return None  # its parts may see different places
    model = unit.model
    grid = grid_of(model, unit.layer)
    if grid is not None and (unit.position is None or unit.position >= grid[0]):
        map_D = unit.map(values_BCD)[0]
        if unit.position is not None:
            map_D = map_D * (torch.arange(len(map_D), device=map_D.device) == unit.position)
    else:
        try:
            below = _mapped_layer(model, unit.layer)
            if below is None:
                return None
            tap = Tap(below)
            map_D = relevance(model, image.to(model.device), {unit.tap: unit.start}, [tap]).maps[tap][0].sum(0)
        except UserError:
            return None
        grid = grid_of(model, below)
        assert grid is not None
    map_D = map_D[grid[0] :].clamp_min(0).float().cpu()
    return map_D.reshape(grid[1], grid[2]).numpy()


def _mapped_layer(model: Model, layer: str) -> str | None:
    order = len(model.layers) if layer == LOGITS else model.layer(layer).order
    found = [
        name for name in trunk_layers(model)
        if model.layer(name).order < order and grid_of(model, name) is not None
    ]  # fmt: skip
    return found[-1] if found else None


def spotlight(unit: Unit, image: Tensor, values_BCD: Tensor) -> np.ndarray | None:
    """`where` as a shade to lay over the picture, rows×columns×2 uint8: clear where it is strongest, black where 0.

    A picture that drives the unit nowhere is black throughout.
    """
    found = where(unit, image, values_BCD)
    if found is None:
        return None
    shade = (255 * (1 - found / max(float(found.max()), 1e-30))).round().astype(np.uint8)
    return np.stack([np.zeros_like(shade), shade], -1)


def _field(unit: Unit, values_BCD: Tensor) -> tuple[int, int, int, int] | None:
    """The box (top, left, height, width) that the unit's strongest place sees, None where it sees all or has none."""
    if unit.parts:
        return None
    model = unit.model
    info = model.layer(unit.layer)
    if grid_of(model, unit.layer) is None:
        return None
    map_D = unit.map(values_BCD)[0]
    place = int(map_D.argmax()) if unit.position is None else unit.position
    box = crop_box(model, unit.layer, place // info.grid[1], place % info.grid[1])
    return box if box[2:] != tuple(model.card.size) else None


def spotlight_of(unit: Unit, pixels: np.ndarray) -> np.ndarray | None:
    """Returns `spotlight` of a picture of any size, H×W×3 uint8."""
    image = unit.model.fit(to_float(pixels))
    return spotlight(unit, image, _read(unit, image))
