"""What the index is drawn from: every unit with its pictures and numbers, small enough for thousands of units.

Texts that recur stand once in a table and are named by their place there; names that follow from others are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from entoptic.gallery.kinds import Heading
from entoptic.gallery.local_paths import all_without_folders, without_folders
from entoptic.gallery.read_run import StoredPicture
from entoptic.gallery.unit_pages import UnitPage, method_order, variants
from entoptic.gallery.unit_photos import UnitPhotos
from entoptic.names import Suggestion

UNITS_PER_PAGE = 60
_LABELS_OF_PHOTOS = 3  # of a unit's strongest classes that the search knows


class _Table:
    """Values that recur, each with its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._place: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Returns where a JSON value stands; a new one is added at the end."""
        name = json.dumps(value)
        if name not in self._place:
            self._place[name] = len(self.values)
            self.values.append(value)
        return self._place[name]


def index_data(
    pages: Sequence[UnitPage],
    base: str,
    photos: Mapping[str, UnitPhotos | None],
    heading: Heading,
    suggested: Mapping[str, Suggestion | None] = {},
) -> dict[str, Any]:
    """Returns what `index.js` draws from, as JSON.

    A unit is `[unit, pictures, layer, label, model, words, folder, id]`: layer, model and words are places in tables,
    folder and id are 0 where they follow from the unit, and a row ends with the last entry that is not empty or 0.
    A picture is `[method, sample, file, size, caption, values]`, and then, where it has one, what sets it apart from others
    of its method. The file is only the first twelve digits of its key where its name follows from them; caption is a place
    in a table of `[text, note, mark]`; values are in the order of `metrics`.

    Args:
        pages: of the run.
        base: relative path from the site to the pictures, quoted.
        photos: of each page by its name.
        heading: of the run.
        suggested: name of each page's unit, which the search finds.
    """
    titles: dict[str, str] = {}
    metrics: dict[str, tuple[str, str]] = {}
    for page in pages:
        for picture in page.pictures:
            titles.setdefault(picture.method, picture.method_title)
            for name, title, arrow in picture.glance.names:
                metrics.setdefault(name, (title, arrow))
    methods = sorted(titles, key=method_order)
    layers, models, words, sizes, captions = (_Table() for _ in range(5))
    units = []
    for page in pages:
        first = page.first
        variant_by_anchor = variants(page.pictures)
        pictures = []
        for one in page.pictures:
            entry = [
                methods.index(one.method),
                one.sample,
                _file(one),
                sizes.place([one.width, one.height]),
                captions.place(_caption(one)),
                _values(one, metrics),
            ]
            if variant := variant_by_anchor.get(one.anchor):
                entry.append(variant)
            pictures.append(entry)
        unit = without_folders(first.unit)
        plain = re.sub(r"[^\w.]", "-", unit, flags=re.ASCII)
        row = [
            unit,
            pictures,
            layers.place(str(first.sidecar.get("layer") or "")),
            without_folders(first.label),
            models.place(without_folders(first.model)),
            words.place(_labels(photos.get(page.name), suggested.get(page.name))),
            0 if first.folder == plain else quote(first.folder),
            0 if page.name == f"unit-{plain}" else page.name,
        ]
        while not row[-1]:  # the unit is never empty
            row.pop()
        units.append(row)
    return {
        "base": base,
        "perPage": UNITS_PER_PAGE,
        "noun": heading.noun,
        "methods": [[method, titles[method]] for method in methods],
        "metrics": [
            [name, title, {"": 0, "\N{UPWARDS ARROW}": 1}.get(arrow, -1)] for name, (title, arrow) in metrics.items()
        ],
        "layers": layers.values,
        "models": models.values,
        "words": words.values,
        "sizes": sizes.values,
        "captions": all_without_folders(captions.values),
        "units": units,
    }


def _file(one: StoredPicture) -> str:
    """The start of the key, where file and anchor follow from it; else file and anchor."""
    plain = f"{one.method}-{one.sample}-{one.key[:12]}.png"
    if one.file == plain and quote(plain) == plain and re.fullmatch(r"[\w.-]+", plain, re.ASCII):
        return one.key[:12]
    return f"{quote(one.file)}#{one.anchor}"


def _caption(one: StoredPicture) -> list[str]:
    caption, alt = [*one.glance.caption], one.sidecar.get("alt")
    return [*caption, alt] if isinstance(alt, str) else caption


def _values(one: StoredPicture, metrics: Mapping[str, Any]) -> list[float | None]:
    """Its numbers with three or four digits, in the order of the metrics; those behind the last one are left out."""
    glance = one.glance
    by_name = {name: number for (name, _, _), number in zip(glance.names, glance.numbers)}
    values = [None if (value := by_name.get(name)) is None else _short(value) for name in metrics]
    while values and values[-1] is None:
        values.pop()
    return values


def _short(value: float) -> float:
    rounded = float(f"{value:.4g}" if abs(value) >= 10 else f"{value:.3g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _labels(found: UnitPhotos | None, suggestion: Suggestion | None) -> str:
    """The classes of the photos that drive a unit most, and its suggested name, for the search."""
    labels = [f"suggested name: {suggestion.name}"] if suggestion else []
    if found is not None:
        labels += [bar.label for bar in found.classes[:_LABELS_OF_PHOTOS]]
        labels += [photo.label for photo in found.strongest[:_LABELS_OF_PHOTOS]]
    return ", ".join(dict.fromkeys(label for label in labels if label))
