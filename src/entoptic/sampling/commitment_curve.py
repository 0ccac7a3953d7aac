"""From successes at each switch to the steps at which a unit's guidance commits: isotonic rates, crossings, bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.estimates import wilson
from entoptic.sampling.switched_chains import Side

RESAMPLES = 2000
"""Bootstrap resamples of the seeds."""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a curve of success rates crosses a level.

    Attributes:
        place: share of the steps done at the switch, 0 … 1; None where the curve stays below the level.
        interval: 95 %, by bootstrap over seeds. Resamples whose curve stays below the level count as the end at which all of
            the chain is guided.
        below: share of the resamples whose curve stays below the level.
    """

    place: float | None
    interval: tuple[float, float]
    below: float


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A switch at which more chains succeed than with guidance at every step.

    Attributes:
        switch: its number.
        whole: number of the switch that leaves guidance at every step.
        p: one-sided, of the sign test over seeds, times the number of switches that were compared.
    """

    switch: int
    whole: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Success rates of chains by the place of their switch.

    Attributes:
        side: what happens at the switch.
        places: K shares of the steps done before the switch, ascending from 0 to 1.
        successes: S×K bool, of S seeds.
        smooth: K isotonic rates: falling for `Side.ON`, rising for `Side.OFF`.
    """

    side: Side
    places: tuple[float, ...]
    successes: Tensor
    smooth: tuple[float, ...]

    @property
    def rates(self) -> list[float]:
        """K success rates as counted."""
        return [float(r) for r in self.successes.double().mean(0)]

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """K intervals of the rates as counted, 95 % by Wilson."""
        n = len(self.successes)
        return [wilson(float(hits), n) for hits in self.successes.sum(0)]

    def turn(self) -> Turn | None:
        """Returns the switch that does most better than guidance at every step; None where no one does beyond chance (p ≤ 0.05)."""
        k = len(self.places)
        whole = 0 if self.side is Side.ON else k - 1
        guided, others = self.successes[:, whole].bool(), [i for i in range(k) if i != whole]
        best = None
        for i in others:
            hits = self.successes[:, i].bool()
            p = min(1.0, len(others) * _sign_test(int((hits & ~guided).sum()), int((guided & ~hits).sum())))
            if p <= 0.05 and (best is None or p < best.p):
                best = Turn(switch=i, whole=whole, p=p)
        return best

    def crossing(self, level: float) -> Crossing:
        """Returns where the isotonic curve crosses a level, with its interval.

        For `Side.ON` this is the latest switch at which the rate is still at least the level, for `Side.OFF` the earliest.
        Between two switches the curve is a straight line.

        Args:
            level: a rate in (0, 1].
        """
        each = self._resampled_crossings(level)
        end = 0.0 if self.side is Side.ON else 1.0
        low, high = _middle([end if one is None else one for one in each])
        return Crossing(
            place=_cross(self.smooth, self.places, level, self.side is Side.ON), interval=(low, high),
            below=sum(one is None for one in each) / len(each),
        )  # fmt: skip

    def width(self, high: float, low: float) -> tuple[float, tuple[float, float]] | None:
        """Returns how far the crossings of two levels are apart, with its interval; None where the curve stays below one.

        Args:
            high: the higher level.
            low: the lower level.
        """
        ends = [_cross(self.smooth, self.places, level, self.side is Side.ON) for level in (high, low)]
        pairs = zip(self._resampled_crossings(high), self._resampled_crossings(low))
        each = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        if ends[0] is None or ends[1] is None or len(each) < 0.975 * RESAMPLES:
            return None
        return abs(ends[0] - ends[1]), _middle(each)

    def _resampled_crossings(self, level: float) -> list[float | None]:
        rates_BK = _resampled(len(self.successes)) @ self.successes.double() / len(self.successes)
        falling = self.side is Side.ON
        return [_cross(row, self.places, level, falling) for row in isotonic(rates_BK, falling=falling).tolist()]


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The range that holds the middle 95 % of some values."""
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def curve_of(side: Side, places: Sequence[float], successes: Tensor) -> Curve:
    """Returns the curve of some chains.

    Args:
        side: what happens at the switch.
        places: K shares of the steps, ascending.
        successes: S×K bool.
    """
    smooth = isotonic(successes.double().mean(0, keepdim=True), falling=side is Side.ON)[0]
    return Curve(side=side, places=tuple(places), successes=successes, smooth=tuple(smooth.tolist()))


def isotonic(rates_BK: Tensor, *, falling: bool) -> Tensor:
    """Returns the monotone curves nearest to some rates in least squares, B×K (min-max formula; equal weights).

    Args:
        rates_BK: B curves of K rates.
        falling: whether they fall; else they rise.
    """
    rates = rates_BK.double() if not falling else -rates_BK.double()
    count = rates.shape[1]
    total = torch.cat([torch.zeros(len(rates), 1, dtype=torch.float64), rates.cumsum(1)], 1)
    first, last = torch.arange(count)[:, None], torch.arange(count)[None]
    mean = (total[:, 1:][:, None, :] - total[:, :-1][:, :, None]) / (last - first + 1).clamp_min(1)  # B×first×last
    mean = mean.masked_fill(last < first, torch.inf)
    from_last = mean.flip(2).cummin(2).values.flip(2)  # the least mean of first … k over k ≥ the place
    found = from_last.masked_fill(last < first, -torch.inf).cummax(1).values.diagonal(dim1=1, dim2=2)
    return -found if falling else found


def _cross(curve: Sequence[float], places: Sequence[float], level: float, falling: bool) -> float | None:
    """The last place of a falling curve (the first of a rising one) at which it has a level, None where it never has."""
    if not falling:
        mirrored = _cross(curve[::-1], [1 - p for p in reversed(places)], level, True)
        return None if mirrored is None else 1 - mirrored
    reached = [k for k, rate in enumerate(curve) if rate >= level - 1e-12]
    if not reached:
        return None
    k = reached[-1]
    if k == len(curve) - 1:
        return places[k]
    return places[k] + (curve[k] - level) / (curve[k] - curve[k + 1]) * (places[k + 1] - places[k])


def _resampled(count: int) -> Tensor:
    """How often each of the seeds is in each resample, RESAMPLES×count."""
    draw = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    return torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(
        1, draw, torch.ones(RESAMPLES, count, dtype=torch.float64)
    )


def window_of(on: Crossing, off: Crossing) -> tuple[float, float] | None:
    """Returns the steps that guidance may be limited to, as shares (from, to); None where guidance never reaches the level.

    Guidance may begin as late as the crossing of the curve that switches on, and end as early as that of the curve that
    switches off. Where the first lies behind the second, either end alone is enough: the shorter one is taken.

    Args:
        on: of the curve of `Side.ON`.
        off: of the curve of `Side.OFF`.
    """
    if on.place is None or off.place is None:
        return None
    if on.place < off.place:
        return on.place, off.place
    return (on.place, 1.0) if 1 - on.place < off.place else (0.0, off.place)


def _sign_test(more: int, fewer: int) -> float:
    """The probability that a fair coin gives at least `more` heads in `more + fewer` throws."""
    n = more + fewer
    heads = torch.arange(more, n + 1, dtype=torch.float64)
    whole = torch.tensor(float(n + 1), dtype=torch.float64)
    logs = torch.lgamma(whole) - torch.lgamma(heads + 1) - torch.lgamma(n - heads + 1)
    return min(1.0, float((logs - n * math.log(2)).exp().sum()))
