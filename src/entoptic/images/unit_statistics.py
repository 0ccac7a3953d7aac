"""`UnitStatistics`: the strongest and weakest photos, exact moments and quantiles of many units.

Statistics of two sets of photos merge into those of both. Their size does not depend on the number of photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from entoptic.base.records import check_tensor
from entoptic.errors import Unreadable
from entoptic.images.quantile_sketch import QuantileSketch

_PLAIN = ("n", "nonfinite", "positive", "mean", "m2", "sample")
_BEST = {"values": "values", "photos": "photos", "places": "positions"}  # name in a file -> attribute of `Extremes`
_PIECE = 1024  # units
_NEVER = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Extremes:
    """The K strongest (or weakest) photos of U units, best first.

    Attributes:
        values: U×K float32 scores, NaN where there are fewer photos.
        photos: U×K indices of the photos in the set, -1 where there are fewer.
        positions: U×K flat positions in the units' maps, 0 where there are fewer.
    """

    values: Tensor
    photos: Tensor
    positions: Tensor

    def rows(self, first: int, last: int) -> Extremes:
        """Returns those of the units first … last-1."""
        return Extremes(self.values[first:last], self.photos[first:last], self.positions[first:last])


def _joined(several: Sequence[Extremes], axis: int) -> Extremes:
    return Extremes(*(torch.cat([getattr(one, name) for one in several], axis) for name in _BEST.values()))


def extremes(values_UN: Tensor, photos_UN: Tensor, positions_UN: Tensor, k: int, *, strongest: bool) -> Extremes:
    """Chooses the `k` best of N photos for each unit: by value, then in the order of the photos.

    Values that are not finite never rank. The choice is by one integer key per entry, so that it is the same on every
    device and for any order of the entries.

    Args:
        values_UN: U×N float32 scores.
        photos_UN: U×N indices of the photos.
        positions_UN: U×N flat positions in the units' maps.
        k: number of photos to choose.
        strongest: whether the largest values are best, or the smallest.
    """
    bits = (values_UN + 0.0).view(torch.int32)  # -0.0 becomes 0.0: they are equal
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()  # as integers in the order of the floats
    key = (key if strongest else key.bitwise_not_()).mul_(2**32).add_(2**32 - 1 - photos_UN)
    never = ~values_UN.isfinite() | (photos_UN < 0)
    if never.any():
        key.masked_fill_(never, _NEVER)
    best, index = key.topk(min(k, key.shape[1]), dim=1)
    none = best == _NEVER
    found = (
        values_UN.gather(1, index).masked_fill(none, torch.nan),
        photos_UN.gather(1, index).masked_fill(none, -1),
        positions_UN.gather(1, index).masked_fill(none, 0),
    )
    missing = (0, k - index.shape[1])
    pad = torch.nn.functional.pad
    return Extremes(*(pad(x, missing, value=fill) for x, fill in zip(found, (torch.nan, -1, 0))))


@dataclass(frozen=True)
class UnitStatistics:
    """Statistics of U units over some photos.

    Attributes:
        n: U numbers of photos with a finite score.
        nonfinite: U numbers of photos with another score.
        positive: U numbers of photos with a score above 0.
        mean: U means of the finite scores, float64.
        m2: U sums of squared distances from the mean, float64.
        top: the strongest photos.
        bottom: the weakest photos.
        sketch: quantiles of the scores.
        sample: U×R scores of the photos in the reservoir (R may be 0).
    """

    n: Tensor
    nonfinite: Tensor
    positive: Tensor
    mean: Tensor
    m2: Tensor
    top: Extremes
    bottom: Extremes
    sketch: QuantileSketch
    sample: Tensor

    def rows(self, first: int, last: int) -> UnitStatistics:
        """Returns the statistics of the units first … last-1."""
        plain = {name: getattr(self, name)[first:last] for name in _PLAIN}
        top, bottom = self.top.rows(first, last), self.bottom.rows(first, last)
        return UnitStatistics(**plain, top=top, bottom=bottom, sketch=self.sketch.rows(first, last))

    def merge(self, other: UnitStatistics, device: torch.device | None = None) -> UnitStatistics:
        """Computes the statistics of the photos of both; the sample is left empty.

        Moments merge as in Chan, Golub and LeVeque 1979.

        Args:
            other: of the same units on other photos.
            device: where quantile sketches are sorted.
        """
        n = self.n + other.n
        total = n.clamp_min(1).double()
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / total)
        m2 = self.m2 + other.m2 + delta.square() * (self.n * (other.n / total))

        def best(a: Extremes, b: Extremes, strongest: bool) -> Extremes:
            both = _joined([a, b], 1)
            return extremes(both.values, both.photos, both.positions, a.values.shape[1], strongest=strongest)

        return UnitStatistics(
            n, self.nonfinite + other.nonfinite, self.positive + other.positive, mean, m2,
            best(self.top, other.top, True), best(self.bottom, other.bottom, False),
            self.sketch.merge(other.sketch, device), self.sample[:, :0],
        )  # fmt: skip

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns the tensors for a safetensors file; the sketch's `error` and `start` are stored beside them."""
        tensors = {name: getattr(self, name) for name in _PLAIN}
        for end, best in (("top", self.top), ("bottom", self.bottom)):
            tensors |= {f"{end}_{name}": getattr(best, attribute) for name, attribute in _BEST.items()}
        tensors |= {f"sketch_{h}": level for h, level in enumerate(self.sketch.levels)}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], error: int, start: int, *, where: str | Path = "the index"
    ) -> UnitStatistics:
        """Reads what `to_tensors` returned; other names among `tensors` are left alone.

        Args:
            tensors: by name.
            error: of the sketch.
            start: of the sketch.
            where: they come from, for messages.

        Raises:
            Unreadable: one of them is not there.
        """
        wanted = [*_PLAIN, "sketch_0", *(f"{end}_{name}" for end in ("top", "bottom") for name in _BEST)]
        if missing := [name for name in wanted if name not in tensors]:
            raise Unreadable(f'{where} is damaged: it has no "{missing[0]}"; make the index again')
        top, bottom = (Extremes(*(tensors[f"{end}_{name}"] for name in _BEST)) for end in ("top", "bottom"))
        levels: list[Tensor] = []
        while f"sketch_{len(levels)}" in tensors:
            levels.append(tensors[f"sketch_{len(levels)}"])
        plain = {name: tensors[name] for name in _PLAIN}
        return cls(**plain, top=top, bottom=bottom, sketch=QuantileSketch(tuple(levels), error, start))

    def check(self, units: int, k: int, bottom: int, where: str | Path) -> None:
        """Checks the shapes and the kinds of what was read.

        Args:
            units: number of units.
            k: strongest photos held of each.
            bottom: weakest photos held of each.
            where: it comes from, for messages.

        Raises:
            Unreadable: they are not those of an index.
        """
        for name, tensor in self.to_tensors().items():
            whole = name in ("n", "nonfinite", "positive") or name.endswith(("_photos", "_places"))
            width = k if name.startswith("top_") else bottom if name.startswith("bottom_") else None
            shape = (units,) if name in ("n", "nonfinite", "positive", "mean", "m2") else (units, width)
            check_tensor(tensor, name, where, *shape, finite=False)
            if tensor.is_floating_point() == whole or tensor.is_complex():
                raise Unreadable(f'{where} is damaged: "{name}" holds {tensor.dtype}; make the index again')


