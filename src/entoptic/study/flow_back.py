"""What people answered, as evidence beside the runs whose pictures they judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from entoptic.metrics.evidence import Evidence
from entoptic.metrics.people import PEOPLE
from entoptic.runs.people import Answered, StudyOfRun
from entoptic.study.records import Answer, Study
from entoptic.study.results import Results, UnitResult

_BESIDE = {"natural": "real photos", "none": "no references"}
"""Conditions that stand beside a method's number, and what they are called there."""


def study_of_run(study: Study, results: Results, answers: Sequence[Answer]) -> StudyOfRun:
    """Returns what the primary analysis found about each unit and method.

    Args:
        study: pre-registration.
        results: of the analysis.
        answers: of everybody.
    """
    kept = results.exclusions.kept
    model_of = {one.unit: one.model for one in answers if one.kind == "main"}
    simulated = {one.participant for one in answers if one.source == "simulated" and one.participant in kept}
    units = results.kept.units
    beside: dict[tuple[str, str, str], float] = {
        (one.task, one.unit, one.arm): one.value for one in units if one.arm in _BESIDE and not one.method
    }
    return StudyOfRun(
        study=study.name,
        manifest=results.manifest,
        analysed=results.analysed,
        participants=results.kept.persons,
        simulated=len(simulated),
        answered=tuple(
            Answered(
                model=model_of.get(one.unit, ""), unit=one.unit, method=one.method,
                evidence=_evidence(study, one, beside, len(simulated)),
            )
            for one in units
            if one.method
        ),
    )  # fmt: skip


def _evidence(study: Study, one: UnitResult, beside: Mapping[tuple[str, str, str], float], simulated: int) -> Evidence:
    detail: dict[str, object] = {"study": study.name}
    task = study.task(one.task)
    if one.outcome == "correct":
        detail["chance"] = 1 / task.options
        detail |= {
            title: value
            for arm, title in _BESIDE.items()
            if (value := beside.get((one.task, one.unit, arm))) is not None
        }
    if one.outcome == "rating":
        detail["scale"] = task.scale
    if simulated:
        detail["simulated"] = simulated
    return Evidence(PEOPLE[one.task][0], one.value, one.n, one.interval, "higher", detail=detail)
