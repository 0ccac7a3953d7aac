"""Reads the sessions and answers of a study's database."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import cast

from sqlalchemy.exc import SQLAlchemyError

from entoptic.errors import Unreadable
from entoptic.study.answer_records import Given, Person
from entoptic.study.answers import DATABASE_FILE
from entoptic.study.database import AnswerRow, SessionRow, open_study_database, select, url_of
from entoptic.study.records import Answer, Participation, Plan, Source, Stage, Study
from entoptic.study.rows import rows_of


def read_stored(
    folder: Path, database: str, study: Study, plan: Plan, manifest: str
) -> list[tuple[Participation, list[Answer]]]:
    """Returns the sessions of a database in the order of their start, each with its answers. Those withdrawn have none.

    Raises:
        UserError: the database cannot be read, or belongs to another study.
    """
    opened = open_study_database(url_of(database, folder / DATABASE_FILE), manifest, study.participants)
    trials = {one.slot: one.trials for one in plan.assignments}
    known = {trial.id: trial for own in trials.values() for trial in own}
    hashes = {one.name: one.sha256 for one in plan.stimuli}
    try:
        with opened.read() as session:
            people = session.exec(select(SessionRow).order_by(SessionRow.started)).all()
            answers: dict[str, list[AnswerRow]] = {}
            for row in session.exec(select(AnswerRow).order_by(AnswerRow.id)).all():  # type: ignore[arg-type]
                answers.setdefault(row.session, []).append(row)
    except SQLAlchemyError as error:
        raise Unreadable(f"the answers of {folder} cannot be read ({' '.join(str(error).split())[:120]})") from None
    finally:
        opened.close()
    return [
        rows_of(
            study, manifest, hashes, _person(row), [(known[one.trial], _given(one)) for one in answers.get(row.id, [])],
            trials[row.slot],
        )
        for row in people
    ]  # fmt: skip


def _person(row: SessionRow) -> Person:
    return Person(
        participant=row.id, source=cast(Source, row.source), slot=row.slot, attempt=row.attempt,
        stage=cast(Stage, row.stage), language=row.language, started=row.started, finished=row.finished,
        instruction_seconds=row.instruction_seconds, open_data=row.open_data, honeypot=row.honeypot,
        automated=row.automated, comments=row.comments,
    )  # fmt: skip


def _given(row: AnswerRow) -> Given:
    return Given(**{one.name: getattr(row, one.name) for one in fields(Given)})
