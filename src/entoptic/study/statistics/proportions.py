"""Shares of right answers: exact tests, d′, intervals of single cells, and closed forms for sample sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint, proportion_effectsize

from entoptic.errors import OutOfReach


def clopper_pearson(right: int, n: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of one cell; it also holds for 0 and n of n."""
    low, high = proportion_confint(right, n, method="beta")
    return float(low), float(high)


def binomial_p(right: int, n: int, chance: float = 0.5, *, alternative: str = "two-sided") -> float:
    """Returns the exact p that one cell's answers are guesses. Not for answers pooled over persons or units.

    Args:
        right: right answers.
        n: of a single person or a single unit.
        chance: that guessing reaches.
        alternative: "two-sided", "greater" or "less".
    """
    return float(stats.binomtest(right, n, chance, alternative=alternative).pvalue)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Returns the exact p of McNemar's test on trials that both conditions showed to the same person.

    Args:
        only_first: trials that were right in the first condition alone.
        only_second: in the second alone.
    """
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def d_prime(share: float | np.ndarray, n: float | None = None) -> float | np.ndarray:
    """Returns the sensitivity d′ = √2·Φ⁻¹(p) of a choice between two.

    Args:
        share: of right answers.
        n: answers behind it; the share is kept 1/(2n) away from 0 and 1.
    """
    kept = share if n is None else np.clip(share, 1 / (2 * n), 1 - 1 / (2 * n))
    found = math.sqrt(2) * stats.norm.ppf(kept)
    return float(found) if np.ndim(found) == 0 else found


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """People in each of two groups that a difference of shares needs, if every answer were independent: a lower bound.

    Attributes:
        pooled: variance under the null hypothesis pooled.
        unpooled: variances of the two shares.
        arcsine: from Cohen's h.
        h: Cohen's effect size.
    """

    pooled: float
    unpooled: float
    arcsine: float
    h: float


def independent_sample_size(first: float, second: float, *, power: float = 0.8, alpha: float = 0.05) -> SampleSize:
    """Returns the closed form for two independent groups. Answers of a study are clustered: this is only a lower bound.

    Args:
        first: share in one group.
        second: in the other.
        power: to reach.
        alpha: two-sided.

    Raises:
        OutOfReach: the shares are equal or not inside (0, 1).
    """
    if first == second or not (0 < first < 1 and 0 < second < 1):
        raise OutOfReach(f"expected two different shares between 0 and 1, got {first} and {second}")
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    middle, gap = (first + second) / 2, first - second
    own = first * (1 - first) + second * (1 - second)
    pooled = (z_alpha * math.sqrt(2 * middle * (1 - middle)) + z_power * math.sqrt(own)) ** 2 / gap**2
    h = abs(float(proportion_effectsize(second, first)))
    return SampleSize(
        pooled=float(pooled),
        unpooled=float((z_alpha + z_power) ** 2 * own / gap**2),
        arcsine=float(2 * (z_alpha + z_power) ** 2 / h**2),
        h=h,
    )


def independent_power(first: float, second: float, n: int, *, alpha: float = 0.05) -> float:
    """Returns the power of n independent answers in each of two groups, variance pooled under the null hypothesis."""
    middle, own = (first + second) / 2, first * (1 - first) + second * (1 - second)
    z_alpha = stats.norm.ppf(1 - alpha / 2)
    reach = abs(first - second) * math.sqrt(n) - z_alpha * math.sqrt(2 * middle * (1 - middle))
    return float(stats.norm.cdf(reach / math.sqrt(own)))
