"""What stands beside a unit's pictures: real photos, maps of where they drive the unit, and its strongest classes.

All of it was computed with the run. Here it is read and checked; what is missing or damaged is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import UserError
from entoptic.gallery.formats import is_number, number
from entoptic.gallery.read_run import list_or_empty, mapping_or_empty


@dataclass(frozen=True, kw_only=True)
class PhotoEntry:
    """A real photo beside a unit's pictures.

    Attributes:
        file: link to a small copy.
        crop: link to its crop around what drives the unit most, or "".
        where: link to the map of where it drives the unit, or "".
        label: of the photo, or "".
        photo: its name.
        value: the unit's score on it, or "".
    """

    file: str
    crop: str = ""
    where: str = ""
    label: str
    photo: str
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassBar:
    """The unit's mean score on the photos of one class, as a bar along an axis from 0 to 100 %.

    Attributes:
        label: of the class.
        start: of the bar, in percent.
        width: of the bar, in percent.
        interval_start: of the line over the 95 % interval, in percent.
        interval_width: of that line, in percent.
        mean: in words.
        interval: in words.
        n: photos of the class, as the record gives it.
    """

    label: str
    start: float
    width: float
    interval_start: float
    interval_width: float
    mean: str
    interval: str
    n: Any


@dataclass(frozen=True, kw_only=True)
class UnitPhotos:
    """Real photos beside a unit's pictures.

    Attributes:
        strongest: photos that drive the unit most.
        weakest: photos that drive it least.
        originals: photos whose maps were inverted.
        classes: those that drive the unit most.
        n: photos in all, or None where the record does not say.
    """

    strongest: Sequence[PhotoEntry]
    weakest: Sequence[PhotoEntry]
    originals: Sequence[PhotoEntry]
    classes: Sequence[ClassBar]
    n: int | None

    @property
    def has_where(self) -> bool:
        """Whether there is a map of where a photo drives the unit."""
        return any(photo.where for photo in (*self.strongest, *self.weakest))


def read_unit_photos(run_folder: Path, folder: str, weights: str, root: str) -> UnitPhotos | None:
    """Returns the photos of a unit, or None where there are none.

    Args:
        run_folder: of the run.
        folder: of the unit, below `RUN/context`.
        weights: sha256 of the network. One folder may hold a unit of two networks.
        root: relative path from the site to the run, quoted.
    """
    source = run_folder / "context" / folder
    if not is_inside(source / "context.json", run_folder):
        return None
    try:
        record = read_json(source / "context.json")
        files = {entry.name for entry in os.scandir(source) if is_inside(source / entry.name, run_folder)}
    except (OSError, UserError):
        return None
    if record.get("weights_sha256") != weights:
        return None
    base = f"{root}/context/{quote(folder)}"
    strongest, weakest = (_scored_photos(record.get(name), files, base) for name in ("strongest", "weakest"))
    originals = _originals(record.get("originals"), files, base)
    if not strongest and not originals:
        return None
    n = mapping_or_empty(record.get("photos")).get("n")
    return UnitPhotos(
        strongest=strongest,
        weakest=weakest,
        originals=originals,
        classes=_class_bars(record.get("classes")),
        n=n if isinstance(n, int) else None,
    )


def links_to_maps(run_folder: Path, sidecar: Mapping[str, Any], root: str) -> dict[str, str]:
    """Returns links to the maps stored beside a picture, by name; "" for those of the usual ones that there are not.

    Args:
        run_folder: of the run.
        sidecar: of the picture.
        root: relative path from the site to the run, quoted.
    """
    found = {"where": "", "alpha": "", "pair": "", "sd": ""}
    for name, entry in mapping_or_empty(sidecar.get("maps")).items():
        file = mapping_or_empty(entry).get("file")
        if not isinstance(file, str) or not re.fullmatch(r"maps/[^/\0]+/[^/\0]+\.png", file):
            continue
        if (run_folder / file).is_file() and is_inside(run_folder / file, run_folder / "maps"):
            found[str(name)] = f"{root}/{quote(file)}"
    return found


def _scored_photos(entries: Any, files: set[str], base: str) -> list[PhotoEntry]:
    found = []
    for entry in list_or_empty(entries):
        if not isinstance(entry, Mapping) or not _in(entry.get("file"), files) or not is_number(entry.get("value")):
            continue
        links = {
            name: f"{base}/{quote(entry[name])}" if _in(entry.get(name), files) else ""
            for name in ("file", "crop", "where")
        }
        label, photo = (str(entry.get(name) or "") for name in ("label", "photo"))
        found.append(PhotoEntry(**links, label=label, photo=photo, value=number(entry["value"])))
    return found


def _in(name: Any, files: set[str]) -> bool:
    """Whether a record names a file that is there."""
    return isinstance(name, str) and name in files


def _originals(entries: Any, files: set[str], base: str) -> list[PhotoEntry]:
    """The photos whose maps were inverted, labelled with the class that the network gives them."""
    return [
        PhotoEntry(
            file=f"{base}/{quote(entry['file'])}",
            label=f"{entry.get('photo') or ''}: {entry.get('label') or ''}",
            photo=str(entry.get("photo") or ""),
        )
        for entry in list_or_empty(entries)
        if isinstance(entry, Mapping) and _in(entry.get("file"), files)
    ]


def _class_bars(entries: Any) -> list[ClassBar]:
    """Bars along an axis that holds 0 and every interval; none for a single class."""
    classes = [
        entry
        for entry in list_or_empty(entries)
        if isinstance(entry, Mapping) and all(is_number(entry.get(name)) for name in ("mean", "low", "high"))
    ]
    if len(classes) < 2:
        return []
    left, right = min(0.0, *(one["low"] for one in classes)), max(0.0, *(one["high"] for one in classes))
    span = (right - left) or 1.0

    def percent_along(value: float) -> float:
        return round(100 * (value - left) / span, 2)

    return [
        ClassBar(
            label=str(one.get("label") or ""),
            start=percent_along(min(0.0, one["mean"])),
            width=round(100 * abs(one["mean"]) / span, 2),
            interval_start=percent_along(one["low"]),
            interval_width=round(100 * (one["high"] - one["low"]) / span, 2),
            mean=number(one["mean"]),
            interval=f"{number(one['low'])} to {number(one['high'])}",
            n=one.get("n"),
        )
        for one in classes
    ]
