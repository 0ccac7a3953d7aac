"""The words of the pre-registration: the primary comparison, its analysis, and what the consent page says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

from entoptic.base.files import user_path
from entoptic.base.records import read_json
from entoptic.errors import UserError, instead
from entoptic.study.json_form import from_json
from entoptic.study.records import Arm, Consent, Contrast, IntervalKind, Registration, TaskKind

_OUTCOMES: Mapping[TaskKind, Literal["correct", "rating", "similarity", "preferred"]] = {
    "2afc": "correct", "intruder": "correct", "preference": "preferred", "describe": "similarity",
    "class-match": "rating", "inner-match": "rating",
}  # fmt: skip
_MEASURES = {
    "correct": "share of right answers", "rating": "mean rating", "similarity": "similarity of text and label",
    "preferred": "share of preferences",
}  # fmt: skip
_INTERVALS: Mapping[IntervalKind, str] = {
    "bootstrap": "a percentile interval of a two-way bootstrap that resamples persons and units (10,000 draws)",
    "robust": "Student's interval from the two-way cluster-robust variance (persons and units)",
}
_BY_CLARITY: tuple[TaskKind, ...] = ("2afc", "intruder", "class-match", "inner-match", "describe", "preference")


def register(
    tasks: Sequence[TaskKind],
    arms: Mapping[TaskKind, Sequence[Arm]],
    methods: Sequence[str],
    *,
    proposed: str = "",
    hypotheses: Sequence[str] = (),
    participants: int,
    level: float = 0.95,
    interval: IntervalKind = "bootstrap",
) -> Registration:
    """Returns the registered comparison with its rules.

    A task with a right answer comes before one without. The proposed method is compared with the next method, else with the
    arm without references, else with chance.

    Args:
        tasks: of the study.
        arms: conditions of each task.
        methods: of the runs.
        proposed: method that is proposed; "" is the first.
        hypotheses: in words; none takes one made from the comparison.
        participants: number of places.
        level: of the registered interval.
        interval: of the registered test.

    Raises:
        UserError: there is no such method.
    """
    if proposed and proposed not in methods:
        raise UserError(f'no pictures by the method "{proposed}"{instead(proposed, methods)}')
    task = next(one for one in _BY_CLARITY if one in tasks)
    method = proposed or methods[0]
    others = [one for one in methods if one != method]
    names = [arm.name for arm in arms[task]]
    versus = others[0] if others else "none" if "none" in names else "natural" if "natural" in names else ""
    primary = Contrast(task=task, outcome=_OUTCOMES[task], arm=method, versus=versus)
    measure = _MEASURES[primary.outcome]
    against = f"than {versus}" if versus not in ("", "none") else "than no references" if versus else "than chance"
    made = f"{method} has a higher {measure} in {task} {against}."
    return Registration(
        hypotheses=tuple(hypotheses) or (made,),
        primary=primary,
        alpha=round(1 - level, 6),
        interval=interval,
        analysis=f"Difference of the {measure} over persons and units, with {_INTERVALS[interval]}. The hypothesis is supported "
        f"where the {100 * level:g} % interval lies above 0.",
        stopping=f"after {participants} participants who finish; results are not looked at before",
    )


def read_consent(file: str | Path | None) -> Consent:
    """Reads what the consent page says of a study from a JSON file; no file leaves all of it not stated.

    Raises:
        UserError: the file cannot be read, or has a field that there is not.
    """
    if file is None:
        return Consent()
    path = user_path(file)
    record = read_json(path)
    known = [one.name for one in fields(Consent)]
    for name in record:
        if name not in known:
            raise UserError(
                f'{path} has a field "{name[:80]}" that the consent page does not show{instead(name, known)}'
            )
    return from_json(Consent, record, str(path))
