"""Intervals over units: units are what a benchmark draws at random, and several seeds of one unit are no further units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entoptic.base.estimates import mean_interval, t_quantile, wilson


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def mean_of_shares(values: Sequence[float]) -> Interval:
    """Returns the mean of shares of units with Wilson's interval at the number of units.

    A unit's share over its seeds varies at most as much as one yes or no with the same mean, so the interval is not too narrow.

    Args:
        values: one for each unit, in [0, 1].
    """
    n = len(values)
    low, high = wilson(math.fsum(values), n)
    return Interval(value=math.fsum(values) / n, low=low, high=high)


def mean(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Returns the mean over units with Student's interval, cut at the bounds of the quantity.

    Args:
        values: one for each unit.
        bounds: lowest and highest possible value.
    """
    low, high = mean_interval(values)
    return Interval(value=math.fsum(values) / len(values), low=max(bounds[0], low), high=min(bounds[1], high))


def difference_of_shares(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Returns the mean paired difference of shares, with an interval from both Wilson intervals (after Newcombe 1998).

    It has a width also where all units agree. Units in which both methods go together make it narrower.

    Args:
        ours: one for each unit, in [0, 1].
        theirs: of the same units in the same order.
    """
    a, b = mean_of_shares(ours), mean_of_shares(theirs)
    phi = correlation(ours, theirs)
    value = a.value - b.value
    down = _side(a.value - a.low, b.high - b.value, phi)
    up = _side(a.high - a.value, b.value - b.low, phi)
    return Interval(value=value, low=max(-1.0, value - down), high=min(1.0, value + up))


def _side(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Pearson's correlation, a positive one after Newcombe's correction for continuity; 0 where either does not vary.

    The covariance is made smaller by 1/(2n), because a few units show more of it than there is.

    Args:
        a: numbers.
        b: as many numbers.
    """
    n = len(a)
    ma, mb = math.fsum(a) / n, math.fsum(b) / n
    va, vb = math.fsum((x - ma) ** 2 for x in a) / n, math.fsum((y - mb) ** 2 for y in b) / n
    if va <= 1e-24 or vb <= 1e-24:
        return 0.0
    covariance = math.fsum((x - ma) * (y - mb) for x, y in zip(a, b)) / n
    if covariance > 0:
        covariance = max(0.0, covariance - 0.5 / n)
    return covariance / math.sqrt(va * vb)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Returns the mean paired difference with Student's interval over units.

    Args:
        ours: one for each unit.
        theirs: of the same units in the same order.
    """
    return mean([x - y for x, y in zip(ours, theirs)])


def jackknife(whole: float, left_out: Mapping[object, float]) -> Interval:
    """Returns a statistic with its jackknife interval over units.

    Args:
        whole: the statistic of all units.
        left_out: by unit, the statistic without that unit; at least 2.
    """
    k = len(left_out)
    centre = math.fsum(left_out.values()) / k
    error = math.sqrt((k - 1) / k * math.fsum((one - centre) ** 2 for one in left_out.values()))
    half = t_quantile(k - 1) * error
    return Interval(value=whole, low=whole - half, high=whole + half)
