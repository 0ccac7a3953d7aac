"""Distances of a method's pictures to real photos in the features of a judge, with intervals over units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from entoptic.bench.intervals import Interval, jackknife
from entoptic.bench.results import Cell
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.sets.frechet import Frechet
from entoptic.metrics.sets.kernels import kid
from entoptic.metrics.sets.mmd import cubic, unbiased

NO_PHOTOS = "no photos were given"
LEAST = 2
"""Fewest units behind a jackknife."""


def distances(
    subject: str, judge: str, by_method: Mapping[str, tuple[Tensor, Sequence[str]]], real: Tensor | None
) -> list[Cell]:
    """Returns the Fréchet and the kernel distance of every method's pictures.

    Args:
        subject: name of the part.
        judge: whose features they are.
        by_method: features N×C of a method's pictures and the unit of each, the first method first.
        real: features of the photos, None where there are none.
    """
    if real is None:
        return [
            Cell(subject=subject, method=method, column=column, judge=judge, reason=NO_PHOTOS)
            for method in by_method
            for column in ("kid", "frechet_infinite")
        ]
    cells, first = [], next(iter(by_method))
    kernels = {method: _Kernels(table, units, real) for method, (table, units) in by_method.items()}
    for method, (table, _) in by_method.items():
        near, far = kid(real, judge), Frechet(real, judge)
        near.update(table)
        far.update(table)
        mine, found = kernels[method], near.compute()
        interval = mine.interval() if found.value is not None and len(mine.groups) >= LEAST else None
        if found.value is not None and interval is None:
            found = missing("kid", f"its interval needs {LEAST} units, there is {len(mine.groups)}")
        gap = None if method == first or interval is None else mine.minus(kernels[first])
        cells.append(_cell(subject, method, "kid", judge, found, interval, len(mine.groups), gap))
        found = far.compute()
        interval = None
        if found.value is not None and found.interval is not None:
            interval = Interval(value=found.value, low=found.interval[0], high=found.interval[1])
        cells.append(_cell(subject, method, "frechet_infinite", judge, found, interval, found.n, None, "pictures"))
    return cells


def _cell(
    subject: str,
    method: str,
    column: str,
    judge: str,
    found: Evidence,
    interval: Interval | None,
    n: int,
    gap: Interval | None,
    over: str = "units",
) -> Cell:
    return Cell(
        subject=subject, method=method, column=column, judge=judge, found=interval, n=n if interval else 0, over=over,
        real=found.detail.get("real"), gap=gap, reason=found.reason or "",
    )  # fmt: skip


class _Kernels:
    """Kernels within a method's pictures and to the photos, from which any unit can be left out."""

    def __init__(self, table: Tensor, units: Sequence[str], real: Tensor) -> None:
        a, b = table.double(), real.double()
        self.units, self.groups = list(units), list(dict.fromkeys(units))
        self._within, self._to, self._real = cubic(a, a), cubic(a, b), cubic(b, b)

    def without(self, unit: str | None) -> float:
        keep = torch.tensor([one != unit for one in self.units])
        return unbiased(self._within[keep][:, keep], self._real, self._to[keep])

    def interval(self) -> Interval:
        return jackknife(self.without(None), {unit: self.without(unit) for unit in self.groups})

    def minus(self, other: _Kernels) -> Interval | None:
        """The difference, over the units that both have."""
        both = [unit for unit in self.groups if unit in other.groups]
        if len(both) < 2:
            return None
        return jackknife(
            self.without(None) - other.without(None),
            {unit: self.without(unit) - other.without(unit) for unit in both},
        )
