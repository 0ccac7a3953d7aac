"""Changes of the database: stored together, undone one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from study.conftest import needs_server

needs_server()

from sqlalchemy import event  # noqa: E402
from sqlalchemy.exc import IntegrityError  # noqa: E402

from entoptic.study.database import Database, EventRow, IdentifierRow, open_study_database, select, url_of  # noqa: E402


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_study_database(url_of("", tmp_path / "odd ?#% name.sqlite"), "a" * 64, 2)
    yield opened
    opened.close()
    assert (tmp_path / "odd ?#% name.sqlite").is_file()


def kinds(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(one.kind for one in session.exec(select(EventRow)).all())


def test_settings(database: Database) -> None:
    with database.read() as session:
        found = {
            name: session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "busy_timeout": 10_000,
    }


def test_changes_that_wait_together_are_stored_together(database: Database) -> None:
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda connection: commits.append(1))
    gate, begun = threading.Event(), threading.Event()

    def slow(session: Any) -> str:
        session.add(EventRow(time="", kind="first"))
        begun.set()
        gate.wait(10)
        return "first"

    def add(number: int) -> str:
        def work(session: Any) -> str:
            session.add(EventRow(time="", kind=f"n{number}"))
            return f"n{number}"

        return database.change(work)

    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(database.change, slow)
        begun.wait(10)
        others = [pool.submit(add, number) for number in range(8)]
        while len(database._waiting) < 8:
            threading.Event().wait(0.01)
        gate.set()
        assert first.result(10) == "first"
        assert [one.result(10) for one in others] == [f"n{number}" for number in range(8)]
    assert kinds(database) == ["first", *(f"n{number}" for number in range(8))]
    assert len(commits) == 2


def test_what_one_change_raises_undoes_that_one_alone(database: Database) -> None:
    def add(number: int) -> None:
        def work(session: Any) -> None:
            session.add(EventRow(time="", kind=f"n{number}"))
            session.flush()
            if number % 3 == 0:
                raise ValueError(number)
            if number % 3 == 1:
                session.add(IdentifierRow(hash="the same"))

        database.change(work)

    with ThreadPoolExecutor(9) as pool:
        found = [pool.submit(add, number).exception(20) for number in range(9)]
    assert [type(one) for one in found[0::3]] == [ValueError] * 3
    assert found[2::3] == [None] * 3
    assert sum(isinstance(one, IntegrityError) for one in found[1::3]) == 2
    assert len(kinds(database)) == 4


def test_a_disk_that_fails_acknowledges_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Any) -> None:
        raise OSError("no room")

    event.listen(database.engine, "commit", fail)
    with pytest.raises(OSError, match="no room"):
        database.change(lambda session: session.add(EventRow(time="", kind="lost")))
    event.remove(database.engine, "commit", fail)
    assert kinds(database) == []
    database.change(lambda session: session.add(EventRow(time="", kind="kept")))
    assert kinds(database) == ["kept"]
