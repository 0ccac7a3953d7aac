"""How a method's pictures lie to real photos in the features of a judge: distances, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from entoptic.bench.intervals import Interval, difference_of_shares, jackknife, mean_of_shares
from entoptic.bench.results import Cell
from entoptic.images.unit_reference import NO_PHOTOS, evenly_spaced
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.sets.frechet import Frechet
from entoptic.metrics.sets.kernels import cmmd, kid, median_distance
from entoptic.metrics.sets.manifolds import balls_around, precision, radii, recall
from entoptic.metrics.sets.mmd import Kernel, cubic, gaussian, mean_within

LEAST = 2
"""Fewest units behind a jackknife."""
NEIGHBOUR = 3
"""The neighbour that a ball of precision and recall reaches to."""
MOST = 2000
"""Largest number of photos whose balls are measured, at even distances through the set."""
Rows = Mapping[str, tuple[Tensor, Sequence[str]]]
"""By method: features N×C of its pictures, and the unit of each; the first method first."""


def distances(
    subject: str,
    judge: str,
    by_method: Rows,
    real: Tensor | None,
    *,
    bandwidth: float | None = None,
    near: bool = False,
) -> list[Cell]:
    """Returns the distances of every method's pictures to photos.

    Args:
        subject: name of the part.
        judge: whose features they are.
        by_method: features of pictures.
        real: features of the photos, None where there are none.
        bandwidth: of the Gaussian kernel, None for the median distance between photos.
        near: whether precision and recall are measured too, on at most `MOST` photos.
    """
    columns = ("kid", "cmmd", *(("precision", "recall") if near else ()), "frechet_infinite")
    if real is None:
        return [
            Cell(subject=subject, method=method, column=column, judge=judge, reason=NO_PHOTOS)
            for method in by_method
            for column in columns
        ]
    place = _Place(subject, judge, by_method, real)
    width = median_distance(real) if bandwidth is None else bandwidth
    cells = place.kernel_cells("kid", cubic)
    if width > 0:  # else all photos are alike for the judge
        cells += place.kernel_cells("cmmd", gaussian(width), width)
    if near:
        cells += [*place.precision_cells(), *place.recall_cells()]
    cells += place.frechet_cells()
    return sorted(cells, key=lambda c: (list(by_method).index(c.method), columns.index(c.column)))


class _Place:
    """One judge's features of all methods' pictures and of the photos."""

    def __init__(self, subject: str, judge: str, by_method: Rows, real: Tensor) -> None:
        self.subject, self.judge, self.by_method, self.real = subject, judge, by_method, real
        self.some = real[evenly_spaced(len(real), MOST)]
        self.first = next(iter(by_method))

    def kernel_cells(self, column: str, kernel: Kernel, bandwidth: float | None = None) -> list[Cell]:
        """A kernel distance, with the jackknife over units."""
        plain = kid(self.real, self.judge) if bandwidth is None else cmmd(self.real, self.judge, bandwidth=bandwidth)
        within = mean_within(self.real.double(), kernel) if len(self.real) > 1 else 0.0
        kernels = {
            method: _Kernels(table, units, self.real, kernel, within)
            for method, (table, units) in self.by_method.items()
        }
        cells = []
        for method, (table, _) in self.by_method.items():
            metric = plain.empty()
            metric.update(table)
            mine, found = kernels[method], metric.compute()
            interval = mine.interval() if found.value is not None and len(mine.groups) >= LEAST else None
            if found.value is not None and interval is None:
                found = missing(column, f"its interval needs {LEAST} units, there is {len(mine.groups)}")
            gap = None if method == self.first or interval is None else mine.minus(kernels[self.first])
            cells.append(self._cell(method, column, found, interval, len(mine.groups), gap))
        return cells

    def precision_cells(self) -> list[Cell]:
        """Shares of pictures on the photos' manifold, averaged within units first."""
        plain, shares, cells = precision(self.some, self.judge, k=NEIGHBOUR), {}, []
        for method, (table, units) in self.by_method.items():
            metric = plain.empty()
            metric.update(table)
            found = metric.compute()
            if found.value is None:
                cells.append(self._cell(method, "precision", found, None, 0, None))
                continue
            inside = (balls_around(table, self.some, self.reach) > 0).double()
            groups = {unit: inside[[i for i, one in enumerate(units) if one == unit]] for unit in dict.fromkeys(units)}
            shares[method] = mine = {unit: float(rows.mean()) for unit, rows in groups.items()}
            theirs = shares.get(self.first, {}) if method != self.first else {}
            both = [unit for unit in mine if unit in theirs]
            gap = difference_of_shares([mine[u] for u in both], [theirs[u] for u in both]) if both else None
            cells.append(self._cell(method, "precision", found, mean_of_shares(list(mine.values())), len(mine), gap))
        return cells

    def recall_cells(self) -> list[Cell]:
        """Shares of photos on the pictures' manifold; the interval is over photos."""
        plain, cells = recall(self.some, self.judge, k=NEIGHBOUR), []
        for method, (table, _) in self.by_method.items():
            metric = plain.empty()
            metric.update(table)
            found = metric.compute()
            cells.append(self._cell(method, "recall", found, _interval(found), len(self.some), None, "photos"))
        return cells

    def frechet_cells(self) -> list[Cell]:
        """The extrapolated Fréchet distance; the interval is over pictures."""
        cells = []
        for method, (table, _) in self.by_method.items():
            metric = Frechet(self.real, self.judge)
            metric.update(table)
            found = metric.compute()
            cells.append(self._cell(method, "frechet_infinite", found, _interval(found), found.n, None, "pictures"))
        return cells

    @cached_property
    def reach(self) -> Tensor:
        """Radii of the photos' balls."""
        return radii(self.some, NEIGHBOUR)

    def _cell(
        self,
        method: str,
        column: str,
        found: Evidence,
        interval: Interval | None,
        n: int,
        gap: Interval | None,
        over: str = "units",
    ) -> Cell:
        return Cell(
            subject=self.subject, method=method, column=column, judge=self.judge, found=interval, n=n if interval else 0,
            over=over, real=found.detail.get("real"), gap=gap, reason=found.reason or "",
        )  # fmt: skip


def _interval(found: Evidence) -> Interval | None:
    if found.value is None or found.interval is None:
        return None
    return Interval(value=found.value, low=found.interval[0], high=found.interval[1])


class _Kernels:
    """Kernels within a method's pictures and to the photos, from which any unit can be left out."""

    def __init__(self, table: Tensor, units: Sequence[str], real: Tensor, kernel: Kernel, real_within: float) -> None:
        a = table.double()
        self.units, self.groups = list(units), list(dict.fromkeys(units))
        self._within, self._to, self._real_within = kernel(a, a), kernel(a, real.double()), real_within

    def without(self, unit: str | None) -> float:
        """The unbiased squared distance without the pictures of a unit, see `mmd`."""
        keep = torch.tensor([one != unit for one in self.units])
        own, n = self._within[keep][:, keep], int(keep.sum())
        within = (own.sum() - own.diagonal().sum()) / (n * (n - 1))
        return float(within) + self._real_within - 2 * float(self._to[keep].mean())

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
