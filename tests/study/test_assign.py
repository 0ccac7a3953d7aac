"""Balanced assignment."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.errors import UserError
from entoptic.study.assign import deal, make_groups, place_catch, task_order, williams
from entoptic.study.records import Arm, TaskKind


def arms(task: TaskKind, number: int) -> list[Arm]:
    return [Arm(task=task, name=f"arm{i}", kind="synthetic") for i in range(number)]


@settings(max_examples=60)
@given(
    units=st.integers(6, 40), first=st.integers(1, 3), second=st.integers(1, 3), trials=st.integers(6, 40),
    people=st.integers(1, 40), seed=st.integers(0, 5),
)  # fmt: skip
def test_every_unit_and_condition_equally_often(
    units: int, first: int, second: int, trials: int, people: int, seed: int
) -> None:
    names = [f"u{i}" for i in range(units)]
    own = {"2afc": arms("2afc", first), "intruder": arms("intruder", second)}
    groups = make_groups({"2afc": names, "intruder": names}, own, trials, seed)  # type: ignore[arg-type, dict-item]
    slots = deal(groups, people)
    by_unit = Counter(one.unit for slot in slots for one in slot)
    counts = [by_unit[name] for name in names]
    assert max(counts) - min(counts) <= 1
    met = Counter((one.unit, one.arm.task, one.arm.name) for slot in slots for one in slot)
    cells = [met[name, arm.task, arm.name] for name in names for own_arms in own.values() for arm in own_arms]
    assert max(cells) - min(cells) <= 1
    for slot in slots:
        assert len({one.unit for one in slot}) == len(slot)  # nobody twice about one unit
        assert len(slot) == min(trials, units)
        seen = Counter((one.arm.task, one.arm.name) for one in slot)
        assert max(seen.values()) - min(seen.get((a.task, a.name), 0) for o in own.values() for a in o) <= 2
    assert all(one.occurrence < met[one.unit, one.arm.task, one.arm.name] for slot in slots for one in slot)


def test_units_that_other_tasks_can_ask_about_are_dealt_apart() -> None:
    own = {"describe": arms("describe", 2), "inner-match": arms("inner-match", 2)}
    groups = make_groups({"describe": ["a", "b", "c"], "inner-match": ["d", "e"]}, own, 20, 0)  # type: ignore[arg-type, dict-item]
    assert sorted(len(group.units) for group in groups) == [2, 3]
    for slot in deal(groups, 6):
        assert {one.unit for one in slot if one.arm.task == "inner-match"} == {"d", "e"}


def test_the_seed_decides() -> None:
    own = {"2afc": arms("2afc", 2)}
    dealt = [deal(make_groups({"2afc": list("abcdefgh")}, own, 4, seed), 3) for seed in (1, 1, 2)]  # type: ignore[arg-type, dict-item]
    assert dealt[0] == dealt[1] != dealt[2]


@pytest.mark.parametrize(
    ("units", "trials", "said"), [(3, 40, "too few for the balance"), (9, 3, "give more --trials")]
)
def test_too_few_units_or_trials_are_refused(units: int, trials: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_groups({"2afc": [f"u{i}" for i in range(units)]}, {"2afc": arms("2afc", 4)}, trials, 0)  # type: ignore[arg-type, dict-item]


def test_the_williams_square_of_four() -> None:
    assert williams(4) == ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_neighbours_in_a_williams_square_are_balanced(n: int) -> None:
    met = Counter(pair for row in williams(n) for pair in pairwise(row))
    assert len(met) == n * (n - 1)
    assert set(met.values()) == {1 if n % 2 == 0 else 2}


def test_the_order_of_tasks_turns_unless_it_is_fixed() -> None:
    tasks: tuple[TaskKind, ...] = ("2afc", "intruder", "preference")
    assert len({task_order(tasks, slot, fixed=False) for slot in range(6)}) == 6
    assert {task_order(tasks, slot, fixed=True) for slot in range(6)} == {tasks}


@given(main=st.integers(0, 30), catch=st.integers(0, 5), seed=st.integers(0, 20))
def test_catch_trials_come_late_and_never_in_a_row(main: int, catch: int, seed: int) -> None:
    order = place_catch(main, catch, random.Random(seed))
    assert order.count(False) == main
    assert not any(a and b for a, b in pairwise(order))
    if main >= 2:
        assert not any(order[:2])
    assert order.count(True) == min(catch, max(1, main - 1))
