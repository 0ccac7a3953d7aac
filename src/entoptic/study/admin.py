"""What the people who run a study see: counts and exclusions, but no results while the study is open."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import Response

from entoptic.study.answers import read_answers, read_participations
from entoptic.study.bodies import Refused
from entoptic.study.csv_table import csv_of
from entoptic.study.database import AboutRow, AnswerRow, EventRow, SessionRow, SlotRow, select
from entoptic.study.private import same_token
from entoptic.study.records import Answer, Participation
from entoptic.study.sessions import Sessions, now
from entoptic.study.web import Body, Token


class Admin:
    """The admin part of the server.

    Args:
        sessions: of the study.
        study_folder: of the study.
        database: URL, as it was given.
    """

    def __init__(self, sessions: Sessions, study_folder: Path, database: str) -> None:
        self.sessions, self.folder, self.database = sessions, study_folder, database

    def add_to(self, app: FastAPI) -> None:
        """Adds the admin's addresses to the application."""

        def allowed(given: Token) -> None:
            if not same_token(given, self.sessions.private.admin_sha256):
                raise Refused(401, "token", "this is not the admin token")

        @app.post("/admin/api/status", dependencies=[Depends(allowed)])
        def status(given: Body) -> dict[str, Any]:
            return self.status()

        @app.post("/admin/api/close", dependencies=[Depends(allowed)])
        def close(given: Body) -> dict[str, Any]:
            return self.set_closed(True)

        @app.post("/admin/api/open", dependencies=[Depends(allowed)])
        def reopen(given: Body) -> dict[str, Any]:
            return self.set_closed(False)

        @app.post("/admin/api/export", dependencies=[Depends(allowed)])
        def export(given: Body) -> Response:
            if self.sessions.is_open():
                raise Refused(409, "open", "close the study first: results are not looked at while it runs")
            self._log("export")
            if given.get("table") == "participations":
                content = csv_of(read_participations(self.folder, database=self.database), Participation)
            else:
                content = csv_of(read_answers(self.folder, database=self.database), Answer)
            return Response(content, media_type="text/csv; charset=utf-8")

    def status(self) -> dict[str, Any]:
        """Returns the progress of the study: counts, times and failed checks."""
        trials = {one.id: one for own in self.sessions.trials.values() for one in own}
        with self.sessions.database.read() as session:
            people = session.exec(select(SessionRow)).all()
            slots = session.exec(select(SlotRow)).all()
            counts: Counter[tuple[str, str, str]] = Counter()
            checks: Counter[str] = Counter()
            for name, correct in session.exec(select(AnswerRow.trial, AnswerRow.correct)).all():
                trial = trials[name]
                if trial.kind == "main":
                    counts[trial.task, trial.arm, trial.unit] += 1
                elif trial.kind == "catch":
                    checks["failed" if correct is False else "passed"] += 1
            about = session.get(AboutRow, 1)
        seconds = [_seconds(one.started, one.finished) for one in people if one.stage == "finished"]
        return {
            "study": self.sessions.study.name, "open": about is not None and not about.closed,
            "places": len(slots), "filled": sum(slot.filled for slot in slots),
            "held": sum(slot.holder is not None and not slot.filled for slot in slots),
            "stages": Counter(one.stage for one in people), "sources": Counter(one.source for one in people),
            "median_minutes": round(statistics.median(seconds) / 60, 1) if seconds else None,
            "catch": {"passed": checks["passed"], "failed": checks["failed"]},
            "answers": [
                {"task": task, "arm": arm, "unit": unit, "n": n} for (task, arm, unit), n in sorted(counts.items())
            ],
            "comments": [one.comments for one in people if one.comments],
        }  # fmt: skip

    def set_closed(self, closed: bool) -> dict[str, Any]:
        """Closes or opens the study for further people; those who began go on."""
        with self.sessions.database.write() as session:
            about = session.get(AboutRow, 1)
            assert about is not None
            about.closed = closed
            session.add(about)
            session.add(EventRow(time=now(), kind="closed" if closed else "opened"))
        return self.status()

    def _log(self, kind: str) -> None:
        with self.sessions.database.write() as session:
            session.add(EventRow(time=now(), kind=kind))


def _seconds(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
