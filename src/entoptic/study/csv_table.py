"""Rows of records as a CSV table that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from entoptic.study.guards import csv_cell


def csv_of(rows: Sequence[Any], kind: type | None = None) -> str:
    """Returns rows of a dataclass as CSV, one column a field.

    Texts that a spreadsheet would take for a formula get an apostrophe in front; lists are joined by spaces; what is not known
    is empty.

    Args:
        rows: records of one kind.
        kind: of the records, for the header of a table without rows.
    """
    kind = kind or (type(rows[0]) if rows else None)
    if kind is None:
        return ""
    names = [one.name for one in fields(kind)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in names])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return csv_cell(" ".join(value) if isinstance(value, tuple) else str(value))
