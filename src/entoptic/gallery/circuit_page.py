"""Pages of a run's circuits: the nodes with what they write, the edges by effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.base.files import user_path
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.circuit_layout import Layout, lay_out
from entoptic.gallery.result_pages import page_name, place_of_names, result_links, write_result_pages
from entoptic.names import Suggestion, suggestion_for
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run
from entoptic.units.grammar import parse

KIND = "circuit"
_ASSETS = ("style.css", "common.js", "circuit.css", "circuit.js", "icon.svg")


@dataclass(frozen=True, kw_only=True)
class NodePicture:
    """What a node shows.

    Attributes:
        src: link to its picture: one that the run made of its direction, else the photo that it writes most.
        made: method that made it, "" for a photo.
        photos: of what it writes most: link, name, label, whether of the class.
        unit: its direction as a unit, "" where it has none.
        suggestion: its suggested name, or None.
    """

    src: str
    made: str
    photos: list[dict[str, Any]]
    unit: str
    suggestion: Suggestion | None = None


@dataclass(frozen=True, kw_only=True)
class CircuitPage:
    """One circuit, ready for its page.

    Attributes:
        file: name of the page.
        record: of the result.
        evidence: rows of name, value, interval, n.
        layout: of the drawing.
        pictures: of the nodes, by name.
        links: to the files of the circuit, by name.
        suggestion: suggested name of its unit, or None.
    """

    file: str
    record: Mapping[str, Any]
    evidence: list[tuple[str, str, str, str]]
    layout: Layout
    pictures: dict[str, NodePicture]
    links: dict[str, str]
    suggestion: Suggestion | None = None


def write_circuit_pages(run_folder: Path, names: Path | None = None) -> list[Path]:
    """Writes a page for each circuit of a run, and `circuits.html` that lists them, into `RUN/gallery`.

    Args:
        run_folder: of the run.
        names: a file of suggested names, or a folder with one; None looks in the run's folder.

    Returns:
        The pages of the circuits.

    Raises:
        UserError: there is no run or no circuit, or the pages cannot be written.
    """
    run = Run.open(user_path(run_folder))
    place = place_of_names(run, names)
    results = [result for result, _ in read_results(run, KIND) if result is not None]
    pages = [page for result in results if (page := _page(run, result, place)) is not None]
    if not pages:
        raise UserError(f"{run.path} holds no circuit; `entoptic circuit` finds one")
    return write_result_pages(run, pages, template="circuit.html", listing="circuits.html", assets=_ASSETS)


def _page(run: Run, result: Result, names: Path) -> CircuitPage | None:
    try:
        whole = read_json(result.file("circuit.json"))
        layout = lay_out(whole["nodes"], whole["edges"])
    except (Unreadable, UserError, LookupError, TypeError):
        return None
    folder = result.path.parent
    links = result_links(run, result)
    made = _made(run, folder.name)
    pictures = {
        tile.name: _picture(tile.name, whole["written"].get(tile.name, []), links, made, folder, run, names)
        for tile in layout.tiles
    }
    evidence = [_row(entry) for entry in result.evidence.values()]
    return CircuitPage(
        file=page_name(KIND, result), record=result.record, evidence=evidence,
        layout=layout, pictures=pictures, links={n: link for n, link in links.items() if not n.startswith("photo")},
        suggestion=suggestion_for(names, result.name, str(result.record["model"].get("weights_sha256") or "")),
    )  # fmt: skip


def _made(run: Run, folder: str) -> dict[str, tuple[str, str]]:
    """Pictures that the run has of directions of a circuit: link and method by the node's name."""
    found: dict[str, tuple[str, str]] = {}
    for picture in run:
        try:
            address = parse(picture.unit)
        except UserError:  # a damaged record, which `verify` names
            continue
        if address.kind == "dir" and Path(address.path).parent.name == folder:
            link = quote(Path(os.path.relpath(picture.path, run.path / "gallery")).as_posix())
            found.setdefault(address.name, (link, picture.method))
    return found


def _picture(
    name: str, photos: list[dict[str, Any]], links: Mapping[str, str], made: Mapping[str, tuple[str, str]], folder: Path,
    run: Run, names: Path,
) -> NodePicture:  # fmt: skip
    shown = [photo | {"src": links[photo["file"]]} for photo in photos if photo.get("file") in links]
    src, method = made.get(name, (shown[0]["src"] if shown else "", ""))
    has_direction = "directions.safetensors" in links and bool(photos) and name != "embedding"
    unit = f"dir({_from_here(folder, run)}/directions.safetensors#{name})" if has_direction else ""
    return NodePicture(
        src=src, made=method, photos=shown, unit=unit, suggestion=suggestion_for(names, unit) if unit else None
    )


def _from_here(folder: Path, run: Run) -> str:
    """The folder of a result as a command names it; no page names a folder of the machine, so RUN stands for one elsewhere."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return f"RUN/{folder.relative_to(run.path).as_posix()}"


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = str(entry["name"]).replace("_", " ")
    if entry["value"] is None:
        return name, "", str(entry["reason"]), ""
    unit = f" {entry['scale']}" if entry["scale"] else ""
    low, high = entry["interval"] or (None, None)
    interval = "" if low is None else "exact" if low == high else f"{low:.3g} to {high:.3g}{unit}"
    return name, f"{entry['value']:.3g}{unit}", interval, str(entry["n"])
