"""Intervals against scipy's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.base.estimates import mean_interval, wilson
from entoptic.metrics.evidence import Evidence, missing


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipys(pair: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    successes, n = pair
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(2, 2)[0] == pytest.approx(0.342372, abs=1e-5)  # by hand: 1 / (1 + z²/2)


@pytest.mark.parametrize("n", [*range(2, 40), 100, 1000])
def test_t_intervals_equal_scipys(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [((7 * i) % 11) / 3 for i in range(n)]
    expected = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    low, high = mean_interval(values)
    assert (low + high) / 2 == pytest.approx(sum(expected) / 2)
    assert high - low == pytest.approx(expected[1] - expected[0], rel=0.01)


def test_one_value_has_no_width() -> None:
    assert mean_interval([3.0]) == (3.0, 3.0)
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)


def test_json() -> None:
    entry = json.loads(json.dumps(Evidence("a", 1.5, 3, (1.0, 2.0), "lower", "%", detail={"b": 1}).to_json()))
    assert entry == {
        "name": "a", "value": 1.5, "n": 3, "interval": [1.0, 2.0], "direction": "lower", "scale": "%", "reason": None,
        "detail": {"b": 1},
    }  # fmt: skip
    assert missing("a", "why").to_json()["reason"] == "why"
    assert missing("a", "why").to_json()["value"] is None
