"""Power by simulation: rises with people and units, keeps the level without an effect, and refuses what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')

from entoptic.errors import OutOfReach, UserError
from entoptic.study.power import Effect, RatingEffect, fewest_persons, lower_bound, power
from entoptic.study.statistics import planted
from entoptic.study.statistics.planted import Spread


def test_power_rises_with_people_and_units() -> None:
    effect = Effect(baseline=0.7, gain=0.2)
    small, people, units = (power(effect, p, u, simulations=40) for p, u in ((12, 12), (40, 12), (40, 40)))
    assert small.power < people.power <= units.power
    assert units.power > 0.95
    assert units.interval[0] < units.power <= units.interval[1]
    assert small.found_robust >= small.found  # the bootstrap is the wider one


def test_more_answers_of_one_unit_do_not_help_where_units_vary() -> None:
    effect = Effect(baseline=0.7, gain=0.15, spread=Spread(unit_method=2.0))
    many_people, many_units = power(effect, 80, 8, simulations=40), power(effect, 16, 40, simulations=40)
    assert many_units.power > many_people.power + 0.1


def test_without_an_effect_the_level_is_kept() -> None:
    found = power(Effect(gain=0.0), 20, 20, simulations=100)
    assert found.power <= 0.05
    assert found.found_robust / 100 <= 0.11


def test_the_same_seed_gives_the_same_power() -> None:
    assert power(Effect(), 10, 10, simulations=20) == power(Effect(), 10, 10, simulations=20)
    assert Effect().study(10, 10, 10, "a").values_N.tolist() != Effect().study(10, 10, 10, "b").values_N.tolist()


def test_ratings_have_power_too() -> None:
    found = power(RatingEffect(gain=2.0), 20, 20, simulations=20)
    assert found.power > 0.8
    assert set(RatingEffect().study(10, 10, 10, "a").values_N) <= {1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_fewest_people_reach_the_power_and_fewer_do_not() -> None:
    tried = []
    effect = Effect(baseline=0.65, gain=0.25)
    best = fewest_persons(effect, 16, target=0.8, most=60, simulations=40, each=tried.append)
    assert best.power >= 0.8
    assert all(one.power < 0.8 for one in tried if one.persons < best.persons)
    assert any(one.persons < best.persons for one in tried)
    out_of_reach = fewest_persons(Effect(gain=0.01), 8, most=8, simulations=10)
    assert (out_of_reach.persons, out_of_reach.power < 0.8) == (8, True)


def test_a_session_has_an_end() -> None:
    assert power(Effect(), 4, 60, simulations=1).trials == 45
    assert power(Effect(), 4, 60, trials=10, simulations=1).trials == 10
    assert round(lower_bound(Effect(baseline=0.82, gain=0.1)), 2) == 176.36


@pytest.mark.parametrize(
    "make",
    [
        lambda: Effect(baseline=0.95, gain=0.1), lambda: Effect(baseline=0.0), lambda: power(Effect(), 5, 5, simulations=0),
        lambda: power(Effect(), 5, 5, trials=6, simulations=1), lambda: fewest_persons(Effect(), 5, target=1.0),
        lambda: fewest_persons(Effect(), 5, most=2),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]


def test_a_design_deals_every_unit_equally_and_nobody_sees_one_twice() -> None:
    draw = np.random.default_rng(0)
    for persons, units, trials, methods in ((12, 10, 10, 2), (30, 20, 8, 2), (21, 12, 12, 3)):
        who, what, which = planted.design(persons, units, trials, methods, draw)
        pairs = list(zip(who.tolist(), what.tolist()))
        assert len(set(pairs)) == len(pairs) == persons * trials
        counts = np.bincount(what, minlength=units)
        assert counts.max() - counts.min() <= 1
        cells = np.zeros((units, methods))
        np.add.at(cells, (what, which), 1)
        assert cells.max() - cells.min() <= 2


def test_planted_shares_are_those_of_the_population() -> None:
    draw = np.random.default_rng(1)
    logit = planted.logit_for(0.8, 1.2)
    people = 1 / (1 + np.exp(-(logit + 1.2 * draw.normal(size=200_000))))
    assert people.mean() == pytest.approx(0.8, abs=0.003)
    assert planted.marginal(logit, 1.2) == pytest.approx(0.8, abs=1e-9)
    levels = planted.marginal_levels((-1.386, -0.405, 0.405, 1.386), 0.0, 1.0)
    assert levels.sum() == pytest.approx(1)
    assert levels[0] == pytest.approx(levels[4])
    with pytest.raises(OutOfReach, match=r"between 0\.001 and 0\.999"):
        planted.logit_for(1.0, 1.0)
