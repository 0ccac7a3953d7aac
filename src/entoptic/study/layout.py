"""Lays questions out as trials: the order of trials and pictures, practice rounds, catch trials and breaks."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence

from entoptic.study.assign import Dealt, place_catch, task_order
from entoptic.study.questions import Question, Questions
from entoptic.study.records import Arm, Assignment, Shown, Task, TaskKind, Trial
from entoptic.study.stimuli import NAME_DIGITS


def lay_out(
    slot: int,
    dealt: Sequence[Dealt],
    tasks: Sequence[Task],
    arms: Mapping[TaskKind, Sequence[Arm]],
    kept: Mapping[TaskKind, Sequence[str]],
    questions: Questions,
    *,
    rounds: int,
    fixed_order: bool,
) -> Assignment:
    """Returns the trials of one place, practice first in each task.

    Args:
        slot: the place.
        dealt: what the person is asked about.
        tasks: how each kind of question is asked.
        arms: conditions of each task.
        kept: units for the practice and catch trials of each task.
        questions: makes the questions.
        rounds: of practice at most.
        fixed_order: whether everybody meets the tasks in their order.
    """
    design, trials, block = questions.design, [], 0
    by_kind = {task.kind: task for task in tasks}
    for kind in task_order([task.kind for task in tasks], slot, fixed=fixed_order):
        task, mine = by_kind[kind], [one for one in dealt if one.arm.task == kind]
        draw = random.Random(f"{design.seed}|slot|{slot}|{kind}")
        check_arms = _arms_with_checks(arms[kind])
        units = [questions.by_name[name] for name in kept[kind]]
        for number in range(rounds if task.practice else 0):
            made = [
                questions.check(check_arms[i % len(check_arms)], draw.choice(units), "practice", draw)
                for i in range(task.practice)
            ]
            trials += [_trial(one, draw, block, number, place) for one, place in zip(made, _places(made, draw))]
            if not any(one.right or one.right_ratings for one in made):
                break
        draw.shuffle(mine)
        main = [questions.main(one.arm, questions.by_name[one.unit], one.occurrence, draw) for one in mine]
        catch = place_catch(len(main), task.catch, draw)
        checks = [
            questions.check(draw.choice(check_arms), draw.choice(units), "catch", draw) for _ in range(sum(catch))
        ]
        order = [checks.pop() if is_catch else main.pop() for is_catch in catch]
        size = -(-len(order) // max(1, -(-len(order) // design.break_every)))  # blocks of one task are about equal
        for i, (one, place) in enumerate(zip(order, _places(order, draw))):
            trials.append(_trial(one, draw, block + i // size, 0, place))
        block += -(-len(order) // size) if order else 0
    return Assignment(slot=slot, trials=tuple(trials))


def _arms_with_checks(arms: Sequence[Arm]) -> Sequence[Arm]:
    """Arms in which practice and catch trials can look right or wrong: natural references where there are some."""
    return [arm for arm in arms if arm.kind == "natural"] or [arm for arm in arms if arm.kind != "none"]


def _places(questions: Sequence[Question], draw: random.Random) -> list[int]:
    """Where the first choice of each question stands: each place equally often."""
    places = [i % max(1, len(one.choices)) for i, one in enumerate(questions)]
    draw.shuffle(places)
    return places


def _trial(question: Question, draw: random.Random, block: int, number: int, place: int) -> Trial:
    choices = list(question.choices)
    if choices:
        first = next((one for one in choices if one.stimulus in question.right), choices[0])
        choices.remove(first)
        draw.shuffle(choices)
        choices.insert(min(place, len(choices)), first)
    right = tuple(i for i, one in enumerate(choices) if one.stimulus in question.right)
    unit = question.unit
    return Trial(
        id=secrets.token_hex(NAME_DIGITS // 2), task=question.task, kind=question.kind, arm=question.arm,
        method=question.method, unit=unit.unit, label=unit.label, word=question.word, model=unit.model, layer=unit.layer,
        batch=question.batch, block=block, round=number, pictures=(*_shuffled(question.fixed, draw), *choices),
        right=right or question.right_ratings,
    )  # fmt: skip


def _shuffled(fixed: Sequence[Shown], draw: random.Random) -> list[Shown]:
    """Pictures that cannot be chosen: each group in an order of its own."""
    found: list[Shown] = []
    for role in dict.fromkeys(one.role for one in fixed):
        group = [one for one in fixed if one.role == role]
        draw.shuffle(group)
        found += group
    return found
