"""The permutation test: exact with few persons, at its level without an effect, and sensitive to one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from entoptic.errors import OutOfReach
from entoptic.study.statistics import planted
from entoptic.study.statistics.bootstrap import generator
from entoptic.study.statistics.permutation import exchange_test
from entoptic.study.statistics.planted import Spread


def test_it_is_the_count_over_all_exchanges() -> None:
    draw = np.random.default_rng(0)
    persons = [f"p{i // 6}" for i in range(36)]
    arms = ["a" if i % 3 else "b" for i in range(36)]  # unequal numbers
    values = draw.random(36)
    found = []
    for swaps in product((False, True), repeat=6):
        turned = [{"a": "b", "b": "a"}[arm] if swaps[int(p[1:])] else arm for p, arm in zip(persons, arms)]
        mine = {name: np.mean([v for v, arm in zip(values, turned) if arm == name]) for name in "ab"}
        found.append(abs(mine["a"] - mine["b"]))
    expected = np.mean(np.array(found) >= found[0] - 1e-12)
    assert exchange_test(persons, arms, values, ("a", "b")) == pytest.approx(expected)
    assert exchange_test(persons, arms, values, ("b", "a")) == pytest.approx(expected)


def test_the_smallest_p_is_that_of_the_signs() -> None:
    persons = [f"p{i}" for i in range(8) for _ in range(2)]
    assert exchange_test(persons, ["a", "b"] * 8, np.array([1.0, 0.0] * 8), ("a", "b")) == 2 / 2**8


def test_other_conditions_do_not_matter() -> None:
    persons, arms, values = ["p", "p", "q", "q"], ["a", "b", "a", "b"], np.array([1.0, 0.0, 1.0, 1.0])
    more = exchange_test([*persons, "r", "p"], [*arms, "c", "c"], np.array([*values, 9.0, 9.0]), ("a", "b"))
    assert more == exchange_test(persons, arms, values, ("a", "b"))


def _p(gain: float, i: int) -> float:
    draw = generator("exchange test", gain, i)
    shares = {"a": 0.65 + gain, "b": 0.65}
    study = planted.choices(shares, persons=20, units=16, trials=16, spread=Spread(unit_method=0.0), draw=draw)
    return exchange_test(study.persons, study.methods, study.values_N, ("a", "b"), seed=str(i), draws=400)


def test_without_an_effect_the_level_is_kept_and_an_effect_is_found() -> None:
    assert sum(_p(0.0, i) < 0.05 for i in range(100)) <= 11  # P(more of 100 at 5 %) = 0.004
    assert sum(_p(0.2, i) < 0.05 for i in range(20)) >= 16


def test_the_seed_decides() -> None:
    draw = np.random.default_rng(1)
    persons, arms, values = [f"p{i // 4}" for i in range(80)], ["a", "b"] * 40, draw.random(80)
    first, again, other = (exchange_test(persons, arms, values, ("a", "b"), seed=s, draws=200) for s in ("1", "1", "2"))
    assert first == again != other


def test_nothing_to_exchange_is_refused() -> None:
    for persons, arms, values in (([], [], []), (["p"], ["a"], [1.0]), (["p"], ["c"], [1.0])):
        with pytest.raises(OutOfReach, match="no labels to exchange"):
            exchange_test(persons, arms, np.array(values), ("a", "b"))
