"""What the page of a dictionary is drawn from: every feature with its numbers, its family and its strongest photos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entoptic.errors import UserError
from entoptic.gallery.local_paths import without_folders
from entoptic.gallery.unit_pages import method_order
from entoptic.images.index import ActivationIndex
from entoptic.runs.store import Run
from entoptic.units.dictionary import Dictionary, digest, load_dictionary
from entoptic.units.grammar import parse

PHOTOS = 4
"""Strongest photos of each feature."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A picture that a run has of a feature.

    Attributes:
        path: of the file.
        method: that made it.
    """

    path: Path
    method: str


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature.

    Attributes:
        name: its own, "" where it has only its number.
        density: share of the photos that it is active on.
        strength: its largest value on a photo.
        mean: its mean over photos.
        photos: position and value of its strongest photos.
        parents: numbers of the more general features that are on where it is.
        duplicates: numbers of features that are on at the same places.
        made: its picture, None where there is none.
    """

    name: str
    density: float
    strength: float
    mean: float
    photos: tuple[tuple[int, float], ...]
    parents: tuple[int, ...]
    duplicates: tuple[int, ...]
    made: Made | None


def dictionary_layers(index: ActivationIndex) -> list[str]:
    """Returns the dictionaries of an index, as it names them: `dict(FILE)`."""
    return [layer for layer in index.layers if layer.startswith("dict(") and layer.endswith(")")]


def read_features(index: ActivationIndex, layer: str, runs: Sequence[Run]) -> list[Feature]:
    """Reads what is known of every feature of a dictionary.

    Args:
        index: with the dictionary.
        layer: `dict(FILE)`, of `dictionary_layers`.
        runs: with pictures of features.

    Raises:
        UserError: the dictionary cannot be read, or was changed since.
    """
    file = layer[len("dict(") : -1]
    dictionary = load_dictionary(file)
    if any(group.layer == layer and group.numbers != digest(dictionary) for group in index.request.groups):
        raise UserError(f"the index in {index.path} was made with other numbers in {file}; make it again")
    units = index.units(layer)[: len(dictionary.names)]  # the first readout
    pictures = _pictures(runs, file)
    parents = getattr(dictionary, "parents", ()) or [()] * len(dictionary.names)
    duplicates = _duplicates(dictionary)
    found = []
    for k, unit in enumerate(units):
        hits = index.top(unit, min(PHOTOS, index.k))
        name = dictionary.names[k]
        found.append(
            Feature(
                name="" if name == f"feature {k}" else name, density=_finite(index.firing_rate(unit)),
                strength=_finite(hits[0].value) if hits else 0.0, mean=_finite(index.moments(unit).mean),
                photos=tuple((hit.index, _finite(hit.value)) for hit in hits), parents=tuple(parents[k]),
                duplicates=duplicates.get(k, ()), made=pictures.get(k),
            )
        )  # fmt: skip
    return found


def page_data(
    features: Sequence[Feature], photos: Mapping[int, tuple[str, str]], links: Mapping[str, str], layer: str
) -> dict[str, Any]:
    """Returns what the page's script reads.

    A feature is `[density, strength, mean, photos, parents, duplicates, name, picture]`, its number is its place, and its row
    ends with the last entry that is not empty. A photo is `[place, value]`; places count in `photos`, `[name, file]`.

    Args:
        features: of the dictionary, in order.
        photos: name and file ("" for none) of the photos, by their position in the set.
        links: from the page to pictures, by path.
        layer: `dict(FILE)`.
    """
    place = {position: number for number, position in enumerate(photos)}
    methods = sorted({f.made.method for f in features if f.made is not None})
    rows = []
    for feature in features:
        made = feature.made
        row: list[Any] = [
            _few(feature.density), _few(feature.strength), _few(feature.mean),
            [[place[i], _few(value)] for i, value in feature.photos], list(feature.parents), list(feature.duplicates),
            without_folders(feature.name), [methods.index(made.method), links[str(made.path)]] if made is not None else 0,
        ]  # fmt: skip
        while not row[-1] and len(row) > 1:
            row.pop()
        rows.append(row)
    shown = [[without_folders(name), file] for name, file in photos.values()]
    return {"unit": without_folders(layer), "methods": methods, "photos": shown, "features": rows}


def _pictures(runs: Sequence[Run], file: str) -> dict[int, Made]:
    """The picture of each feature: of the method that comes first, its first sample."""
    found: dict[int, Made] = {}
    for run in runs:
        for picture in run:
            try:
                address = parse(picture.unit)
            except UserError:  # a damaged record, which `verify` names
                continue
            if address.kind != "dict" or not isinstance(address.index, int) or not _same(address.path, file):
                continue
            before = found.get(address.index)
            if before is None or method_order(picture.method) < method_order(before.method):
                found[address.index] = Made(path=picture.path, method=picture.method)
    return found


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).absolute() == Path(other).absolute()


def _duplicates(dictionary: Dictionary) -> dict[int, tuple[int, ...]]:
    """Duplicates of each feature, as far as the dictionary's card names them."""
    card = getattr(dictionary, "found", None)
    families = card.get("families", {}) if isinstance(card, dict) else {}
    pairs = families.get("pairs", []) if isinstance(families, dict) else []
    found: dict[int, list[int]] = {}
    count = len(dictionary.names)
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(i, int) and 0 <= i < count for i in pair):
            found.setdefault(pair[0], []).append(pair[1])
            found.setdefault(pair[1], []).append(pair[0])
    return {k: tuple(sorted(others)) for k, others in found.items()}


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0


def _few(value: float) -> float:
    return float(f"{value:.4g}")
