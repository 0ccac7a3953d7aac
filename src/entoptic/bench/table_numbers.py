"""Compares a benchmark's table with one that was computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from entoptic.bench.intervals import Interval
from entoptic.bench.measure import ALL, UNTOUCHED
from entoptic.bench.results import Cell, Results
from entoptic.runs.same import same_numbers
from entoptic.runs.verify import TOLERANCE, Verification

PARTS = {"found": "the number", "n": "n", "over": "what it is over", "real": "the number of real photos", "gap": "the gap",
         "reason": "the reason"}  # fmt: skip
"""What a cell holds, in words."""


def compare_tables(stored: Results, fresh: Results, found: Verification, without: frozenset[str] = frozenset()) -> None:
    """Compares every number of a table with what was computed again, and what is told by them.

    Args:
        stored: the table.
        fresh: it again.
        found: takes what differs, and how many numbers could not be computed again.
        without: judges of the table that are not here now. Their numbers, and means over all judges, are left out.
    """

    def is_here(cell: Cell) -> bool:
        return not without or cell.judge not in {*without, ALL, UNTOUCHED}

    before, now = ([cell for cell in one.cells if is_here(cell)] for one in (stored, fresh))
    if left_out := sum(cell.found is not None for cell in stored.cells if not is_here(cell)):
        what = "1 number of the table: it needs" if left_out == 1 else f"{left_out:,} numbers of the table: these need"
        them = "it" if len(without) == 1 else "them"
        found.leaves_out(f"{what} {', '.join(sorted(without))}; give {them} with --verifiers")
    _compare_places([_place(cell) for cell in before], [_place(cell) for cell in now], found, partly=bool(without))
    again = {_place(cell): cell for cell in now}
    for cell in before:
        if (other := again.get(_place(cell))) is not None:
            found.numbers += cell.found is not None
            found.drift += _wrong_cell(cell, other)
    if not _close_costs(stored, fresh):
        found.drift.append("table.json: its costs are not those of the pictures")
    if set(stored.failures) != set(fresh.failures):
        found.drift.append("table.json: its failures are not those that are found again")
    if not without:
        for name in ("untouched", "related", "clip"):
            if not same_numbers(stored.measured_with.get(name), fresh.measured_with.get(name), TOLERANCE):
                found.drift.append(f"table.json: its {name} judges are {stored.measured_with.get(name)}, found again "
                                   f"{fresh.measured_with.get(name)}")  # fmt: skip


def _compare_places(before: list[str], now: list[str], found: Verification, *, partly: bool) -> None:
    for place in sorted({place for place in before if before.count(place) > 1}):
        found.drift.append(f"table.json: {place} is there {before.count(place)} times")
    known, all_now = set(before), set(now)
    found.drift += [
        f"table.json: {place} is no number of this benchmark" for place in dict.fromkeys(before) if place not in all_now
    ]
    if not partly:
        found.drift += [f"table.json: {place} is not there" for place in now if place not in known]
    common = [place for place in now if place in known]
    if [place for place in dict.fromkeys(before) if place in all_now] != list(dict.fromkeys(common)):
        found.drift.append(
            "table.json: its numbers are in another order, and the first method is what others are compared with"
        )


def _wrong_cell(cell: Cell, again: Cell) -> Iterator[str]:
    for name, words in PARTS.items():
        told, true = (_plain(getattr(one, name)) for one in (cell, again))
        if not same_numbers(told, true, TOLERANCE):
            yield f"table.json: {_place(cell)}: {words} is {_words(told)}, computed again {_words(true)}"
        elif name == "gap" and _side(cell.gap) != _side(again.gap):  # close, but who is ahead hangs on it
            yield f"table.json: {_place(cell)}: the gap is {_words(told)}, which is on the other side of 0 than {_words(true)}"


def _side(gap: Interval | None) -> tuple[bool, bool]:
    """Whether a difference is above 0, and below it, but for rounding."""
    return (False, False) if gap is None else (gap.low > 1e-6, gap.high < -1e-6)


def _close_costs(stored: Results, fresh: Results) -> bool:
    return len(stored.costs) == len(fresh.costs) and all(
        same_numbers(asdict(a), asdict(b), TOLERANCE) for a, b in zip(stored.costs, fresh.costs)
    )


def _place(cell: Cell) -> str:
    return ", ".join(filter(None, (cell.subject, cell.method, cell.column, cell.judge)))


def _plain(value: Any) -> Any:
    return None if value is None else value if isinstance(value, str | int | float) else asdict(value)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_words(one)}" for name, one in value.items())
    return "nothing" if value is None else f"{value:.6g}" if isinstance(value, int | float) else f'"{value}"'
