"""The tables of a running study, and how they are opened: SQLite in WAL mode, or PostgreSQL.

Every transaction that writes begins as one (BEGIN IMMEDIATE), and those of one process take turns: SQLite has one writer, and
a turn in memory is shorter than its waiting. An answer is on the disk before it is acknowledged (synchronous FULL); answers that
come while another is on its way to the disk follow together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlmodel import Field, Session, SQLModel, UniqueConstraint, select

from entoptic.errors import NotAvailable, UserError

T = TypeVar("T")
BUSY_MS = 10_000
VERSION = 1


class AboutRow(SQLModel, table=True):
    """Which study the database belongs to: one row."""

    __tablename__ = "about"
    id: int = Field(default=1, primary_key=True)
    version: int = VERSION
    manifest: str
    closed: bool = False


class SlotRow(SQLModel, table=True):
    """A place of the study. `holder` is the latest session; a place whose holder left is given again."""

    __tablename__ = "slot"
    number: int = Field(primary_key=True)
    attempts: int = 0
    holder: str | None = Field(default=None, index=True)
    filled: bool = False


class SessionRow(SQLModel, table=True):
    """One person's participation, without anything that names the person."""

    __tablename__ = "session"
    id: str = Field(primary_key=True)
    token_sha256: str = Field(unique=True, index=True)
    slot: int
    attempt: int
    source: str
    language: str
    stage: str = "instructions"
    started: str
    finished: str = ""
    seen: float
    instruction_seconds: float | None = None
    breaks: int = 0
    questioned: bool = False
    automated: bool = False
    comments: str = ""
    open_data: bool = False
    honeypot: bool = False
    reload_trial: str = ""
    reloads: int = 0


class IdentifierRow(SQLModel, table=True):
    """A keyed hash of an identifier that has taken part. It stays after a withdrawal, so that nobody comes again."""

    __tablename__ = "identifier"
    hash: str = Field(primary_key=True)


class AnswerRow(SQLModel, table=True):
    """One stored answer."""

    __tablename__ = "answer"
    __table_args__ = (UniqueConstraint("session", "trial"),)
    id: int | None = Field(default=None, primary_key=True)
    session: str = Field(index=True, foreign_key="session.id")
    trial: str
    nonce: str
    body_sha256: str
    place: int
    choice: int | None = None
    not_sure: bool = False
    correct: bool | None = None
    confidence: int | None = None
    rating: int | None = None
    text: str | None = None
    technical: bool = False
    shown_ms: float | None = None
    answered_ms: float | None = None
    received: str
    focus_losses: int = 0
    reloads: int = 0
    viewport: str = ""
    pixel_ratio: float = 1.0
    pasted: bool = False


class EventRow(SQLModel, table=True):
    """The log, to which lines are only added. It holds no answers."""

    __tablename__ = "event"
    id: int | None = Field(default=None, primary_key=True)
    time: str
    session: str = ""
    kind: str
    detail: str = ""


class _Change(Generic[T]):
    """A change that waits for its turn."""

    def __init__(self, work: Callable[[Session], T]) -> None:
        self.work, self.over = work, False
        self._value: list[T] = []
        self._error: BaseException | None = None

    def run(self, session: Session) -> None:
        try:
            value = self.work(session)
            session.commit()
            self._value.append(value)
        except BaseException as error:
            session.rollback()
            self._error = error

    def fail(self, error: BaseException) -> None:
        """Marks a change that was run as not stored."""
        self._error = self._error or error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]