def statistics_of_scores(
    values_UN: Tensor, positions_UN: Tensor, photos_N: Tensor, k: int, bottom: int, start: int
) -> UnitStatistics:
    """Computes the statistics of U units from their scores on N photos.

    Args:
        values_UN: U×N float32 scores.
        positions_UN: U×N flat positions of the scores in the units' maps.
        photos_N: indices of the photos in the set.
        k: strongest photos to keep of each unit.
        bottom: weakest photos to keep.
        start: seed of the quantile sketch (see `QuantileSketch`).
    """
    # Piece by piece: what is computed on the way stays small, and in the processor's cache.
    pieces = [
        _statistics_of_piece(values, positions, photos_N, k, bottom)
        for values, positions in zip(values_UN.split(_PIECE), positions_UN.split(_PIECE))
    ]
    plain, top, weakest = zip(*pieces)
    n, positive, mean, m2 = (torch.cat(column) for column in zip(*plain))
    nonfinite = values_UN.shape[1] - n
    if nonfinite.any():
        values_UN = values_UN.masked_fill(~values_UN.isfinite(), torch.nan)
    sketch = QuantileSketch((values_UN,), 0, start)
    return UnitStatistics(
        n, nonfinite, positive, mean, m2, _joined(top, 0), _joined(weakest, 0), sketch, values_UN[:, :0]
    )


def _statistics_of_piece(
    values_UN: Tensor, positions_UN: Tensor, photos_N: Tensor, k: int, bottom: int
) -> tuple[tuple[Tensor, ...], Extremes, Extremes]:
    finite = values_UN.isfinite()
    n = finite.sum(1)
    other = None if int(n.sum()) == finite.numel() else ~finite
    wide = values_UN.double() if other is None else values_UN.masked_fill(other, 0).double()
    mean = wide.sum(1) / n.clamp_min(1)
    wide -= mean[:, None]
    if other is not None:
        wide.masked_fill_(other, 0)
    positive = (values_UN > 0).sum(1) if other is None else ((values_UN > 0) & finite).sum(1)
    photos_UN = photos_N.expand(len(values_UN), -1)
    top, weakest = (
        extremes(values_UN, photos_UN, positions_UN, count, strongest=strongest)
        for count, strongest in ((k, True), (bottom, False))
    )
    return (n, positive, mean, wide.square_().sum(1)), top, weakest
