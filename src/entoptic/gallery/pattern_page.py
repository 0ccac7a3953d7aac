"""Pages of a run's patterns: each unit by its picture or its strongest photos, each pattern by its photos and what it does."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from entoptic.base.files import user_path
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.result_pages import page_name, place_of_names, result_links, write_result_pages
from entoptic.names import Suggestion, suggestion_for
from entoptic.runs.patterns_record import KIND
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run
from entoptic.units.grammar import parse

PREFERRED = "vital"
"""Method whose picture stands for a unit where a run has several."""
_ASSETS = ("style.css", "common.js", "patterns.css", "icon.svg")


@dataclass(frozen=True, kw_only=True)
class UnitTile:
    """A unit as the page shows it.

    Attributes:
        name: its string.
        src: its picture, "" where photos stand for it.
        made: method that made the picture, "" where there is none.
        photos: that drive it most: link, name, label.
        threshold: it is on above.
        on: of each group, the rows where it is on.
        suggestion: its suggested name, or None.
    """

    name: str
    src: str
    made: str
    photos: list[dict[str, Any]]
    threshold: float
    on: list[int]
    suggestion: Suggestion | None = None


@dataclass(frozen=True, kw_only=True)
class PatternCard:
    """A pattern as the page shows it.

    Attributes:
        number: from 1.
        clauses: of unit tiles.
        entry: of `patterns.json`.
        rates: of both groups, the one that it goes with first: name, rows where it holds, rows, share in percent.
        there: photos of the group that it goes with.
        elsewhere: photos of the other.
        sentence: what its follow-up says.
    """

    number: int
    clauses: list[list[UnitTile]]
    entry: Mapping[str, Any]
    rates: list[tuple[str, int, int, float]]
    there: list[dict[str, Any]]
    elsewhere: list[dict[str, Any]]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class PatternPage:
    """One result, ready for its page.

    Attributes:
        file: name of the page.
        record: of the result.
        title: what was compared.
        lede: of how many photos and units.
        cards: of its patterns.
        chance: sentences on what the same search finds by chance.
        links: to the files of the result, by name.
    """

    file: str
    record: Mapping[str, Any]
    title: str
    lede: str
    cards: list[PatternCard]
    chance: list[str]
    links: dict[str, str]


def write_pattern_pages(run_folder: Path, *, pictures: Path | None = None, names: Path | None = None) -> list[Path]:
    """Writes a page for each result of patterns of a run, and `patterns.html` that lists them, into `RUN/gallery`.

    Args:
        run_folder: of the run.
        pictures: a run whose pictures stand for the units; None for this one.
        names: a file of suggested names, or a folder with one; None looks in the run's folder.

    Returns:
        The pages.

    Raises:
        UserError: there is no run or no result, or the pages cannot be written.
    """
    run = Run.open(user_path(run_folder))
    place = place_of_names(run, names)
    made = _made(run, Run.open(user_path(pictures)) if pictures is not None else run)
    read = list(read_results(run, KIND))
    problems = [problem for result, problem in read if result is None]
    pages = [page for result, _ in read if result is not None and (page := _page(run, result, made, place)) is not None]
    if not pages:
        damaged = f" that can be shown: {problems[0]}" if problems else "; `entoptic patterns` finds some"
        raise UserError(f"{run.path} holds no patterns{damaged}")
    return write_result_pages(
        run, pages, template="pattern_page.html", listing="patterns.html", assets=_ASSETS, problems=problems
    )


def _made(run: Run, pictures: Run) -> dict[tuple[str, str, object], tuple[str, str]]:
    """Pictures of units: link (or the file itself, where another run made it) and method, by layer, file and number."""
    found: dict[tuple[str, str, object], tuple[str, str]] = {}
    for picture in pictures:
        key = _key(picture.unit)
        if key is None or picture.method.startswith("retrieval"):
            continue
        if key in found and not (picture.method == PREFERRED != found[key][1]):
            continue
        if pictures is run:
            src = quote(Path(os.path.relpath(picture.path, run.path / "gallery")).as_posix())
        else:
            src = Markup("data:image/png;base64," + base64.b64encode(picture.path.read_bytes()).decode())
        found[key] = (src, picture.method)
    return found


def _key(unit: str) -> tuple[str, str, object] | None:
    """Layer, file and number of a unit, whatever its readout."""
    try:
        address = parse(unit)
    except UserError:  # a damaged record, which `verify` names
        return None
    return (address.layer, address.path, address.index) if address.kind in ("unit", "dict") else None


def _page(
    run: Run, result: Result, made: Mapping[tuple[str, str, object], tuple[str, str]], names: Path
) -> PatternPage | None:  # fmt: skip
    links = result_links(run, result)
    weights = str(result.record["model"].get("weights_sha256") or "")

    def with_links(photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [photo | {"src": links.get(photo["file"] or "", "")} for photo in photos]

    def tile(unit: str, whole: Mapping[str, Any]) -> UnitTile:
        entry = whole["units"][unit]
        key = _key(unit)
        src, method = made.get(key, ("", "")) if key else ("", "")
        return UnitTile(
            name=unit,
            src=src,
            made=method,
            photos=with_links(entry["photos"]),
            threshold=entry["threshold"],
            on=entry["on"],
            suggestion=suggestion_for(names, unit, weights),
        )

    try:
        whole = read_json(result.file("patterns.json"))
        cards = []
        for number, entry in enumerate(whole["patterns"], 1):
            side = entry["groups"].index(entry["towards"])
            rates = [
                (entry["groups"][i], entry["on"][i], entry["size"][i], 100 * entry["on"][i] / max(1, entry["size"][i]))
                for i in (side, 1 - side)
            ]
            photos = with_links(entry["photos"])
            cards.append(
                PatternCard(
                    number=number, clauses=[[tile(u, whole) for u in clause] for clause in entry["clauses"]], entry=entry,
                    rates=rates, there=[p for p in photos if p["towards"]], elsewhere=[p for p in photos if not p["towards"]],
                    sentence=sentence_of(entry["change"], len([u for c in entry["clauses"] for u in c]),
                                         result.record["asked"]["ablate"], str(result.record["layer"])),
                )
            )  # fmt: skip
        title = title_of(result.record["question"], str(result.record["model"]["name"]), result.record["groups"])
        return PatternPage(
            file=page_name(KIND, result), record=result.record,
            title=title, lede=_lede(result.record, whole),
            cards=cards, chance=[_chance(e) for e in result.evidence.values() if e["name"] in CHANCE],
            links={name: link for name, link in links.items() if not name.startswith("photo")},
        )  # fmt: skip
    except (Unreadable, UserError, LookupError, TypeError):
        return None


def title_of(question: Mapping[str, Any], model: str, groups: Sequence[str]) -> str:
    """Returns what was compared, in words.

    Args:
        question: of the record.
        model: name of the network.
        groups: their names.
    """
    kind = question["kind"]
    if kind == "Errors":
        of = f" on photos of {question['of']}" if question["of"] else ""
        taken = f" that it takes for {question['taken_for']}" if question["taken_for"] else ""
        return f"Where {model} errs{of}{taken}"
    if kind == "Between":
        return f"{groups[1]} against {groups[0]}"
    return f"{model} against {question['other']}" if kind == "Networks" else "Every class"


CHANCE = {
    "found_with_shuffled_groups": "With groups drawn at random {found} of {n} searches found anything ({low:.0f} to {high:.0f} %).",
    "found_against_itself": "On one half of the photos against the other half, the first network differed from itself in "
    "{found} of {n} searches ({low:.0f} to {high:.0f} %).",
    "agreement_of_units": "Unit by unit, both networks answer to the photos alike: median correlation {value:.2f} ({low:.2f} to "
    "{high:.2f}, n = {n} units); with other units {with_other_units:.2f}.",
}
"""What is said of the controls, by name."""


def _chance(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return f"{str(entry['reason'])[:1].upper()}{str(entry['reason'])[1:]}."
    low, high = entry["interval"] or (0.0, 0.0)
    return CHANCE[entry["name"]].format(value=entry["value"], n=entry["n"], low=low, high=high, **entry["detail"])


def _lede(record: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    groups = whole["groups"]
    sizes = (
        " and ".join(
            f"{g['rows']} {'' if record['question']['kind'] == 'Errors' else 'of '}{g['name']}" for g in groups
        )
        if len(groups) <= 3
        else f"{sum(g['rows'] for g in groups)} photos of {len(groups)} classes"
    )
    on = 100 * (1 - record["asked"]["quantile"])
    unread = f" {told}." if (told := record.get("unread")) else ""  # not in records of earlier versions
    return (
        f"{record['items']} units of {record['layer']}, each on in its strongest {on:g} % of photos; {sizes}. A pattern names "
        "units that are on together more often in one group, as far as saying so shortens the description of all photos."
        + unread
    )


def sentence_of(change: Mapping[str, Any], units: int, ablate: str, layer: str) -> str:
    """Returns what a pattern's follow-up says, in words.

    Args:
        change: of `patterns.json`.
        units: of the pattern.
        ablate: what they were set to.
        layer: name of the layer, or dict(PATH).
    """
    if "reason" in change:
        return f"Not followed up: {change['reason']}."
    this = "this unit" if units == 1 else f"these {units} units"
    how = (
        "taken out"
        if layer.startswith("dict(")
        else f"set to {'their mean' if units > 1 else 'its mean'}"
        if ablate == "mean"
        else "set to zero"
    )
    low, high = change["interval"]
    text = (
        f"With {this} {how}, {change['after']:.0f} % instead of {change['before']:.0f} % of {change['n']} of its photos are right "
        f"({_signed(change['points'])} points, {_signed(low)} to {_signed(high)})."
    )
    if change["random"]:
        low, high, p = min(change["random"]), max(change["random"]), change["rank_p"]
        text += f" {len(change['random'])} random sets of as many units: {_signed(low)} to {_signed(high)} points (p = {p:.2g})."
    return text.replace(" %", "\u00a0%").replace("(p = ", "(p\u00a0=\u00a0")


def _signed(points: float) -> str:
    whole = round(points)
    return f"+{whole}" if whole > 0 else f"−{-whole}" if whole else "0"