class Database:
    """An open database.

    Args:
        url: of SQLAlchemy, `sqlite:///FILE` or `postgresql+pg8000://…`.

    Raises:
        UserError: the URL cannot be read, a package for it is missing, or the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self._turn, self._waiting_turn = threading.Lock(), threading.Lock()
        self._waiting: list[_Change[Any]] = []
        try:
            self.engine: Engine = create_engine(
                url, **({"connect_args": {"timeout": BUSY_MS / 1000}} if self.is_sqlite else {})
            )
            if self.is_sqlite:
                _use_wal(self.engine)
            SQLModel.metadata.create_all(self.engine, tables=[kind.__table__ for kind in TABLES])
        except (ArgumentError, NoSuchModuleError):
            raise UserError(
                f"--database must be a URL such as postgresql://user:password@host/name, got {_without_password(url)}"
            ) from None
        except ImportError as error:
            raise NotAvailable(f"this database needs the package {error.name}: pip install {error.name}") from None
        except SQLAlchemyError as error:
            raise UserError(
                f"the database {_without_password(url)} cannot be opened ({_reason(error)}); nothing was changed"
            ) from None

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes: it is stored whole when the block ends, or not at all when it raises."""
        with self._turn if self.is_sqlite else _no_turn(), Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"entoptic_write": True})
            yield session
            session.commit()

    def change(self, work: Callable[[Session], T]) -> T:
        """Runs a change in a transaction and returns what it returned once that is stored.

        Changes that wait for the disk at the same time are stored together, each behind a savepoint of its own: what one raises
        undoes that one alone.
        """
        if not self.is_sqlite:
            with self.write() as session:
                return work(session)
        mine = _Change(work)
        with self._waiting_turn:
            self._waiting.append(mine)
        with self._turn:
            if not mine.over:
                with self._waiting_turn:
                    together, self._waiting = self._waiting, []
                self._store(together)
        return mine.result()

    def _store(self, together: Sequence[_Change[Any]]) -> None:
        """Runs changes in one transaction."""
        try:
            writing = self.engine.execution_options(entoptic_write=True)
            with writing.begin() as connection:  # it is stored at the end of the block
                for one in together:
                    with Session(
                        connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
                    ) as session:
                        one.run(session)
        except BaseException as error:
            for one in together:
                one.fail(error)
            raise
        finally:
            for one in together:
                one.over = True

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


TABLES: tuple[Any, ...] = (AboutRow, SlotRow, SessionRow, IdentifierRow, AnswerRow, EventRow)


def url_of(database: str, default_file: Path) -> str:
    """Returns the URL of a database: what was given, with a driver that is installed, or the study's own file."""
    if not database:
        return URL.create("sqlite", database=str(default_file)).render_as_string(hide_password=False)
    for prefix in ("postgresql://", "postgres://"):
        if database.startswith(prefix):
            return "postgresql+pg8000://" + database.removeprefix(prefix)
    return database


def open_study_database(url: str, manifest: str, slots: int) -> Database:
    """Opens the database of a study, and makes its places where it is new.

    Args:
        url: of the database.
        manifest: sha256 of `study.json`.
        slots: number of places.

    Raises:
        UserError: it belongs to another study, or cannot be opened.
    """
    database = Database(url)
    try:
        with database.write() as session:
            about = session.get(AboutRow, 1)
            if about is None:
                session.add(AboutRow(manifest=manifest))
                session.add_all(SlotRow(number=number) for number in range(slots))
            elif about.manifest != manifest or about.version != VERSION:
                raise UserError(
                    f"the database {_without_password(url)} belongs to another study (or to this one before its study.json "
                    f"changed): it says {about.manifest[:12]}…, this study is {manifest[:12]}…; give another --database"
                )
    except SQLAlchemyError as error:
        database.close()
        raise UserError(f"the database {_without_password(url)} cannot be written ({_reason(error)})") from None
    except BaseException:
        database.close()
        raise
    return database


def _use_wal(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below
        cursor = connection.cursor()
        for line in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
            f"busy_timeout={BUSY_MS}",
        ):
            cursor.execute(f"PRAGMA {line}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that reads first and then writes may fail at once, whatever the timeout.
        write = connection.get_execution_options().get("entoptic_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _no_turn() -> Iterator[None]:
    yield


def _reason(error: SQLAlchemyError) -> str:
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return " ".join(text.split())[:160]


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url


__all__ = [
    "AboutRow", "AnswerRow", "Database", "EventRow", "IdentifierRow", "SessionRow", "SlotRow", "open_study_database",
    "select", "url_of",
]  # fmt: skip
