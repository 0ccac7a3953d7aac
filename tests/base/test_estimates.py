"""Intervals of estimates."""

from __future__ import annotations

import math

import pytest

from entoptic.base.estimates import Estimate, exactly, mean_interval, quantile_ranks, t_quantile, wilson


def binomial(n: int, q: float, ranks: range) -> float:
    return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in ranks)


@pytest.mark.parametrize(("n", "q"), [(17, 0.2), (19, 0.2), (99, 0.2), (50, 0.5), (400, 0.9)])
def test_a_quantile_lies_between_its_ranks(n: int, q: float) -> None:
    """The number of observations below it is binomial; each rank is the nearest with at most 2.5 % beyond it."""
    found = quantile_ranks(n, q)
    assert found is not None
    low, high = found
    assert binomial(n, q, range(low)) <= 0.025 < binomial(n, q, range(low + 1))
    assert binomial(n, q, range(high, n + 1)) <= 0.025 < binomial(n, q, range(high - 1, n + 1))


def test_few_observations_have_no_interval() -> None:
    assert quantile_ranks(16, 0.2) is None
    assert quantile_ranks(17, 0.2) == (1, 8)
    assert quantile_ranks(0, 0.5) is None


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (2, 2), (7, 20), (19, 20), (300, 1000)])
def test_the_interval_of_a_share_is_wilsons(successes: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats", exc_type=ImportError)
    known = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((known.low, known.high), abs=1e-6)
    narrower = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
    assert wilson(successes, n, z=1.644854) == pytest.approx((narrower.low, narrower.high), abs=1e-6)


def test_a_share_of_nothing_may_be_anything() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("freedom", [1, 2, 14, 15, 30, 200])
def test_the_quantile_of_students_t(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats", exc_type=ImportError)
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


def test_the_interval_of_a_mean_is_students() -> None:
    assert mean_interval([3.0]) == (3, 3)
    half = 4.303 * math.sqrt(7 / 3)  # of 1, 2 and 6: mean 3, variance 7, two degrees of freedom
    assert mean_interval([1.0, 2.0, 6.0]) == pytest.approx((3 - half, 3 + half))


def test_an_estimate_as_json() -> None:
    assert exactly(2.0).to_json() == {"value": 2, "se": 0, "interval": (2, 2)}
    assert Estimate(2.0, math.inf, None).to_json() == {"value": 2, "se": None, "interval": None}
