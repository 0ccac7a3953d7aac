"""What steering a circuit's edges did, for its page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.circuit_evidence import MEANINGS, MeasuredRow, row_of
from entoptic.runs.circuit_steering import KIND
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run

_ENDS = ("_steered", "_random_edges")


@dataclass(frozen=True, kw_only=True)
class SteeredRow:
    """One measurement before and after, and with random edges.

    Attributes:
        name: in words.
        meaning: what it says.
        before: as the network is; None where only a change is measured.
        steered: with the circuit's edges steered.
        random: with as many random edges steered; None where that was not measured.
    """

    name: str
    meaning: str
    before: MeasuredRow | None
    steered: MeasuredRow
    random: MeasuredRow | None


@dataclass(frozen=True, kw_only=True)
class SteeredPhoto:
    """One photo on which steering was judged.

    Attributes:
        src: link to it, "" where no copies are kept.
        name: of its file.
        label: its own class, "" where it is not known.
        before: what the network takes it for.
        after: the same with the circuit's edges steered.
        mended: whether it was not taken for its class and now is; None where its class is not known.
    """

    src: str
    name: str
    label: str
    before: str
    after: str
    mended: bool | None


@dataclass(frozen=True, kw_only=True)
class SteeredView:
    """One result of steering.

    Attributes:
        alpha: share that was taken out.
        edges: how many were steered.
        rows: what was measured.
        photos: on which it was judged.
        command: that makes it.
        verdict: what it says in a sentence.
    """

    alpha: float
    edges: int
    rows: list[SteeredRow]
    photos: list[SteeredPhoto]
    command: str
    verdict: str


def read_steered(run: Run, circuit: str) -> list[SteeredView]:
    """Reads what steering a circuit did, the smallest alpha first.

    Args:
        run: of the circuit.
        circuit: name of its folder.
    """
    found = [
        view for result, _ in read_results(run, KIND)
        if result is not None and result.record.get("circuit") == circuit and (view := _view(run, result)) is not None
    ]  # fmt: skip
    return sorted(found, key=lambda view: view.alpha)


def _view(run: Run, result: Result) -> SteeredView | None:
    record, evidence = result.record, result.evidence
    try:
        return SteeredView(
            alpha=float(record["alpha"]), edges=int(record["edges"]), rows=_rows(evidence), photos=_photos(run, result),
            command=str(record["command"]), verdict=_verdict(evidence),
        )  # fmt: skip
    except (LookupError, TypeError, ValueError):
        return None


def _rows(evidence: Mapping[str, Mapping[str, Any]]) -> list[SteeredRow]:
    rows = []
    for name, entry in evidence.items():
        if name.endswith(_ENDS):
            continue
        steered, random = (evidence.get(f"{name}{end}") for end in _ENDS)
        rows.append(
            SteeredRow(
                name=name.replace("_", " "), meaning=MEANINGS.get(name, ""),
                before=row_of(entry) if steered is not None else None, steered=row_of(entry if steered is None else steered),
                random=row_of(random) if random is not None else None,
            )
        )  # fmt: skip
    return rows


def _photos(run: Run, result: Result) -> list[SteeredPhoto]:
    try:
        entries = read_json(result.file("steered.json")).get("photos", [])
    except (Unreadable, UserError):
        return []
    shown = []
    for entry in entries:
        src = ""
        if entry["file"] in result.record["files"]:
            src = quote(Path(os.path.relpath(result.file(entry["file"]), run.path / "gallery")).as_posix())
        shown.append(
            SteeredPhoto(
                src=src, name=str(entry["name"]), label=str(entry["label"]), before=str(entry["before"]),
                after=str(entry["after"]), mended=entry["mended"],
            )
        )  # fmt: skip
    return shown


def _verdict(evidence: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether steering the circuit lowers the unit's score more than steering random edges does."""
    steered, random = (evidence.get(f"score_change_driven{end}") for end in ("", "_random_edges"))
    if steered is None or random is None or steered["value"] is None or random["value"] is None:
        return ""
    if not steered["interval"] or not random["interval"]:
        return ""
    if steered["interval"][1] < random["interval"][0]:
        return "It lowers the score more than steering as many random edges does."
    if random["interval"][1] < steered["interval"][0]:
        return "Steering as many random edges lowers the score more."
    return "Steering as many random edges does about the same: the intervals overlap."
