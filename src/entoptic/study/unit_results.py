"""What people answered about each unit: one person answers about a unit once, so the answers of a cell are independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from entoptic.base.estimates import mean_interval, wilson
from entoptic.study.outcomes import OUTCOMES, Outcome, of_preference
from entoptic.study.records import WITH_RIGHT_ANSWER, Answer, Task
from entoptic.study.results import UnitResult
from entoptic.study.statistics.multiplicity import benjamini_hochberg
from entoptic.study.statistics.proportions import binomial_p
from entoptic.study.text_scores import TextScores


def unit_results(answers: Sequence[Answer], texts: TextScores | None, tasks: Sequence[Task]) -> tuple[UnitResult, ...]:
    """Returns one result a task, condition and unit; of preferences one a method and unit.

    Args:
        answers: main trials that count.
        texts: scores of written answers, or None.
        tasks: of the study.
    """
    found: list[UnitResult] = []
    for task in tasks:
        own = [one for one in answers if one.task == task.kind]
        if task.kind == "preference":
            found += _preferred(own)
            continue
        if task.kind == "describe" and texts is None:
            continue
        outcome = (
            OUTCOMES[task.kind] if texts is None or task.kind != "describe" else OUTCOMES["describe"].with_texts(texts)
        )
        found += _screened([_cell(cell, outcome, task) for cell in _cells(own) if outcome.rows(cell)])
    return tuple(found)


def _cells(answers: Sequence[Answer]) -> list[list[Answer]]:
    cells: dict[tuple[str, str], list[Answer]] = {}
    for one in answers:
        cells.setdefault((one.unit, one.arm), []).append(one)
    return [cells[key] for key in sorted(cells)]


def _cell(cell: Sequence[Answer], outcome: Outcome, task: Task) -> UnitResult:
    first, values = cell[0], [value for _, value in outcome.rows(cell)]
    n, total = len(values), sum(values)
    is_share = task.kind in WITH_RIGHT_ANSWER
    interval = wilson(total, n) if is_share else mean_interval(values) if n > 1 else None
    if interval and task.scale:
        interval = max(1.0, interval[0]), min(float(task.scale), interval[1])
    return UnitResult(
        task=first.task, arm=first.arm, method=first.method, unit=first.unit, label=first.label, outcome=outcome.name,
        value=total / n, interval=interval, n=n, p=binomial_p(round(total), n, 1 / task.options) if is_share else None,
    )  # fmt: skip


def _screened(results: Sequence[UnitResult]) -> list[UnitResult]:
    tested = [one.p for one in results if one.p is not None]
    adjusted = iter(benjamini_hochberg(tested))
    return [one if one.p is None else replace(one, adjusted_p=next(adjusted)) for one in results]


def _preferred(answers: Sequence[Answer]) -> list[UnitResult]:
    found = []
    methods = sorted({name for one in answers for name in (one.first, one.second) if name})
    for unit in sorted({one.unit for one in answers}):
        for method in methods:
            pairs = [one for one in answers if one.unit == unit and method in (one.first, one.second)]
            if not pairs:
                continue
            won = sum(of_preference(one, method) for one in pairs)
            found.append(
                UnitResult(
                    task="preference", arm=method, method=method, unit=unit, label=pairs[0].label, outcome="preferred",
                    value=won / len(pairs), interval=wilson(won, len(pairs)), n=len(pairs),
                )
            )  # fmt: skip
    return found
