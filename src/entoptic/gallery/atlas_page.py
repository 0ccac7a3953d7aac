"""The page of an atlas: a map on a canvas, with pictures where there is room, search, colours and links."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from entoptic.atlases.contract import Space
from entoptic.base.files import folder_exists, user_path
from entoptic.base.records import read_json, read_tensors
from entoptic.errors import Unreadable, UserError, counted
from entoptic.gallery.local_paths import without_folders
from entoptic.gallery.result_pages import page_name, place_of_names, result_links, write_result_pages
from entoptic.names import suggestion_for
from entoptic.runs.atlas import KIND
from entoptic.runs.atlas_picture import PALETTE, SCALE, UNKNOWN
from entoptic.runs.atlas_thumbnails import SIDE
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run
from entoptic.units.unit import slug

_ASSETS = ("style.css", "common.js", "atlas.css", "atlas_draw.js", "atlas.js", "icon.svg")
_WHOLE = 65535


@dataclass(frozen=True, kw_only=True)
class AtlasPage:
    """One atlas, ready for its page.

    Attributes:
        file: name of the page.
        data: name of the file with its points.
        record: of the result.
        evidence: rows of name, value, interval, n, chance, meaning, and whether it is no better than chance.
        still: link to the still picture.
        links: to its other files, by name.
        noise: names of what is no better on this map than on a random one.
    """

    file: str
    data: str
    record: Mapping[str, Any]
    evidence: list[tuple[str, str, str, str, str, str, bool]]
    still: str
    links: dict[str, str]
    noise: list[str]


def check_gallery(gallery: str | Path) -> Path:
    """Returns the folder of a gallery.

    Args:
        gallery: the folder, as it was given.

    Raises:
        UserError: it is not there.
    """
    folder = user_path(gallery)
    if not folder_exists(folder):
        raise UserError(f"there is no gallery in {folder}; `entoptic gallery RUN` makes one")
    return folder


def write_atlas_pages(
    run_folder: str | Path, gallery: str | Path | None = None, *, names: str | Path | None = None
) -> list[Path]:
    """Writes a page for each atlas of a run, and `atlases.html` that lists them, into `RUN/gallery`.

    Args:
        run_folder: of the run.
        gallery: with pages of units that points lead to (default: `RUN/gallery`).
        names: a file of suggested names, or a folder with one; None looks in the run's folder.

    Returns:
        The pages, in the order of their names.

    Raises:
        UserError: there is no run or no atlas, or the pages cannot be written.
    """
    run = Run.open(user_path(run_folder))
    read = list(read_results(run, KIND))
    problems = [problem for result, problem in read if result is None]
    out = run.path / "gallery"
    pages_of_units = check_gallery(gallery) if gallery is not None else out
    place = place_of_names(run, None if names is None else user_path(names))
    pages: list[AtlasPage] = []
    points: dict[str, str] = {}
    for result in [result for result, _ in read if result is not None]:
        try:
            page, data = _page(run, result, pages_of_units, place)
        except (Unreadable, LookupError, TypeError, ValueError) as error:  # a record that was edited by hand
            problems.append(f"{result.path.parent.name}: its record is damaged ({type(error).__name__})")
            continue
        pages.append(page)
        points[page.data] = data
    if not pages:
        damaged = f" that can be shown: {problems[0]}" if problems else "; `entoptic atlas` makes one"
        raise UserError(f"{run.path} holds no atlas{damaged}")
    return write_result_pages(
        run, pages, template="atlas.html", listing="atlases.html", assets=_ASSETS, beside=points, problems=problems
    )


def _page(run: Run, result: Result, pages_of_units: Path, names: Path) -> tuple[AtlasPage, str]:
    record = result.record
    out = run.path / "gallery"
    links = result_links(run, result)
    measured = record["faithfulness"]
    file = page_name(KIND, result)
    page = AtlasPage(
        file=file, data=file.removesuffix(".html") + ".js", record=record, evidence=[_row(entry) for entry in measured],
        still=links["map.webp"], links={n: link for n, link in links.items() if not n.endswith(".webp")},
        noise=[m["name"] for m in measured if m["name"] != "known" and m["interval"][0] <= m["chance"]],
    )  # fmt: skip
    return page, _data(result, links, out, pages_of_units, names)


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str, str, str, bool]:
    low, high = entry["interval"]
    is_noise = entry["name"] != "known" and low <= entry["chance"]
    return (
        str(entry["name"]), f"{entry['value']:.2f}", f"{low:.2f} to {high:.2f}", f"{entry['n']:,}", f"{entry['chance']:.2g}",
        str(entry["means"]), is_noise,
    )  # fmt: skip


def _data(result: Result, links: Mapping[str, str], out: Path, pages_of_units: Path, place: Path) -> str:
    """The points as a script: positions and numbers packed, so that 50,000 points are read at once."""
    record = result.record
    whole = read_json(result.file("points.json"))
    positions = read_tensors(result.file("map.safetensors")).get("positions", None, None).numpy().astype(np.float64)
    if len(positions) != len(whole["names"]) or not len(positions):
        raise ValueError("the map has other points than its list")
    sphere = record["space"] == Space.SPHERE
    low, high = positions.min(0), positions.max(0)
    middle, half = ((low + high) / 2, max(float((high - low).max()) / 2, 1e-12)) if not sphere else (np.zeros(3), 1.0)
    at = np.clip(np.rint(((positions - middle) / half + 1) / 2 * _WHOLE), 0, _WHOLE).astype("<u2")
    sheets = [links[f"thumbnails{i}.webp"] for i in range(int(record["sheets"]))]
    names = [without_folders(str(name)) for name in whole["names"]]
    data = {
        "n": len(names), "sphere": sphere, "at": [_packed(column) for column in at.T], "names": _lines(names),
        "labels": _lines(map(str, whole["labels"])), "columns": [_column(one) for one in whole["columns"]],
        "first": record["colour"], "cell": record["cell"], "side": SIDE, "sheets": sheets, "palette": PALETTE, "scale": SCALE,
        "unknown": UNKNOWN, "links": _unit_links(whole["names"], out, pages_of_units) if record["of"] != "photos" else {},
        "noun": record["of"], "suggested": _suggested(whole["names"], record, place),
    }  # fmt: skip
    return f"window.ATLAS = {json.dumps(data, ensure_ascii=False, separators=(',', ':'), allow_nan=False)};\n"


def _suggested(units: list[str], record: Mapping[str, Any], place: Path) -> dict[str, list[str]]:
    """The suggested name of each unit that has one and what speaks for it, by the point's number."""
    if record["of"] == "photos":
        return {}
    weights = str(record["model"].get("weights_sha256") or "")
    found = {i: suggestion_for(place, unit, weights) for i, unit in enumerate(units)}
    return {
        str(i): [one.name, f"rho {one.rho:.2f} [{one.low:.2f}, {one.high:.2f}], n = {one.n}"]
        for i, one in found.items() if one is not None
    }  # fmt: skip


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    kinds = column["kinds"]
    values = [math.nan if v is None else v for v in column["values"]]
    kind = "<i2" if kinds is not None else "<f4"
    return {
        "name": column["name"], "title": column["title"], "kinds": kinds, "values": _packed(np.array(values).astype(kind)),
    }  # fmt: skip


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _lines(texts: Any) -> str:
    return "\n".join(" ".join(text.split()) for text in texts)


def _unit_links(names: list[str], out: Path, pages: Path) -> dict[str, str]:
    """The page of each unit that has one, by the point's number."""
    try:
        there = {entry.name for entry in os.scandir(pages) if entry.name.startswith("unit-")}
        root = quote(Path(os.path.relpath(pages, out)).as_posix())
    except (OSError, ValueError):  # no gallery, or on another drive
        return {}
    prefix = "" if root == "." else f"{root}/"
    files = {str(i): f"unit-{slug(name)}.html" for i, name in enumerate(names)} if there else {}
    return {i: prefix + quote(file) for i, file in files.items() if file in there}


def summary(record: Mapping[str, Any]) -> str:
    """Returns what an atlas shows, in a line."""
    return f"{counted(record['n'], str(record['of'])[:-1])} by {record['layer']}, {record['map']}"
