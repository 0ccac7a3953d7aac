"""The panel of a unit's frontier on its page, drawn from the record that `entoptic frontier` stored with the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from entoptic.runs.frontier_plot import HEADINGS, draw, row


def read_frontier(run_folder: Path, folder: str, weights: str) -> dict[str, Any] | None:
    """The drawing (inline SVG), its table and what stands below, or None where there is no whole record.

    folder: of the unit, below `RUN/pictures`. weights: sha256 of the network; one folder may hold a unit of two.
    """
    try:
        record = json.loads((run_folder / "frontier" / f"{folder}.json").read_text(encoding="utf-8"))
        if record["model"]["weights_sha256"] != weights or not record["frontier"]:
            return None
        drawn = draw(record).svg("frontier", standalone=False)  # which escapes every text of the record
        rows = [row(place) for place in record["places"]]
        remarks = [str(note) for note in (*record["notes"], *(f"failed: {f}" for f in record["failures"]))]
        return {
            "svg": Markup(drawn), "headings": HEADINGS, "rows": rows, "remarks": remarks,
            "prior": str(record["prior"]["name"]), "command": str(record["command"]),
            "masses": any(place["kind"] == "point" for place in record["places"]),
            "chains": any(place["kind"] == "bounds" for place in record["places"]),
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError):
        return None
