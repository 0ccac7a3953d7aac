"""What a benchmark found: cells with intervals, costs as ratios, and what they were measured with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from entoptic.bench.intervals import Interval
from entoptic.errors import UserError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table, or the reason why there is none.

    Attributes:
        subject: name of the part.
        method: label of the row.
        column: a key of `COLUMNS`.
        judge: the network that judged, "" where none did, "all" for the mean over judges.
        found: the value with its interval, or None.
        n: how many of `over` are behind it.
        over: what the interval is over.
        real: the same number of real photos, None where it is not known.
        gap: paired difference to the first method, None for that method itself and where there is none.
        reason: why there is no value.
    """

    subject: str
    method: str
    column: str
    judge: str = ""
    found: Interval | None = None
    n: int = 0
    over: str = "units"
    real: float | None = None
    gap: Interval | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method took, in multiples of the first method of the same part in the same run.

    Attributes:
        subject: name of the part.
        method: label of the row.
        evaluations: network evaluations of a picture, as a number.
        ratio: of evaluations, to the first method's.
        time: of wall time, to the first method's; of this run alone, without an interval.
        pictures: that were counted.
    """

    subject: str
    method: str
    evaluations: int | None
    ratio: float | None
    time: float | None
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of the page.

    Attributes:
        subject: name of the part.
        method: label of the row.
        unit: string of the unit.
        label: what people call it.
        seed: of the run.
        file: of the PNG, relative to the benchmark's folder.
    """

    subject: str
    method: str
    unit: str
    label: str
    seed: int
    file: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """A benchmark's table.

    Attributes:
        recipe: the recipe, as `recipe_json` gives it.
        measured_with: versions of what makes and measures a picture, and what the photos were.
        cells: the numbers.
        costs: ratios of evaluations and of time.
        failures: what could not be made, in words.
        about: command, versions and hardware class.
        shown: pictures of the page; not stored with the table.
    """

    recipe: dict[str, Any]
    measured_with: dict[str, Any]
    cells: tuple[Cell, ...]
    costs: tuple[Cost, ...]
    failures: tuple[str, ...]
    about: dict[str, Any]
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the table as JSON holds it, numbers with six digits."""
        plain = _rounded(asdict(self))
        del plain["shown"]
        return {"format": FORMAT} | plain

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Results:
        """Reads what `to_json` returned.

        Args:
            held: content of `table.json`.

        Raises:
            UserError: it is of another format.
        """
        if held.get("format") != FORMAT:
            raise UserError(f"this table has the format {held.get('format')}, expected {FORMAT}")
        cells = tuple(
            Cell(**one | {"found": _interval(one["found"]), "gap": _interval(one["gap"])}) for one in held["cells"]
        )
        return cls(
            recipe=held["recipe"], measured_with=held["measured_with"], cells=cells,
            costs=tuple(Cost(**one) for one in held["costs"]), failures=tuple(held["failures"]), about=held["about"],
        )  # fmt: skip

    def cell(self, subject: str, method: str, column: str, judge: str = "") -> Cell | None:
        """Returns one cell, or None.

        Args:
            subject: name of the part.
            method: label of the row.
            column: a key of `COLUMNS`.
            judge: as in `Cell`.
        """
        return next(
            (
                c
                for c in self.cells
                if (c.subject, c.method, c.column, c.judge) == (subject, method, column, judge)
            ),
            None,
        )  # fmt: skip


def _interval(held: dict[str, float] | None) -> Interval | None:
    return None if held is None else Interval(**held)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
