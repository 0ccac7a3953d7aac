"""The two-way bootstrap against a draw made answer by answer, and its intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason='needs the extra "study"')
pytest.importorskip("statsmodels", reason='needs the extra "study"')

from entoptic.errors import OutOfReach
from entoptic.study.statistics.bootstrap import generator, robust_variance, totals_of_draws, two_way
from entoptic.study.statistics.crossed import Crossed, conditions, cross, difference, mean
from entoptic.study.statistics.variance import crossed_variance, design_effect, spearman_brown
from oracles import studies as oracle


def rotated(persons: int = 7, units: int = 6, seed: int = 0) -> list[oracle.Answer]:
    """Every person answers for every unit once, two conditions in turn; one answer is missing."""
    draw = np.random.default_rng(seed)
    return [
        (f"p{p}", f"u{u}", "ab"[(p + u) % 2], float(draw.integers(1, 6)) + (p + u) % 2)
        for p in range(persons)
        for u in range(units)
        if (p, u) != (2, 3)
    ]


def table(answers: list[oracle.Answer]) -> Crossed:
    persons, units, given, values = zip(*answers)
    return conditions(persons, units, given, np.array(values), ("a", "b"))


def test_totals_are_those_of_the_answers() -> None:
    answers = rotated()
    found = table(answers)
    assert found.answers == len(answers) == 41
    assert float(difference(found.totals_K[None])[0]) == pytest.approx(oracle.difference(answers, "a", "b"))


def test_a_draw_weights_an_answer_by_its_person_and_its_unit() -> None:
    answers = rotated()
    crossed = table(answers)
    found = difference(totals_of_draws(crossed, seed="x", draws=40))
    who, what = generator("persons", "x"), generator("units", "x")
    times_DP, times_DU = who.multinomial(7, np.full(7, 1 / 7), 40), what.multinomial(6, np.full(6, 1 / 6), 40)
    for value, times_P, times_U in zip(found, times_DP, times_DU):
        persons = [name for name, n in zip(crossed.persons, times_P) for _ in range(n)]
        units = [name for name, n in zip(crossed.units, times_U) for _ in range(n)]
        assert value == pytest.approx(oracle.drawn_difference(answers, "a", "b", persons, units), nan_ok=True)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    crossed = table(rotated())
    assert two_way(crossed, difference, seed="1", draws=500) == two_way(crossed, difference, seed="1", draws=500)
    assert two_way(crossed, difference, seed="1", draws=500) != two_way(crossed, difference, seed="2", draws=500)


def test_the_order_of_answers_changes_nothing() -> None:
    answers = rotated()
    assert two_way(table(answers), difference, draws=300) == two_way(table(answers[::-1]), difference, draws=300)


def test_one_way_intervals_are_narrower_where_both_vary() -> None:
    draw = np.random.default_rng(0)
    effects_P, effects_U = draw.normal(0, 1, 20), draw.normal(0, 1, 20)
    rows = [(f"p{p}", f"u{u}", effects_P[p] + effects_U[u]) for p in range(20) for u in range(20)]
    persons, units, values = zip(*rows)
    found = two_way(cross(persons, units, np.stack([values, np.ones(400)], 1)), mean, draws=2000)
    width = found.interval[1] - found.interval[0]
    assert width > 1.2 * (found.persons_only[1] - found.persons_only[0])
    assert width > 1.2 * (found.units_only[1] - found.units_only[0])
    # without noise of its own, draws and the closed form estimate the same variance of the mean
    closed = crossed_variance(
        person=effects_P.var(), unit=effects_U.var(), residual=0, persons=20, units=20, answers=400
    )
    assert found.se == pytest.approx(closed**0.5, rel=0.08)


def test_answers_own_noise_is_counted_up_to_three_times() -> None:
    values = np.random.default_rng(1).normal(0, 1, (40, 40))
    persons = [f"p{p}" for p in range(40) for _ in range(40)]
    units = [f"u{u}" for _ in range(40) for u in range(40)]
    found = two_way(cross(persons, units, np.stack([values.ravel(), np.ones(1600)], 1)), mean, draws=2000)
    assert found.se / (1 / 40) == pytest.approx(3**0.5, abs=0.2)
    robust = (found.robust[1] - found.robust[0]) / 2 / 2.02
    assert robust / (1 / 40) < 1.3


def test_the_robust_variance_is_that_of_the_formula() -> None:
    answers = [(p, u, "a", v) for p, u, _, v in rotated(9, 8, seed=3)]
    persons, units, _, values = zip(*answers)
    crossed = cross(persons, units, np.stack([values, np.ones(len(values))], 1))
    expected = oracle.clustered_variance(answers)
    found = robust_variance(crossed, mean)
    assert found >= expected - 1e-12
    strong = [(p, u, "a", v + 3 * int(p[1]) + 3 * int(u[1])) for p, u, _, v in answers]  # the difference is the larger
    persons, units, _, values = zip(*strong)
    crossed = cross(persons, units, np.stack([values, np.ones(len(values))], 1))
    assert robust_variance(crossed, mean) == pytest.approx(oracle.clustered_variance(strong), rel=1e-6)


def test_bca_corrects_a_skewed_statistic_and_p_falls_with_the_effect() -> None:
    draw = np.random.default_rng(2)
    persons = [f"p{p}" for p in range(15) for _ in range(15)]
    units = [f"u{u}" for _ in range(15) for u in range(15)]
    values = draw.exponential(size=15)[:, None] * draw.exponential(size=15)[None]
    found = two_way(cross(persons, units, np.stack([values.ravel(), np.ones(225)], 1)), mean, draws=2000)
    assert found.bca is not None
    assert found.bca[0] > found.interval[0]
    assert found.bca[1] > found.interval[1]
    assert found.p < 0.01 < two_way(table(rotated()), difference, draws=1000, null=-0.9).p


@pytest.mark.parametrize(("persons", "units"), [(1, 5), (5, 1)])
def test_one_person_or_one_unit_has_no_interval(persons: int, units: int) -> None:
    rows = [(f"p{p}", f"u{u}") for p in range(persons) for u in range(units)]
    with pytest.raises(OutOfReach, match="at least 2 of each"):
        two_way(cross(*zip(*rows), np.ones((len(rows), 2))), mean)


def test_what_is_not_defined_is_refused() -> None:
    rows = [(f"p{p}", f"u{u}", "a", 1.0) for p in range(3) for u in range(3)]
    with pytest.raises(OutOfReach, match="a condition has none"):
        two_way(table(rows), difference, draws=10)
    with pytest.raises(OutOfReach, match="not finite"):
        cross(["p"], ["u"], np.array([[np.nan, 1.0]]))
    with pytest.raises(OutOfReach, match="at least one answer"):
        cross([], [], np.zeros((0, 2)))


def test_golden_variances() -> None:
    of_both = crossed_variance(person=0.01, unit=0.02, residual=0.12, persons=60, units=84, answers=60 * 84)
    assert of_both == pytest.approx(0.000428571, abs=1e-9)
    assert of_both**0.5 == pytest.approx(0.0207020, abs=1e-7)
    alone = crossed_variance(person=0, unit=0, residual=0.12, persons=60, units=84, answers=60 * 84)
    assert alone**0.5 == pytest.approx(0.0048795, abs=1e-7)
    assert design_effect(40, 0.05) == pytest.approx(2.95)
    assert spearman_brown(0.6) == pytest.approx(0.75)
