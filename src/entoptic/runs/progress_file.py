"""What a run says of the job that writes it: `RUN/progress.json`, for `entoptic status`.

It is replaced every few seconds while the job runs, by the process that holds the run's lock, and stays when the job ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from entoptic.base.files import json_bytes
from entoptic.base.progress import Reporter
from entoptic.errors import UserError
from entoptic.methods.contract import Failure
from entoptic.runs.store import Run

FILE = "progress.json"
FORMAT = 1
STATES = ("running", "finished", "interrupted", "stopped")
EVERY = 2.0
"""Seconds between two writings."""
MOST_FAILURES = 200
"""Failures that the file lists; all are counted."""


@dataclass(kw_only=True)
class Task:
    """The pictures of one method.

    Attributes:
        method: its name.
        asked: pictures in all.
        there: that were there before.
        made: that this job made.
        failed: that it could not make.
    """

    method: str
    asked: int
    there: int = 0
    made: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """A batch that is being made.

    Attributes:
        worker: its name, "" where the job has no workers.
        method: name of the method.
        units: strings of its units.
        since: when it began, in seconds since 1970.
        share: of it that is done, from 0 to 1.
    """

    worker: str
    method: str
    units: tuple[str, ...]
    since: float
    share: float = 0.0


@dataclass(kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        state: "running", "finished", "interrupted" or "stopped" (by an error).
        created: when the job began, in seconds since 1970.
        stamp: when this was written.
        host: the machine of the job.
        process: its number there.
        workers: what makes the pictures, in words, "" for the job's own process.
        tasks: by method.
        at_work: what is being made now.
        failures: what failed, with reasons.
        failed: how many failed.
    """

    state: str = "running"
    created: float = field(default_factory=time.time)
    stamp: float = 0.0
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    workers: str = ""
    tasks: list[Task] = field(default_factory=list)
    at_work: list[AtWork] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns what the file holds."""
        return {"format": FORMAT, **asdict(self)}


class Watch(Reporter):
    """Keeps a run's progress file up to date, and passes on what it is told.

    Args:
        run: that is being written.
        shown: shows the progress to people.
        workers: what makes the pictures, in words.
    """

    def __init__(self, run: Run, shown: Reporter, workers: str = "") -> None:
        self.run, self.shown = run, shown
        self.state = Progress(workers=workers)
        self._written = 0.0

    def start(self, method: str, todo: int, done: int) -> None:
        self.shown.start(method, todo, done)

    def step(self, step: int, steps: int, pictures: int) -> None:
        self.shown.step(step, steps, pictures)
        if not self.state.workers and self.state.at_work:
            now = self.state.at_work[0]
            self.state.at_work = [AtWork(**{**asdict(now), "share": step / max(steps, 1)})]
        self.write()

    def finish(self, pictures: int, seconds: float) -> None:
        self.shown.finish(pictures, seconds)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.shown.progress(what, done, total)
        self.write()

    def task(self, method: str, asked: int, there: int) -> Task:
        """Returns the count of a method's pictures, which the job keeps up to date."""
        found = Task(method=method, asked=asked, there=there)
        self.state.tasks.append(found)
        self.write(now=True)
        return found

    def at_work(self, batches: Sequence[AtWork]) -> None:
        """Takes what is being made now."""
        self.state.at_work = list(batches)
        self.write()

    def write(self, now: bool = False) -> None:
        """Writes the file, unless it is young. Where nothing is to be made, that of the job before stays.

        A disk that is full stops no job here.

        Args:
            now: however young it is.
        """
        if all(task.asked == task.there for task in self.state.tasks):
            return
        if not now and time.monotonic() - self._written < EVERY:
            return
        self._written, self.state.stamp = time.monotonic(), time.time()
        self.state.failures, self.state.failed = self.run.problems[:MOST_FAILURES], len(self.run.problems)
        with contextlib.suppress(UserError):
            self.run.put(self.run.path / FILE, json_bytes(self.state.to_json()))


@contextlib.contextmanager
def watching(run: Run, shown: Reporter, workers: str = "") -> Iterator[Watch]:
    """Yields what keeps the progress file of a run; says at the end how the job ended.

    Args:
        run: that is being written (inside `run.writing`).
        shown: shows the progress to people.
        workers: what makes the pictures, in words.
    """
    watch = Watch(run, shown, workers)
    try:
        yield watch
    except BaseException as error:
        watch.state.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
        raise
    else:
        watch.state.state = "finished"
    finally:
        watch.state.at_work = []
        watch.write(now=True)
