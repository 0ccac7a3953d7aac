"""What stands beside a unit's pictures on its page: real photos, where they drive the unit, and which classes.

All of it was computed with the run; here it is read, checked and put in words. What is missing or damaged is left out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import UserError
from entoptic.gallery import explain


def read_context(run_folder: Path, folder: str, weights: str, root: str) -> dict[str, Any] | None:
    """A unit's context for its page, or None where there is none.

    folder: of the unit, below `RUN/context`. weights: sha256 of the network; one folder may hold a unit of two.
    root: relative path from the site to the run, quoted.
    """
    place = run_folder / "context" / folder
    if not is_inside(place / "context.json", run_folder):
        return None
    try:
        record = read_json(place / "context.json")
        held = {entry.name for entry in os.scandir(place) if is_inside(place / entry.name, run_folder)}
    except (OSError, UserError):
        return None
    if record.get("weights_sha256") != weights:
        return None
    base = f"{root}/context/{quote(folder)}"
    photos = record.get("photos")
    strongest, weakest = (_photos(record.get(name), held, base) for name in ("strongest", "weakest"))
    originals = _originals(record.get("originals"), held, base)
    if not strongest and not originals:
        return None
    return {
        "strongest": strongest,
        "weakest": weakest,
        "originals": originals,
        "classes": _bars(record.get("classes")),
        "n": photos.get("n") if isinstance(photos, Mapping) and isinstance(photos.get("n"), int) else None,
        "has_where": any(photo["where"] for photo in (*strongest, *weakest)),
        "has_crops": any(photo["crop"] for photo in strongest),
    }


def maps_of(run_folder: Path, sidecar: Mapping[str, Any], root: str) -> dict[str, str]:
    """Links from the site to the maps stored beside a picture, "" for those that there are not."""
    found = {"where": "", "alpha": "", "pair": "", "sd": ""}
    maps = sidecar.get("maps")
    for name, entry in maps.items() if isinstance(maps, Mapping) else ():
        file = entry.get("file") if isinstance(entry, Mapping) else None
        if not isinstance(file, str) or not re.fullmatch(r"maps/[^/\0]+/[^/\0]+\.png", file):
            continue
        if (run_folder / file).is_file() and is_inside(run_folder / file, run_folder / "maps"):
            found[str(name)] = f"{root}/{quote(file)}"
    return found


def _photos(entries: Any, held: set[str], base: str) -> list[dict[str, Any]]:
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping) or not _in(entry.get("file"), held) or not _is_number(entry.get("value")):
            continue
        links = {
            name: f"{base}/{quote(entry[name])}" if _in(entry.get(name), held) else ""
            for name in ("file", "crop", "where")
        }
        label, photo = (str(entry.get(name) or "") for name in ("label", "photo"))
        found.append({**links, "label": label, "photo": photo, "value": explain.number(entry["value"])})
    return found


def _in(name: Any, held: set[str]) -> bool:
    """Whether a record names a file that is there."""
    return isinstance(name, str) and name in held


def _originals(entries: Any, held: set[str], base: str) -> list[dict[str, Any]]:
    """The photos whose maps were inverted, with what the network says to them."""
    return [
        {
            "file": f"{base}/{quote(entry['file'])}", "crop": "", "where": "", "value": "",
            "label": f"{entry.get('photo') or ''}: {entry.get('label') or ''}", "photo": str(entry.get("photo") or ""),
        }
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and _in(entry.get("file"), held)
    ]  # fmt: skip


def _bars(entries: Any) -> list[dict[str, Any]]:
    """Bars of classes: places in percent of an axis that holds 0 and every interval."""
    names = ("mean", "low", "high")
    bars = [
        bar for bar in (entries if isinstance(entries, list) else ())
        if isinstance(bar, Mapping) and all(_is_number(bar.get(name)) for name in names)
    ]  # fmt: skip
    if len(bars) < 2:
        return []
    left, right = min(0.0, *(bar["low"] for bar in bars)), max(0.0, *(bar["high"] for bar in bars))
    span = (right - left) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - left) / span, 2)

    return [
        {
            "label": str(bar.get("label") or ""),
            "from": place(min(0.0, bar["mean"])),
            "width": round(100 * abs(bar["mean"]) / span, 2),
            "low": place(bar["low"]),
            "spread": round(100 * (bar["high"] - bar["low"]) / span, 2),
            "mean": explain.number(bar["mean"]),
            "interval": f"{explain.number(bar['low'])} to {explain.number(bar['high'])}",
            "n": bar.get("n"),
        }
        for bar in bars
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
