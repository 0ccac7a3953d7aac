"""What a person can do in a running study: claim a place, go on, answer, withdraw. Each is one transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from entoptic.study.bodies import (
    COMMENT_LIMIT,
    Refused,
    check_answer,
    clean,
    flag,
    is_right,
    read_answer,
    read_entry,
    real,
)
from entoptic.study.database import (
    AboutRow,
    AnswerRow,
    Database,
    EventRow,
    IdentifierRow,
    SessionRow,
    SlotRow,
    select,
)
from entoptic.study.private import TOKEN_BYTES, Private, identifier_hash, personal_code, same_token, sha256_of_token
from entoptic.study.progress_of import Standing, standing
from entoptic.study.records import Plan, Study, Trial

LEASE_SECONDS = 3600.0
"""A place whose holder was silent for so long is given again when no other is free."""
_OVER = ("withdrawn", "screened-out", "finished")


@dataclass(frozen=True, kw_only=True)
class Where:
    """A session and where it stands."""

    row: SessionRow
    standing: Standing


class Sessions:
    """The sessions of one study.

    Args:
        study: the pre-registration.
        plan: everybody's trials.
        database: of the study.
        private: keys and codes.
    """

    def __init__(self, study: Study, plan: Plan, database: Database, private: Private) -> None:
        self.study, self.database, self.private = study, database, private
        self.trials = {one.slot: one.trials for one in plan.assignments}
        self.tasks = {task.kind: task for task in study.tasks}
        self.sizes = {one.name: (one.width, one.height) for one in plan.stimuli}

    # --- what is asked ------------------------------------------------------------------------------------------

    def where(self, token: str) -> Where:
        """Returns a session by its token.

        Raises:
            Refused: there is none.
        """
        with self.database.read() as session:
            row = self._row(session, token)
            return Where(row=row, standing=self._standing(session, row))

    def is_open(self) -> bool:
        """Whether places are still given."""
        with self.database.read() as session:
            about = session.get(AboutRow, 1)
            return about is not None and not about.closed

    # --- what is done -------------------------------------------------------------------------------------------

    def claim(self, body: Mapping[str, Any]) -> tuple[str, Where]:
        """Gives a place to a person; returns the token, which is stored nowhere, and the session.

        Raises:
            Refused: no consent, the person has a place already, no place is left, or the study is closed.
        """
        entry = read_entry(body.get("parameters", {}))
        language = body.get("language")
        if not isinstance(language, str) or language not in self.study.wording:
            raise Refused(400, "body", f"language must be one of {', '.join(self.study.wording)}")
        if body.get("consent") is not True:
            raise Refused(400, "consent", "taking part needs consent")
        open_data, honeypot = flag(body, "open_data"), bool(body.get("website"))
        token = secrets.token_hex(TOKEN_BYTES)

        def place(session: Session) -> Where:
            about = session.get(AboutRow, 1)
            if about is None or about.closed:
                raise Refused(403, "closed", "the study is closed")
            if entry.identifier:
                hashed = identifier_hash(self.private, entry.source, entry.identifier)
                if session.get(IdentifierRow, hashed) is not None:
                    raise Refused(409, "taken", "this person has a place already")
                session.add(IdentifierRow(hash=hashed))
                session.flush()
            slot = self._free_slot(session)
            row = SessionRow(
                id=secrets.token_hex(8), token_sha256=sha256_of_token(token), slot=slot.number, attempt=slot.attempts,
                source=entry.source, language=language, started=now(), seen=time.time(), open_data=open_data,
                honeypot=honeypot,
            )  # fmt: skip
            slot.attempts += 1
            slot.holder = row.id
            session.add(slot)
            session.add(row)
            session.flush()
            session.add(EventRow(time=now(), session=row.id, kind="claim", detail=f"slot {slot.number}"))
            return Where(row=row, standing=self._standing(session, row))

        try:
            return token, self.database.change(place)
        except IntegrityError:
            raise Refused(409, "taken", "this person has a place already") from None

    def instructed(self, token: str, body: Mapping[str, Any]) -> Where:
        """Ends the instructions."""

        def end(session: Session, row: SessionRow) -> None:
            seconds = real(body, "seconds", 0, 1e6)
            if row.instruction_seconds is None:
                row.instruction_seconds = seconds

        return self._change(token, end)

    def rested(self, token: str) -> Where:
        """Ends a break."""

        def end(session: Session, row: SessionRow) -> None:
            at = self._standing(session, row)
            if at.stage == "break":
                row.breaks = at.block

        return self._change(token, end)

    def reloaded(self, token: str) -> Where:
        """Counts that the current trial is shown again."""

        def count(session: Session, row: SessionRow) -> None:
            at = self._standing(session, row)
            if at.trial is not None:
                row.reloads = row.reloads + 1 if row.reload_trial == at.trial.id else 1
                row.reload_trial = at.trial.id

        return self._change(token, count)

    def answer(self, token: str, body: Mapping[str, Any]) -> tuple[bool | None, Where]:
        """Stores an answer; the same answer sent again is stored once.

        Returns:
            Whether the answer to a practice trial was right, else None; and the session.

        Raises:
            Refused: it is no answer to the current trial.
        """
        try:
            return self.database.change(lambda session: self._answer(session, token, body))
        except IntegrityError:  # the same trial at the same moment, from another connection
            return self.database.change(lambda session: self._answer(session, token, body))

    def questioned(self, token: str, body: Mapping[str, Any]) -> Where:
        """Stores the answers to the questions at the end."""

        def store(session: Session, row: SessionRow) -> None:
            comments, automated = body.get("comments", ""), flag(body, "automated")
            if not isinstance(comments, str) or len(comments) > COMMENT_LIMIT:
                raise Refused(400, "body", f"comments must be a text of at most {COMMENT_LIMIT} characters")
            if self._standing(session, row).stage != "questions":
                raise Refused(409, "order", "the questions come at the end")
            row.comments, row.automated, row.questioned = clean(comments), automated, True

        return self._change(token, store)

    def withdraw(self, token: str) -> Where:
        """Deletes a person's answers and frees the place. The person cannot come again."""

        def forget(session: Session, row: SessionRow) -> None:
            session.execute(delete(AnswerRow).where(AnswerRow.session == row.id))  # type: ignore[arg-type]
            row.stage, row.comments, row.reload_trial, row.finished = "withdrawn", "", "", now()
            row.instruction_seconds, row.open_data, row.honeypot, row.automated, row.reloads = (
                None,
                False,
                False,
                False,
                0,
            )
            self._release(session, row)
            session.add(EventRow(time=now(), session=row.id, kind="withdraw"))

        return self._change(token, forget)

    def code(self, token: str) -> tuple[str, str]:
        """Returns the completion code and the address of the platform, "" where there is none.

        Raises:
            Refused: the session is not over.
        """
        at = self.where(token)
        if at.standing.stage not in ("finished", "screened-out"):
            raise Refused(409, "order", "the session is not over")
        out = at.standing.stage == "screened-out"
        code = self.private.screened_out_code if out else self.private.completion_code
        if at.row.source != "prolific" and not out:
            code = personal_code(self.private, at.row.id)
        url = self.private.completion_url
        return code, url.replace("{code}", code) if url.startswith("https://") else ""

    def _change(self, token: str, work: Callable[[Session, SessionRow], None]) -> Where:
        """Changes a session in a transaction. One that was withdrawn is left as it is: nothing more is stored of it."""

        def change(session: Session) -> Where:
            row = self._row(session, token, lock=True)
            if row.stage == "withdrawn":
                return Where(row=row, standing=self._standing(session, row))
            work(session, row)
            return self._changed(session, row)

        return self.database.change(change)

    # --- inside a transaction -----------------------------------------------------------------------------------

    def _answer(self, session: Session, token: str, body: Mapping[str, Any]) -> tuple[bool | None, Where]:
        row = self._row(session, token, lock=True)
        given = read_answer(body)
        if row.stage == "withdrawn":
            raise Refused(403, "withdrawn", "you have withdrawn; nothing more is stored")
        trial = next((one for one in self.trials[row.slot] if one.id == given.trial), None)
        if trial is None:
            raise Refused(404, "trial", "you have no such trial")
        query = select(AnswerRow).where(AnswerRow.session == row.id, AnswerRow.trial == trial.id)
        before = session.exec(query).first()
        if before is not None:
            if (before.nonce, before.body_sha256) != (given.nonce, given.sha256):
                raise Refused(409, "answered", "this trial is answered already; the first answer stands")
            return _told(trial, before.correct), Where(row=row, standing=self._standing(session, row))
        at = self._standing(session, row)
        if at.trial is None or at.trial.id != trial.id:
            raise Refused(409, "order", "another trial comes first")
        check_answer(given, trial, self.tasks[trial.task])
        correct = is_right(given, trial)
        place = len(session.exec(select(AnswerRow.trial).where(AnswerRow.session == row.id)).all())
        kept = given.stored(correct=correct, received=now(), reloads=row.reloads if row.reload_trial == trial.id else 0)
        session.add(
            AnswerRow(
                session=row.id, trial=trial.id, nonce=given.nonce, body_sha256=given.sha256, place=place, **asdict(kept)
            )
        )
        session.flush()
        return _told(trial, correct), self._changed(session, row)

    def _row(self, session: Session, token: str, *, lock: bool = False) -> SessionRow:
        query = select(SessionRow).where(SessionRow.token_sha256 == sha256_of_token(token))
        row = session.exec(query.with_for_update() if lock else query).first()
        if row is None or not same_token(token, row.token_sha256):
            raise Refused(401, "token", "this needs the token of a session")
        return row

    def _standing(self, session: Session, row: SessionRow) -> Standing:
        trials = self.trials[row.slot]
        if row.stage == "withdrawn":
            return Standing(stage="withdrawn", done=0, total=0)
        query = select(AnswerRow.trial, AnswerRow.correct).where(AnswerRow.session == row.id)
        right = dict(session.exec(query).all())
        return standing(
            trials, right, instructed=row.instruction_seconds is not None, breaks=row.breaks, questioned=row.questioned
        )

    def _changed(self, session: Session, row: SessionRow) -> Where:
        """Stores where a session stands now."""
        at = self._standing(session, row)
        if at.stage != row.stage and at.stage in _OVER and row.stage != "withdrawn":
            row.finished = now()
            session.add(EventRow(time=now(), session=row.id, kind=at.stage))
            if at.stage == "finished":
                slot = session.get(SlotRow, row.slot)
                if slot is not None:
                    slot.filled = True
                    session.add(slot)
            elif at.stage == "screened-out":
                self._release(session, row)
        row.stage, row.seen = at.stage, time.time()
        session.add(row)
        return Where(row=row, standing=at)

    def _release(self, session: Session, row: SessionRow) -> None:
        slot = session.get(SlotRow, row.slot)
        if slot is not None and slot.holder == row.id:
            slot.holder, slot.filled = None, False
            session.add(slot)

    def _free_slot(self, session: Session) -> SlotRow:
        """A place that nobody holds, else one whose holder was silent for long."""
        free = select(SlotRow).where(SlotRow.holder == None).order_by(SlotRow.attempts, SlotRow.number).limit(1)  # type: ignore[arg-type]  # noqa: E711
        slot = session.exec(free.with_for_update(skip_locked=True)).first()
        if slot is None:
            silent = (
                select(SlotRow)
                .join(SessionRow, SlotRow.holder == SessionRow.id)  # type: ignore[arg-type]
                .where(SlotRow.filled == False, SessionRow.seen < time.time() - LEASE_SECONDS)  # noqa: E712
                .order_by(SlotRow.attempts, SlotRow.number)  # type: ignore[arg-type]
                .limit(1)
            )
            slot = session.exec(silent.with_for_update(skip_locked=True, of=SlotRow)).first()
        if slot is None:
            raise Refused(409, "full", "all places are taken")
        return slot


def _told(trial: Trial, correct: bool | None) -> bool | None:
    """What a person is told of an answer: of practice alone, since it would teach elsewhere."""
    return correct if trial.kind == "practice" else None


def now() -> str:
    """Returns the time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
