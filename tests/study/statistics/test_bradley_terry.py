"""Strengths: golden numbers, the MM step, ties, the side shown first, and intervals over persons and units."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason='needs the extra "study"')

from entoptic.errors import OutOfReach
from entoptic.study.statistics.bradley_terry import FIRST, SECOND, TIE, fit, fit_crossed, outcome_columns, quantities
from entoptic.study.statistics.crossed import cross
from oracles import studies as oracle

ABC = ("a", "b", "c")


def counts(items: tuple[str, ...], pairs: dict[tuple[str, str], tuple[float, ...]]) -> np.ndarray:
    columns = outcome_columns(items)
    totals = np.zeros(len(columns))
    for (first, second), outcomes in pairs.items():
        for outcome, n in enumerate(outcomes):
            totals[columns[first, second, outcome]] += n
    return totals


def test_golden_two_items() -> None:
    found = fit(("a", "b"), counts(("a", "b"), {("a", "b"): (3, 1)}))
    assert found.strength[0] - found.strength[1] == pytest.approx(1.098612, abs=1e-6)
    assert 2 * found.se[0] == pytest.approx(1.154701, abs=1e-6)  # λ_1 − λ_2 = 2 λ_1
    assert found.wins[0, 1] == pytest.approx(0.75)


def test_golden_three_items() -> None:
    found = fit(ABC, counts(ABC, {("a", "b"): (20, 10), ("a", "c"): (24, 6), ("c", "b"): (10, 20)}))
    assert found.strength == pytest.approx((math.log(2), 0, -math.log(2)), abs=1e-9)
    assert found.components == (ABC,)
    assert not found.halved


def test_golden_circle() -> None:
    found = fit(ABC, counts(ABC, {("a", "b"): (5, 0), ("b", "c"): (5, 0), ("c", "a"): (5, 0)}))
    assert found.strength == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.triads == 1


def test_an_item_that_never_lost_gets_a_half_and_is_named() -> None:
    found = fit(ABC, counts(ABC, {("a", "b"): (5, 0), ("a", "c"): (5, 0), ("b", "c"): (3, 2)}))
    assert found.halved
    assert found.components == (("a",), ("b", "c"))
    assert all(map(math.isfinite, found.strength))
    two = fit(("a", "b"), counts(("a", "b"), {("a", "b"): (4, 0)}))
    assert two.strength[0] - two.strength[1] == pytest.approx(math.log(4.5 / 0.5))


def test_it_is_what_the_mm_step_reaches() -> None:
    draw = np.random.default_rng(0)
    items = tuple("abcde")
    wins = {(i, j): float(draw.integers(1, 20)) for i in items for j in items if i != j}
    found = fit(items, counts(items, {pair: (n, 0) for pair, n in wins.items()}))
    assert found.strength == pytest.approx(tuple(oracle.bradley_terry(wins)[i] for i in items), abs=1e-6)


def test_ties_reach_the_largest_likelihood() -> None:
    pairs = {("a", "b"): (20, 10, 7), ("a", "c"): (24, 6, 5), ("b", "c"): (15, 12, 9)}
    found = fit(ABC, counts(ABC, pairs))
    wins = {pair: n[0] for pair, n in pairs.items()} | {pair[::-1]: n[1] for pair, n in pairs.items()}
    ties = {pair: n[2] for pair, n in pairs.items()}
    theta = dict(zip(ABC, found.strength))
    best = oracle.davidson(wins, ties, theta, found.ties)
    for item in ABC:
        for change in (-0.02, 0.02):
            assert oracle.davidson(wins, ties, theta | {item: theta[item] + change}, found.ties) < best
    assert oracle.davidson(wins, ties, theta, found.ties * 1.05) < best
    assert oracle.davidson(wins, ties, theta, found.ties / 1.05) < best


def test_the_side_shown_first_has_a_term_of_its_own() -> None:
    pairs = {("a", "b"): (30, 10), ("b", "a"): (20, 20)}
    found = fit(("a", "b"), counts(("a", "b"), pairs), position=True)
    assert found.first_shown == pytest.approx(math.log(3) / 2)  # the mean of log 3 and log 1
    assert found.strength[0] - found.strength[1] == pytest.approx(math.log(3) / 2)
    assert fit(("a", "b"), counts(("a", "b"), pairs)).first_shown == 0


def test_a_side_that_explains_all_answers_gets_a_half_too() -> None:
    pairs = {("a", "b"): (3, 0), ("b", "a"): (1, 2)}  # connected, but the first side and a win wherever they can
    found = fit(("a", "b"), counts(("a", "b"), pairs), position=True)
    assert found.halved
    assert found.components == (("a", "b"),)
    assert abs(found.strength[0]) < 3
    assert not fit(("a", "b"), counts(("a", "b"), pairs)).halved


def test_intervals_over_persons_and_units_hold_the_truth() -> None:
    draw = np.random.default_rng(3)
    truth = {"a": 0.8, "b": 0.0, "c": -0.8}
    persons, units, outcomes = [], [], []
    for p in range(30):
        for u in range(12):
            first, second = draw.permutation(ABC)[:2]
            won = draw.random() < 1 / (1 + math.exp(truth[second] - truth[first]))
            tie = draw.random() < 0.1
            persons.append(f"p{p}")
            units.append(f"u{u}")
            outcomes.append((str(first), str(second), TIE if tie else FIRST if won else SECOND))
    table = cross(persons, units, quantities(ABC, outcomes))
    found = fit_crossed(ABC, table, position=True, draws=400)
    assert found.interval is not None
    assert found.answers == 360
    for value, (low, high), strength in zip(truth.values(), found.interval, found.strength):
        assert low < strength < high
        assert low < value < high
    assert abs(sum(found.strength)) < 1e-9


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(OutOfReach, match="at least two items"):
        fit(("a",), np.zeros(0))
    with pytest.raises(OutOfReach, match="need answers"):
        fit(("a", "b"), np.zeros(6))
