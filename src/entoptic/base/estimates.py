"""Estimates with their intervals: means, proportions, quantiles of Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the score interval of a proportion (Wilson 1927), in [0, 1].

    Args:
        successes: of n, ≥ 0.
        n: trials, ≥ 0.
        z: quantile of the normal distribution; the default gives 95 %.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - width) / (1 + z * z / n)), min(1.0, (centre + width) / (1 + z * z / n))


def quantile_ranks(n: int, q: float, outside: float = 0.025) -> tuple[int, int] | None:
    """Returns the ranks, from 1, of the order statistics between which a quantile lies with 95 % confidence.

    The number of n independent observations below the quantile is binomial, whatever their distribution (ties make the interval
    wider). None where n is too small for either end.

    Args:
        n: observations.
        q: of the quantile, in (0, 1).
        outside: largest probability on each side.
    """
    chances = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
    below = [sum(chances[:rank]) for rank in range(n + 2)]  # fewer than `rank` observations lie below the quantile
    lows = [rank for rank in range(1, n + 1) if below[rank] <= outside]
    highs = [rank for rank in range(1, n + 1) if 1 - below[rank] <= outside]
    return (lows[-1], highs[0]) if lows and highs else None


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a mean by Student's t; for a single value, the value itself.

    Args:
        values: n ≥ 1 independent observations.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, mean
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    t = t_quantile(n - 1)
    return mean - t * se, mean + t * se


class Estimate(NamedTuple):
    """An estimate of a quantity.

    Attributes:
        value: the estimate.
        se: its standard error; infinite where it is not known, 0 where the value is exact.
        interval: 95 %, or None where it is not known.
    """

    value: float
    se: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Returns the estimate as JSON; a standard error that is not known is null."""
        finite = math.isfinite(self.se)
        return {"value": self.value, "se": self.se if finite else None, "interval": self.interval}


def exactly(value: float) -> Estimate:
    """Returns the estimate of a quantity that is known."""
    return Estimate(value, 0.0, (value, value))


_T_TABLE = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


def t_quantile(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's t.

    It is taken from a table with 3 decimals up to 14 degrees of freedom, then from a series (Abramowitz and Stegun 26.7.5).
    The error is below 0.0005. Stored evidence was computed with this table: another table changes intervals and needs a
    higher evidence version.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    if freedom <= len(_T_TABLE):
        return _T_TABLE[freedom - 1]
    z = 1.959963984540054
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**i for i, term in enumerate(terms))
