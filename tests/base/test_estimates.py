"""Intervals of estimates."""

from __future__ import annotations

import math

import pytest

from entoptic.base.estimates import quantile_ranks


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
