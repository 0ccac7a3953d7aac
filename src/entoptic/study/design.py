"""What a study is to ask: the options of `build`, the presets and what they fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.errors import UserError, instead
from entoptic.study.records import INTERVALS, TASKS, ExclusionRules, Task, TaskKind

Preset = Literal["default", "vital"]
PRESETS: Mapping[str, tuple[TaskKind, ...]] = {
    "default": ("2afc", "intruder", "preference"),
    # The task that gives least away comes first: a word that was read would be the next task's answer.
    "vital": ("describe", "inner-match", "class-match"),
}
VITAL_ITEMS = 10
"""Trials a method and task of the preset "vital"."""
SECONDS: Mapping[TaskKind, float] = {
    "class-match": 7, "inner-match": 9, "describe": 15, "2afc": 10, "intruder": 8, "preference": 6,
}  # fmt: skip
"""Expected seconds of a trial."""
INSTRUCTION_SECONDS, END_SECONDS = 60.0, 45.0
MOST_OPTIONS = 6
_CATCH_SHARE = 8
_QUERIES = ("extreme", "inner")
_TASKS: Mapping[TaskKind, Task] = {
    "class-match": Task(kind="class-match", trials=0, practice=1, scale=5),
    "inner-match": Task(kind="inner-match", trials=0, practice=1, scale=5),
    "describe": Task(kind="describe", trials=0, practice=1),
    # All five right within three rounds: a coin passes with probability 0.09.
    "2afc": Task(kind="2afc", trials=0, practice=5, options=2, confidence=3),
    "intruder": Task(kind="intruder", trials=0, practice=3, options=4, confidence=3),
    "preference": Task(kind="preference", trials=0, practice=1, options=2, not_sure=True),
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a study asks."""

    bounds: ClassVar[Bounds] = {
        "participants": (1, 10_000), "trials": (1, 500), "references": (1, 9), "options": (3, MOST_OPTIONS),
        "batches": (1, 100), "break_every": (5, 500), "practice_units": (1, 100), "level": (0.5, 0.999),
    }  # fmt: skip

    participants: int = 60
    """places in the study, each for one person"""
    trials: int | None = None
    """main trials a person, over all tasks (default: 40; vital: 10 for each method and task)"""
    references: int = 9
    """reference pictures a group"""
    options: int = 4
    """pictures of an intruder trial, one of them from another unit"""
    query: str = "extreme"
    """2afc: queries from the extreme or the inner end of the references, or a share: 0.01, 0.05, 0.15"""
    low: str = "natural"
    """2afc: group of low activation in every arm, natural photos or none"""
    batches: int | None = None
    """2afc: disjoint sets of photos a unit (default: as many as 20 % of the photos fill, at most 20)"""
    practice_units: int | None = None
    """units kept for practice and catch trials (default: one in six, at most 5)"""
    break_every: int = 20
    """main trials between two breaks"""
    level: float = 0.95
    """confidence level of the registered interval; the primary test has the level 1 minus this"""
    interval: str = "bootstrap"
    """interval of the registered test: bootstrap (wider: covers more than its level) or robust (narrower: covers about
    its level)"""
    seed: int = 0
    """random seed of every draw"""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.low not in ("natural", "none"):
            raise UserError(f'--low must be natural or none, got "{self.low}"')
        if self.interval not in INTERVALS:
            raise UserError(f'no interval "{self.interval[:80]}"{instead(self.interval, INTERVALS)}')
        query_share(self.query)


def query_share(query: str) -> float | None:
    """Returns the share of photos beyond a query's rank, None where queries come from the references' own end.

    Raises:
        UserError: it is no share.
    """
    if query in _QUERIES:
        return None
    try:
        share = float(query)
    except ValueError:
        raise UserError(
            f'--query must be extreme, inner or a share such as 0.05, got "{query}"{instead(query, _QUERIES)}'
        ) from None
    if not 0 < share < 0.5:
        raise UserError(f"--query must be a share between 0 and 0.5, got {query}")
    return share


def choose_tasks(preset: str, tasks: Sequence[str]) -> tuple[TaskKind, ...]:
    """Returns the kinds of question, in their order.

    Args:
        preset: "default" or "vital".
        tasks: that were asked for; none takes the preset's.

    Raises:
        UserError: an unknown preset or task, or a task given twice.
    """
    if preset not in PRESETS:
        raise UserError(f'no preset "{preset}"{instead(preset, PRESETS)}')
    chosen: list[TaskKind] = []
    for name in tasks:
        if name not in TASKS:
            raise UserError(f'no task "{name[:80]}"{instead(name, TASKS)}')
        kind = next(one for one in get_args(TaskKind) if one == name)
        if kind in chosen:
            raise UserError(f'task "{kind}" is given twice; each task is asked once')
        chosen.append(kind)
    return tuple(chosen) or PRESETS[preset]


def task_records(kinds: Sequence[TaskKind], design: Design, trials: Mapping[TaskKind, int]) -> tuple[Task, ...]:
    """Returns how each kind of question is asked.

    Args:
        kinds: of question.
        design: the options.
        trials: main trials a person, by task.
    """
    made = []
    for kind in kinds:
        task = replace(
            _TASKS[kind],
            trials=trials[kind],
            catch=max(1, -(-trials[kind] // _CATCH_SHARE)) if kind != "describe" else 0,
            references=design.references if kind in ("2afc", "inner-match") else 0,
        )
        if kind == "2afc":
            task = replace(task, query=design.query, low=design.low)
        if kind == "intruder":
            task = replace(task, options=design.options)
        made.append(task)
    return tuple(made)


def expected_minutes(tasks: Sequence[Task]) -> float:
    """Returns the expected length of a session in minutes, with one round of practice."""
    seconds = sum(SECONDS[task.kind] * (task.trials + task.catch + task.practice) for task in tasks)
    return round((INSTRUCTION_SECONDS * len(tasks) + END_SECONDS + seconds) / 60, 1)


def exclusion_rules(preset: str, kinds: Sequence[TaskKind]) -> ExclusionRules:
    """Returns the registered exclusion rules of a study with these tasks."""
    two_choices = any(kind in ("2afc", "preference") for kind in kinds)
    rated = all(kind not in ("2afc", "intruder", "preference") for kind in kinds)
    return ExclusionRules(
        min_catch_share=0.6 if rated else 0.8,
        min_each_choice=0.1 if two_choices else None,
        max_practice_rounds=3,
    )
