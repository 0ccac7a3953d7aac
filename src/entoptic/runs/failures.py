"""What a run keeps of its failures: why some pictures that were asked for are not there.

RUN/failures.json       of every request, until the same units and methods are asked for again
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from entoptic.base.files import file_exists, is_inside, json_bytes, path_exists
from entoptic.base.records import is_a, read_json
from entoptic.errors import Unreadable
from entoptic.methods.contract import Failure, FailureCode

if TYPE_CHECKING:
    from entoptic.runs.store import Run

FILE = "failures.json"
_FORMAT = 1


def read_failures(run: Run) -> list[Failure]:
    """Returns the failures that a run keeps. A file that cannot be read is one itself.

    Args:
        run: the run.
    """
    file = run.path / FILE
    if not path_exists(file) and not file.is_symlink():
        return []
    try:
        if not is_inside(file, run.path):
            raise Unreadable(f"{FILE} cannot be read: it is a link to what lies outside of the run")
        entries = read_json(file).get("failures")
        names = ("unit", "method", "code", "text")
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and all(is_a(entry.get(name), str) for name in names) for entry in entries
        ):
            raise Unreadable(f"{FILE} is damaged: it lists no failures")
    except Unreadable as error:
        return [Failure(code=FailureCode.UNREADABLE, text=str(error))]
    codes = {code.value: code for code in FailureCode}
    return [
        Failure(unit=e["unit"], method=e["method"], code=codes.get(e["code"], FailureCode.REFUSED), text=e["text"])
        for e in entries
    ]


def keep_failures(run: Run, asked: Collection[tuple[str, str]], found: Sequence[Failure]) -> None:
    """Writes down what failed; earlier failures stay where they are of other units or methods.

    Args:
        run: that is being written (inside `run.writing`).
        asked: (unit, method) of all that was asked for.
        found: what failed of it.
    """
    units = {unit for unit, _ in asked} | {failure.unit for failure in found}

    def still_holds(failure: Failure) -> bool:
        if not failure.unit:  # of an earlier request as a whole
            return False
        return (failure.unit, failure.method) not in asked if failure.method else failure.unit not in units

    write_failures(run, [*filter(still_holds, read_failures(run)), *found])


def write_failures(run: Run, failures: Sequence[Failure]) -> None:
    """Writes failures in place of those that a run keeps, doubles dropped. Without any, a run has no such file.

    Args:
        run: that is being written (inside `run.writing`).
        failures: what it is to keep.
    """
    kept = [
        {"unit": one.unit, "method": one.method, "code": str(one.code), "text": one.text}
        for one in dict.fromkeys(failures)
    ]
    if kept or file_exists(run.path / FILE):
        run.put(run.path / FILE, json_bytes({"format": _FORMAT, "failures": kept}))
