"""The tidy table of answers, one row an answer, as CSV and Parquet with a dictionary of its columns."""

from __future__ import annotations

import csv
import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entoptic.study.answers import table_of_answers
from entoptic.study.exclusions import Exclusions
from entoptic.study.guards import csv_cell
from entoptic.study.records import Answer
from entoptic.study.results import UnitResult
from entoptic.study.text_scores import TextScores

if TYPE_CHECKING:
    import pyarrow as pa

MORE: Mapping[str, str] = {
    "excluded": "whether the registered rules leave this person out of the primary analysis",
    "reasons": "names of the rules that apply, separated by semicolons",
    "similarity": "of a written answer: cosine to the most similar name of the unit's label",
    "similarity_chance": "of a written answer: mean similarity to the labels of the other units, by the same rule",
    "label_rank": "of a written answer: rank of the unit's label among all labels of the study, 1 is first",
    "label_exact": "of a written answer: whether it is one of the label's names",
}
"""Columns beside those of `Answer`."""
UNIT_COLUMNS = (
    "task", "arm", "method", "unit", "label", "outcome", "value", "low", "high", "n", "p", "adjusted_p"
)  # fmt: skip


def tidy_table(answers: Sequence[Answer], exclusions: Exclusions, texts: TextScores | None) -> pa.Table:
    """Returns all answers with the columns of `MORE`; excluded people stay in, marked.

    Args:
        answers: of everybody, practice and catch trials included.
        exclusions: who is left out, and why.
        texts: scores of written answers, or None.
    """
    import pyarrow as pa

    table = table_of_answers(answers)
    reasons = [exclusions.reasons.get(one.participant, ()) for one in answers]
    scores = [texts.by_answer.get((one.participant, one.trial)) if texts else None for one in answers]
    columns: dict[str, tuple[list[Any], pa.DataType]] = {
        "excluded": ([bool(found) for found in reasons], pa.bool_()),
        "reasons": (["; ".join(found) for found in reasons], pa.string()),
        "similarity": ([s.similarity if s else None for s in scores], pa.float64()),
        "similarity_chance": ([s.chance if s else None for s in scores], pa.float64()),
        "label_rank": ([s.rank if s else None for s in scores], pa.float64()),
        "label_exact": ([s.exact if s else None for s in scores], pa.bool_()),
    }
    for name, (values, kind) in columns.items():
        table = table.append_column(name, pa.array(values, kind))
    return table


def csv_bytes(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Returns a table as CSV in UTF-8; a text that a spreadsheet would take for a formula gets an apostrophe before it.

    Args:
        columns: names.
        rows: of values; lists are joined by blanks, None is an empty cell.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def table_csv(table: pa.Table) -> bytes:
    """Returns an Arrow table as CSV; see `csv_bytes`."""
    columns = table.column_names
    return csv_bytes(columns, [[row[name] for name in columns] for row in table.to_pylist()])


def unit_rows(units: Sequence[UnitResult]) -> list[list[Any]]:
    """Returns the rows of `UNIT_COLUMNS`."""
    return [
        [
            one.task, one.arm, one.method, one.unit, one.label, one.outcome, one.value,
            one.interval[0] if one.interval else None, one.interval[1] if one.interval else None, one.n, one.p, one.adjusted_p,
        ]
        for one in units
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """One entry of the data dictionary.

    Attributes:
        name: of the column.
        kind: of its values.
        meaning: in words.
    """

    name: str
    kind: str
    meaning: str


def data_dictionary(table: pa.Table) -> list[Column]:
    """Returns what each column of the tidy table means."""
    meanings = {**field_meanings(Answer), **MORE}
    return [
        Column(name=field.name, kind=str(field.type), meaning=meanings.get(field.name, "")) for field in table.schema
    ]


def field_meanings(record: type) -> dict[str, str]:
    """Returns what the docstring of a record says of its attributes, by name."""
    _, _, attributes = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    last = ""
    for line in attributes.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 4:
            last, _, text = line.strip().partition(": ")
            found[last] = text
        elif indent > 4 and last:
            found[last] += " " + line.strip()
        elif line.strip():
            break
    return found


def dictionary_markdown(columns: Sequence[Column], title: str) -> bytes:
    """Returns the data dictionary as a Markdown table."""
    lines = [f"# {title}", "", "| column | kind | meaning |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.kind} | {one.meaning.replace('|', chr(92) + '|')} |" for one in columns]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return csv_cell(value) if isinstance(value, str) else value
