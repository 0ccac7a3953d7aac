"""What some photos say of every unit: the strongest and weakest, exact moments, quantiles. All of it merges.

A tally's size does not depend on how many photos it is of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.images.quantile_sketch import Sketch

_PLAIN = ("n", "nonfinite", "positive", "mean", "m2", "sample")
_BEST = ("values", "photos", "places")
_PIECE = 1024  # units
_NEVER = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Extremes:
    """The K strongest (or weakest) photos of U units, best first.

    Attributes:
        values: U×K float32, NaN where there are fewer photos. photos: U×K, their positions, -1 where there are fewer.
        places: U×K, flat positions in the units' maps.
    """

    values: Tensor
    photos: Tensor
    places: Tensor


def extremes(values_UN: Tensor, photos_UN: Tensor, places_UN: Tensor, k: int, *, strongest: bool) -> Extremes:
    """The `k` best of N photos for each unit: by value, then in the order of the photos.

    Values that are not finite never rank. The choice is by one integer key per entry, so that it is the same on every
    device and for any order of the entries.
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
        places_UN.gather(1, index).masked_fill(none, 0),
    )
    missing = (0, k - index.shape[1])
    pad = torch.nn.functional.pad
    return Extremes(*(pad(x, missing, value=fill) for x, fill in zip(found, (torch.nan, -1, 0))))


@dataclass(frozen=True)
class Tally:
    """Statistics of U units over some photos.

    Attributes:
        n: per unit, photos with a finite score. nonfinite: photos with another. positive: photos with a score > 0.
        mean, m2: of the finite scores in float64; m2 is the sum of squared distances from the mean.
        top, bottom: see `Extremes`. sketch: see `Sketch`.
        sample: U×R scores of the photos in the reservoir, NaN where it is not full (R may be 0).
    """

    n: Tensor
    nonfinite: Tensor
    positive: Tensor
    mean: Tensor
    m2: Tensor
    top: Extremes
    bottom: Extremes
    sketch: Sketch
    sample: Tensor


def tally(values_UN: Tensor, places_UN: Tensor, photos_N: Tensor, k: int, bottom: int, start: int) -> Tally:
    """Of the scores of N photos (float32), with the positions of the photos and of the scores in the maps."""
    # Piece by piece: what is computed on the way stays small, and in the processor's cache.
    pieces = [
        _tally(values, places, photos_N, k, bottom)
        for values, places in zip(values_UN.split(_PIECE), places_UN.split(_PIECE))
    ]
    plain, top, weakest = zip(*pieces)
    n, positive, mean, m2 = (torch.cat(column) for column in zip(*plain))
    ends = [Extremes(*(torch.cat([getattr(one, name) for one in best]) for name in _BEST)) for best in (top, weakest)]
    nonfinite = values_UN.shape[1] - n
    if nonfinite.any():
        values_UN = values_UN.masked_fill(~values_UN.isfinite(), torch.nan)
    sketch = Sketch((values_UN,), 0, start)
    return Tally(n, nonfinite, positive, mean, m2, ends[0], ends[1], sketch, values_UN[:, :0])


def _tally(
    values_UN: Tensor, places_UN: Tensor, photos_N: Tensor, k: int, bottom: int
) -> tuple[tuple[Tensor, ...], Extremes, Extremes]:
    finite = values_UN.isfinite()
    n = finite.sum(1)
    odd = None if int(n.sum()) == finite.numel() else ~finite
    wide = values_UN.double() if odd is None else values_UN.masked_fill(odd, 0).double()
    mean = wide.sum(1) / n.clamp_min(1)
    wide -= mean[:, None]
    if odd is not None:
        wide.masked_fill_(odd, 0)
    positive = (values_UN > 0).sum(1) if odd is None else ((values_UN > 0) & finite).sum(1)
    photos_UN = photos_N.expand(len(values_UN), -1)
    top, weakest = (
        extremes(values_UN, photos_UN, places_UN, count, strongest=strongest)
        for count, strongest in ((k, True), (bottom, False))
    )
    return (n, positive, mean, wide.square_().sum(1)), top, weakest


def merge(a: Tally, b: Tally, device: torch.device | None = None) -> Tally:
    """Of the photos of both (their samples apart). Moments by Chan, Golub and LeVeque 1979."""
    n = a.n + b.n
    total = n.clamp_min(1).double()
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.n / total)
    m2 = a.m2 + b.m2 + delta.square() * (a.n * (b.n / total))

    def best(one: Extremes, other: Extremes, strongest: bool) -> Extremes:
        values = torch.cat([one.values, other.values], 1)
        photos, places = torch.cat([one.photos, other.photos], 1), torch.cat([one.places, other.places], 1)
        return extremes(values, photos, places, one.values.shape[1], strongest=strongest)

    return Tally(
        n, a.nonfinite + b.nonfinite, a.positive + b.positive, mean, m2, best(a.top, b.top, True),
        best(a.bottom, b.bottom, False), a.sketch.merge(b.sketch, device), a.sample[:, :0],
    )  # fmt: skip


def to_tensors(of: Tally) -> dict[str, Tensor]:
    """For a safetensors file; the sketch's `error` and `start` go beside them."""
    tensors = {name: getattr(of, name) for name in _PLAIN}
    for end in ("top", "bottom"):
        tensors |= {f"{end}_{name}": getattr(getattr(of, end), name) for name in _BEST}
    tensors |= {f"sketch_{h}": level for h, level in enumerate(of.sketch.levels)}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def from_tensors(tensors: dict[str, Tensor], error: int, start: int) -> Tally:
    """Inverse of `to_tensors`; names that are not a tally's are left alone."""
    top, bottom = (Extremes(*(tensors[f"{end}_{name}"] for name in _BEST)) for end in ("top", "bottom"))
    levels: list[Tensor] = []
    while f"sketch_{len(levels)}" in tensors:
        levels.append(tensors[f"sketch_{len(levels)}"])
    plain = {name: tensors[name] for name in _PLAIN}
    return Tally(**plain, top=top, bottom=bottom, sketch=Sketch(tuple(levels), error, start))


def rows(of: Tally, first: int, last: int) -> Tally:
    """The tally of units first … last-1."""
    plain = {name: getattr(of, name)[first:last] for name in _PLAIN}
    top, bottom = (Extremes(*(getattr(best, name)[first:last] for name in _BEST)) for best in (of.top, of.bottom))
    return Tally(**plain, top=top, bottom=bottom, sketch=of.sketch.rows(first, last))
