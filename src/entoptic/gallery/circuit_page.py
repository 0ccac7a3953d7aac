"""Pages of a run's circuits: the nodes with what they write, the edges by effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.base.files import user_path
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.circuit_evidence import MeasuredRow, headline_of, rows_of, verdict_of
from entoptic.gallery.circuit_layout import Layout, lay_out
from entoptic.gallery.circuit_steered import SteeredView, read_steered
from entoptic.gallery.result_pages import page_name, place_of_names, result_links, write_result_pages
from entoptic.names import Suggestion, suggestion_for
from entoptic.runs.circuit import KIND
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run
from entoptic.units.grammar import parse

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
        rows: its measurements.
        headline: names of those that say most, in their order.
        verdict: what they say beside their controls.
        layout: of the drawing.
        pictures: of the nodes, by name.
        links: to the files of the circuit, by name.
        suggestion: suggested name of its unit, or None.
        steered: what steering its edges did, the smallest alpha first.
    """

    file: str
    record: Mapping[str, Any]
    rows: list[MeasuredRow]
    headline: list[MeasuredRow]
    verdict: str
    layout: Layout
    pictures: dict[str, NodePicture]
    links: dict[str, str]
    suggestion: Suggestion | None = None
    steered: list[SteeredView] = field(default_factory=list)


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
    read = list(read_results(run, KIND))
    problems = [problem for result, problem in read if result is None]
    pages = [page for result, _ in read if result is not None and (page := _page(run, result, place)) is not None]
    if not pages:
        damaged = f" that can be shown: {problems[0]}" if problems else "; `entoptic circuit` finds one"
        raise UserError(f"{run.path} holds no circuit{damaged}")
    return write_result_pages(
        run, pages, template="circuit.html", listing="circuits.html", assets=_ASSETS, problems=problems
    )


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
    pictures["output"] = _output(run, result, whole["written"], links)
    rows = rows_of(result.evidence.values())
    return CircuitPage(
        file=page_name(KIND, result), record=result.record, rows=rows,
        headline=headline_of(rows), verdict=verdict_of(result.record, result.evidence), steered=read_steered(run, folder.name),
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


def _output(run: Run, result: Result, written: Mapping[str, Any], links: Mapping[str, str]) -> NodePicture:
    """The output shows the run's picture of the unit itself, else the photo of its class that the deepest node writes most."""
    for picture in run:
        if picture.unit == result.record["unit"]:
            link = quote(Path(os.path.relpath(picture.path, run.path / "gallery")).as_posix())
            return NodePicture(src=link, made=picture.method, photos=[], unit="")
    photos = [photo for photos in list(written.values())[::-1] for photo in photos if photo.get("file") in links]
    best = next((photo for photo in photos if photo.get("of_class")), photos[0] if photos else None)
    return NodePicture(src=links[best["file"]] if best else "", made="", photos=[], unit="")


def _from_here(folder: Path, run: Run) -> str:
    """The folder of a result as a command names it; no page names a folder of the machine, so RUN stands for one elsewhere."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return f"RUN/{folder.relative_to(run.path).as_posix()}"
