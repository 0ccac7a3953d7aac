"""Who is asked what: balanced assignment of units and conditions to the places of a study.

Units that the same tasks can ask about form a group. A group's units are dealt from a shuffled deck, so that every unit is
asked about equally often and nobody twice about one. The conditions go round with them: the unit at place j of the deck is in
condition (j + l) mod C the l-th time it is dealt. So each unit meets each condition equally often, and a person meets
each condition about equally often.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entoptic.errors import UserError
from entoptic.study.records import Arm, TaskKind


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units that the same tasks can ask about.

    Attributes:
        units: in the order of the deck.
        arms: conditions of all its tasks.
        trials: main trials a person.
    """

    units: tuple[str, ...]
    arms: tuple[Arm, ...]
    trials: int


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """One unit and condition that one person is asked about.

    Attributes:
        unit: name of the unit.
        arm: the condition.
        occurrence: how often the unit was dealt in this condition before.
    """

    unit: str
    arm: Arm
    occurrence: int


def make_groups(
    eligible: Mapping[TaskKind, Sequence[str]], arms: Mapping[TaskKind, Sequence[Arm]], trials: int, seed: int
) -> tuple[Group, ...]:
    """Puts units into groups and shares the trials among them.

    Args:
        eligible: units that each task can ask about.
        arms: conditions of each task.
        trials: main trials a person, at most.
        seed: of the decks.

    Raises:
        UserError: there are too few units or trials for the balance.
    """
    tasks_of: dict[str, tuple[TaskKind, ...]] = {}
    for task, units in eligible.items():
        for unit in units:
            tasks_of[unit] = (*tasks_of.get(unit, ()), task)
    by_tasks: dict[tuple[TaskKind, ...], list[str]] = {}
    for unit, tasks in tasks_of.items():
        by_tasks.setdefault(tasks, []).append(unit)
    conditions = {tasks: tuple(arm for task in tasks for arm in arms[task]) for tasks in by_tasks}
    number = sum(map(len, conditions.values()))
    groups = []
    for tasks, units in by_tasks.items():
        share = min(len(units), -(-trials * len(conditions[tasks]) // number))
        if share < len(conditions[tasks]):
            raise UserError(_too_few(tasks, len(conditions[tasks]), len(units), share, trials))
        deck = sorted(units)
        random.Random(f"{seed}|deck|{'|'.join(tasks)}").shuffle(deck)
        groups.append(Group(units=tuple(deck), arms=conditions[tasks], trials=share))
    return tuple(groups)


def _too_few(tasks: Sequence[str], conditions: int, units: int, share: int, trials: int) -> str:
    what = f"{' and '.join(tasks)} {'has' if len(tasks) == 1 else 'have'} {conditions} conditions"
    rule = "a person meets each condition at least once and no unit twice"
    if units < conditions:
        return (
            f"{what}, and {units} units beside those for practice can be asked about: too few for the balance, since {rule}; "
            "give runs of more units, or fewer --tasks"
        )
    return f"{what}, and {share} of --trials {trials} are theirs: too few for the balance, since {rule}; give more --trials"


def deal(groups: Sequence[Group], participants: int) -> tuple[tuple[Dealt, ...], ...]:
    """Returns what each place is asked about, in the order of the decks.

    Args:
        groups: of `make_groups`.
        participants: number of places.
    """
    slots: list[list[Dealt]] = [[] for _ in range(participants)]
    for group in groups:
        met: dict[tuple[str, str, str], int] = {}
        card = 0
        for slot in slots:
            for _ in range(group.trials):
                lap, place = divmod(card, len(group.units))
                unit, arm = group.units[place], group.arms[(place + lap) % len(group.arms)]
                key = (unit, arm.task, arm.name)
                slot.append(Dealt(unit=unit, arm=arm, occurrence=met.get(key, 0)))
                met[key] = met.get(key, 0) + 1
                card += 1
    return tuple(map(tuple, slots))


def task_order(tasks: Sequence[TaskKind], slot: int, *, fixed: bool) -> tuple[TaskKind, ...]:
    """Returns the order in which a person meets the tasks.

    Args:
        tasks: of the study.
        slot: of the person.
        fixed: whether it is the same for everybody; else the rows of a Williams square take turns.
    """
    if fixed or len(tasks) < 2:
        return tuple(tasks)
    square = williams(len(tasks))
    return tuple(tasks[i] for i in square[slot % len(square)])


def williams(n: int) -> tuple[tuple[int, ...], ...]:
    """Returns a Williams square: rows in which every ordered pair of neighbours is met equally often.

    For even n it has n rows, for odd n 2n (the square and its mirror).
    """
    first = [0]
    for step in range(1, n):
        first.append((first[-1] + (step if step % 2 else -step)) % n)
    rows = [tuple((one + i) % n for one in first) for i in range(n)]
    return tuple(rows if n % 2 == 0 else [*rows, *(tuple(reversed(row)) for row in rows)])


def place_catch(main: int, catch: int, draw: random.Random) -> list[bool]:
    """Returns for each trial of a task whether it is a catch trial: never among the first two, never two in a row.

    Args:
        main: number of main trials.
        catch: number of catch trials; those that find no such place are left out.
        draw: random choices.
    """
    gaps = list(range(2, main + 1))  # behind so many main trials
    if main < 2:
        gaps = [main]
    chosen = set(draw.sample(gaps, min(catch, len(gaps))))
    order: list[bool] = []
    for i in range(main + 1):
        if i in chosen:
            order.append(True)
        if i < main:
            order.append(False)
    return order
