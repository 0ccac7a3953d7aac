"""Code lengths and tests against sums over everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.findings.bits import count, exactly_one, pack, unpack
from entoptic.findings.codes import choose, nml, rule_bits, whole_number
from entoptic.findings.fisher import fisher, p_values, towards


@pytest.mark.parametrize("n", [1, 2, 3, 10, 200])
def test_nml_is_the_sum_over_all_tables(n: int) -> None:
    whole = sum(math.comb(n, h) * (h / n) ** h * (1 - h / n) ** (n - h) for h in range(n + 1))
    assert nml(n) == pytest.approx(math.log2(whole), abs=1e-10)


def test_the_universal_code_is_a_code() -> None:
    lengths = np.array([whole_number(n) for n in range(1, 200_000)])
    assert (np.diff(lengths) >= 0).all()
    assert 0.5 < np.exp2(-lengths).sum() <= 1  # Kraft; the rest of the sum is slow to come


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_fisher_is_the_tail_of_the_hypergeometric(on: int, other: int, size: int, rest: int) -> None:
    on, other = min(on, size), min(other, rest)
    both = on + other
    whole = math.comb(size + rest, both)
    tail = sum(
        math.comb(size, k) * math.comb(rest, both - k) for k in range(on, min(size, both) + 1) if both - k <= rest
    )
    assert fisher(np.array([on]), np.array([other]), size, rest)[0] == pytest.approx(tail / whole, rel=1e-9)


def test_p_is_towards_the_group_where_it_is_more_often() -> None:
    on0, on1 = np.array([1, 30]), np.array([30, 1])
    assert towards(on0, on1, 100, 100).tolist() == [1, 0]
    assert p_values(on0, on1, 100, 100)[0] == pytest.approx(p_values(on0, on1, 100, 100)[1])
    assert p_values(on0, on1, 100, 100)[0] < 1e-8


@given(st.integers(1, 200), st.integers(0, 2**31))
def test_bits_are_counted_as_truth_values_are(n: int, seed: int) -> None:
    on = np.random.default_rng(seed).random((3, n)) < 0.4
    words = pack(on)
    assert count(words).tolist() == on.sum(1).tolist()
    assert (unpack(words, n) == on).all()
    assert (unpack(exactly_one(words), n) == (on.sum(0) == 1)).all()


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = pack(np.random.default_rng(0).random((4, 300)) < 0.5)
    wanted = count(words)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert (count(words) == wanted).all()


def test_choose_and_the_bits_of_a_rule() -> None:
    assert choose(10, np.array([0, 3])).tolist() == pytest.approx([0, math.log2(120)])
    apart = rule_bits([60, 60], (5, 55), (900, 100), 200)
    assert apart > 100  # both items in one group
    assert rule_bits([60, 60], (1, 1), (900, 100), 200) < 0
