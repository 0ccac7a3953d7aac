"""Makes the rows of the tidy table: an answer as it was given, joined with its trial and the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from entoptic.study.answer_records import Given, Person
from entoptic.study.progress_of import practice_rounds
from entoptic.study.records import Answer, Participation, Study, Trial

_GIVEN, _PERSON = tuple(one.name for one in fields(Given)), tuple(one.name for one in fields(Person))


def rows_of(
    study: Study,
    manifest: str,
    hashes: Mapping[str, str],
    person: Person,
    given: Sequence[tuple[Trial, Given]],
    trials: Sequence[Trial],
) -> tuple[Participation, list[Answer]]:
    """Returns a person's rows of the tables.

    Args:
        study: the pre-registration.
        manifest: sha256 of its file.
        hashes: sha256 of each picture.
        person: the session.
        given: its answers in their order, each with its trial.
        trials: of the assignment.
    """
    answers = [_answer(study, manifest, hashes, person, order, *one) for order, one in enumerate(given)]
    catch = [one for trial, one in given if trial.kind == "catch" and one.correct is not None]
    participation = Participation(
        **_fields(person, _PERSON),
        main_seconds=_seconds([one.received for trial, one in given if trial.kind != "practice"]),
        practice_rounds=practice_rounds(trials, {trial.id: one.correct for trial, one in given}),
        catch_right=sum(one.correct is True for one in catch), catch_shown=len(catch),
    )  # fmt: skip
    return participation, answers


def _answer(
    study: Study, manifest: str, hashes: Mapping[str, str], person: Person, order: int, trial: Trial, given: Given
) -> Answer:
    choices = trial.choices
    pair = [one.method for one in choices] if trial.task == "preference" else []
    chosen = given.choice is not None and given.choice < len(choices)
    times = given.shown_ms, given.answered_ms
    return Answer(
        study=study.name, manifest=manifest, source=person.source, participant=person.participant, attempt=person.attempt,
        slot=person.slot, order=order, block=trial.block, trial=trial.id, task=trial.task, kind=trial.kind,
        round=trial.round, arm=trial.arm, method=trial.method, first=pair[0] if pair else "",
        second=pair[1] if pair else "", preferred=pair[given.choice or 0] if pair and chosen else "", unit=trial.unit,
        label=trial.label, model=trial.model, layer=trial.layer, batch=trial.batch,
        stimuli=tuple(one.stimulus for one in trial.pictures),
        stimulus_sha256=tuple(hashes[one.stimulus] for one in trial.pictures), language=person.language,
        rt_ms=None if times[0] is None or times[1] is None else times[1] - times[0], **_fields(given, _GIVEN),
    )  # fmt: skip


def _fields(record: Given | Person, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _seconds(times: Sequence[str]) -> float | None:
    known = [datetime.fromisoformat(one) for one in times if one]
    return (known[-1] - known[0]).total_seconds() if len(known) > 1 else None
