"""Pages of a run's commitments: the curves, what was measured, and the pictures at each switch, in one file each."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entoptic.base.files import user_path
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.result_pages import page_name, writing_pages
from entoptic.gallery.site import page_environment, write_page
from entoptic.plots.commitment import WORDS, draw
from entoptic.runs.commitment import FILE, KIND
from entoptic.runs.commitment_record import SHOWN
from entoptic.runs.results import Result, read_results
from entoptic.runs.store import Run


def write_commitment_pages(run_folder: Path) -> list[Path]:
    """Writes a page for each commitment of a run into `RUN/gallery`. Each is one file that needs no other.

    Args:
        run_folder: of the run.

    Returns:
        The pages.

    Raises:
        UserError: there is no run or no commitment, or the pages cannot be written.
    """
    run = Run.open(user_path(run_folder))
    found = [result for result, _ in read_results(run, KIND) if result is not None]
    texts = {page_name(KIND, result): text for result in found if (text := _page(result))}
    if not texts:
        raise UserError(f"{run.path} holds no commitment; `entoptic commitment` measures one")
    with writing_pages(run.path) as out:
        for name, text in texts.items():
            write_page(out / name, text)
    return [out / name for name in texts]


def _page(result: Result) -> str:
    try:
        record = read_json(result.file(FILE))
        sides = [_side(result, record, side) for side in record["curves"]]
        rows = [_row(entry) for entry in result.evidence.values()]
        curve = draw(record).svg("commitment", standalone=False)
    except (Unreadable, LookupError, TypeError, ValueError):  # a damaged record, which `verify` names
        return ""
    template = page_environment().get_template("commitment.html")
    return template.render(record=record, about=result.record, curve=curve, rows=rows, sides=sides)


def _side(result: Result, record: Mapping[str, Any], side: str) -> dict[str, Any]:
    """The sheet of one side with what stands in each of its cells."""
    curve, threshold = record["curves"][side], record["threshold"]["value"]
    shown = min(SHOWN, curve["n"])
    cells = [
        {
            "hit": bool(curve["successes"][k][row]),
            "says": f"seed {row}, switch at {place:.0%}: score "
            + ("lost" if curve["scores"][k][row] is None else f"{curve['scores'][k][row]:.3g}")
            + (" (above " if curve["successes"][k][row] else " (below ")
            + f"{threshold:.3g})",
        }
        for row in range(shown)
        for k, place in enumerate(curve["places"])
    ]
    image = base64.b64encode(result.file(f"{side}.png").read_bytes()).decode()
    heads = [{"place": f"{place:.0%}", "rate": f"{rate:.0%}"} for place, rate in zip(curve["places"], curve["rates"])]
    return {"words": WORDS[side], "image": image, "cells": cells, "heads": heads, "shown": shown, "lost": curve["lost"]}


_NAMES = {
    "success_guided": "success with guidance at every step", "success_unguided": "success without guidance",
    "tau50_on": "latest switch on with 50 % success", "tau70_on": "latest switch on with 70 % success",
    "width_on": "between the two", "tau50_off": "earliest switch off with 50 % success",
    "tau70_off": "earliest switch off with 70 % success", "width_off": "between the two",
    "success_in_window": "success with guidance in the window alone, fresh seeds",
}  # fmt: skip


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = _NAMES.get(str(entry["name"]), str(entry["name"]))
    if entry["value"] is None:
        return name, "", str(entry["reason"]), ""
    low, high = entry["interval"]
    return name, f"{entry['value']:.0%}", f"{low:.0%} to {high:.0%}", str(entry["n"])
