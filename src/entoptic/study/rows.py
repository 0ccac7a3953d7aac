"""Makes the rows of the tidy table: an answer as it was given, joined with its trial and the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from entoptic.study.progress_of import practice_rounds
from entoptic.study.records import Answer, Participation, Source, Stage, Study, Trial


@dataclass(frozen=True, kw_only=True)
class GivenRow:
    """An answer as it was stored, wherever that was."""

    trial: Trial
    choice: int | None
    not_sure: bool
    correct: bool | None
    confidence: int | None
    rating: int | None
    text: str | None
    technical: bool
    shown_ms: float | None
    answered_ms: float | None
    received: str
    focus_losses: int
    reloads: int
    viewport: str
    pixel_ratio: float
    pasted: bool


@dataclass(frozen=True, kw_only=True)
class Person:
    """A session as it was stored, wherever that was."""

    participant: str
    source: Source
    slot: int
    attempt: int
    stage: Stage
    language: str
    started: str
    finished: str
    instruction_seconds: float | None
    open_data: bool
    honeypot: bool
    automated: bool
    comments: str


def rows_of(
    study: Study,
    manifest: str,
    hashes: Mapping[str, str],
    person: Person,
    given: Sequence[GivenRow],
    trials: Sequence[Trial],
) -> tuple[Participation, list[Answer]]:
    """Returns a person's rows of the tables.

    Args:
        study: the pre-registration.
        manifest: sha256 of its file.
        hashes: sha256 of each picture.
        person: the session.
        given: its answers in their order.
        trials: of the assignment.
    """
    answers = [_answer(study, manifest, hashes, person, order, one) for order, one in enumerate(given)]
    catch = [one for one in given if one.trial.kind == "catch" and one.correct is not None]
    participation = Participation(
        participant=person.participant, source=person.source, slot=person.slot, attempt=person.attempt,
        stage=person.stage, language=person.language, started=person.started, finished=person.finished,
        instruction_seconds=person.instruction_seconds,
        main_seconds=_seconds([one.received for one in given if one.trial.kind != "practice"]),
        practice_rounds=practice_rounds(trials, {one.trial.id: one.correct for one in given}),
        catch_right=sum(one.correct is True for one in catch), catch_shown=len(catch), open_data=person.open_data,
        honeypot=person.honeypot, automated=person.automated, comments=person.comments,
    )  # fmt: skip
    return participation, answers


def _answer(
    study: Study, manifest: str, hashes: Mapping[str, str], person: Person, order: int, given: GivenRow
) -> Answer:
    trial = given.trial
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
        stimulus_sha256=tuple(hashes[one.stimulus] for one in trial.pictures), choice=given.choice,
        not_sure=given.not_sure, correct=given.correct, confidence=given.confidence, rating=given.rating, text=given.text,
        technical=given.technical, shown_ms=times[0], answered_ms=times[1],
        rt_ms=None if times[0] is None or times[1] is None else times[1] - times[0], received=given.received,
        focus_losses=given.focus_losses, reloads=given.reloads, viewport=given.viewport, pixel_ratio=given.pixel_ratio,
        language=person.language, pasted=given.pasted,
    )  # fmt: skip


def _seconds(times: Sequence[str]) -> float | None:
    known = [datetime.fromisoformat(one) for one in times if one]
    return (known[-1] - known[0]).total_seconds() if len(known) > 1 else None
