"""The table of all frontiers of a run, `RUN/frontier/table.md`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import Unreadable
from entoptic.plots.frontier import HEADINGS, row
from entoptic.runs.store import Run


def table_of(run: Run, fresh: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns one table for each unit in Markdown; a record that is damaged is left out.

    Args:
        run: that holds the records.
        fresh: records that replace those of the run, by file name.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for path in sorted((run.path / "frontier").glob("*.json")):
        with contextlib.suppress(Unreadable):
            if is_inside(path, run.path):
                records[path.name] = read_json(path)
    parts = []
    for record in (records | dict(fresh)).values():
        with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            parts.append(_of_unit(record))
    return "\n".join(parts)


def _of_unit(record: Mapping[str, Any]) -> str:
    title = f"{record['unit']}" + (f" ({record['label']})" if record.get("label") else "")
    lines = [f"## {title}", "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row(place)) + " |" for place in record["places"]]
    lines += ["", *(f"- {note}" for note in record["notes"]), *(f"- failed: {f}" for f in record["failures"]), ""]
    return "\n".join(lines)
