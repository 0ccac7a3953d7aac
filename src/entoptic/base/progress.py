"""Progress with the time left, on the error stream: bars on a terminal, now and then a line where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

EVERY = 15.0
"""Seconds between two lines where there is no terminal. A job that takes less says nothing."""


class Reporter:
    """Receives the progress of a run. This base class shows nothing."""

    def start(self, method: str, todo: int, done: int) -> None:
        """Reports that a method begins.

        Args:
            method: its name.
            todo: pictures to make.
            done: pictures that are already there.
        """

    def step(self, step: int, steps: int, pictures: int) -> None:
        """Reports one step of a batch.

        Args:
            step: number of steps done.
            steps: in all.
            pictures: in the batch.
        """

    def finish(self, pictures: int, seconds: float) -> None:
        """Reports that a batch is stored.

        Args:
            pictures: in the batch.
            seconds: that it took.
        """

    def note(self, text: str) -> None:
        """Says something once, such as how long a run will take.

        Args:
            text: a line.
        """

    def progress(self, what: str, done: int, total: int) -> None:
        """Reports progress of a long pass, for instance over photos.

        Args:
            what: the pass does.
            done: of `total`.
            total: items in all.
        """


class _Bars(Reporter):
    """Shows bars of rich: one for each method and one for each pass under way."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._method: Any = None
        self._passes: dict[str, Any] = {}
        self._before = 0.0

    def start(self, method: str, todo: int, done: int) -> None:
        there = f" ({done} already there)" if done else ""
        self._method, self._before = self._bars.add_task(f"{method}{there}", total=todo), 0.0

    def step(self, step: int, steps: int, pictures: int) -> None:
        self._bars.update(self._method, completed=self._before + pictures * step / steps)

    def finish(self, pictures: int, seconds: float) -> None:
        self._before += pictures
        self._bars.update(self._method, completed=self._before)

    def note(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False)

    def progress(self, what: str, done: int, total: int) -> None:
        if what not in self._passes:
            self._passes[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._passes[what], completed=done)
        if done >= total:
            self._bars.remove_task(self._passes.pop(what))


@dataclass
class _Task:
    """Something under way.

    Attributes:
        what: its name.
        total: how far it goes.
        began: when it began.
        paced: when its pace began to count; for pictures that is the first step, behind what is read once.
        first: how far it was then.
        done: how far it is.
    """

    what: str
    total: float
    began: float
    paced: float
    first: float = 0.0
    done: float = 0.0


class Heartbeat(Reporter):
    """Writes a line now and then: for logs, where a bar would be a page of control characters.

    Args:
        stream: to write to.
        clock: gives seconds.
        every: seconds between two lines.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic, every: float = EVERY) -> None:
        self._stream, self._clock, self._every = stream, clock, every
        self._last = clock()
        self._method: _Task | None = None
        self._before, self._stepped = 0.0, False
        self._passes: dict[str, _Task] = {}

    def start(self, method: str, todo: int, done: int) -> None:
        now = self._clock()
        self._method, self._before, self._stepped = _Task(method, todo, now, now), 0.0, False

    def step(self, step: int, steps: int, pictures: int) -> None:
        if self._method is not None:
            self._method.done = self._before + pictures * step / steps
            if not self._stepped:
                self._stepped, self._method.paced, self._method.first = True, self._clock(), self._method.done
            self._beat(self._method, "picture" if self._method.total == 1 else "pictures")

    def finish(self, pictures: int, seconds: float) -> None:
        self._before += pictures
        if self._method is not None:
            self._method.done = self._before
            self._beat(self._method, "picture" if self._method.total == 1 else "pictures")

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        task = self._passes.setdefault(what, _Task(what, total, now, now, done))
        task.done = done
        self._beat(task, "")
        if done >= total:
            del self._passes[what]

    def _beat(self, task: _Task, noun: str) -> None:
        """Writes where a task is, unless the last line is too young."""
        now = self._clock()
        if now - self._last < self._every:
            return
        self._last = now
        spent, made = now - task.began, task.done - task.first
        left = (
            f", {short_time((now - task.paced) * (task.total - task.done) / made)} left"
            if made > 0 and task.done < task.total
            else ""
        )
        behind = f" {noun}" if noun else ""
        done = f"{task.done:.1f}".removesuffix(".0")
        line = f"{task.what}: {done} of {task.total:.0f}{behind}, {short_time(spent)} so far{left}"
        print(line, file=self._stream, flush=True)


def short_time(seconds: float) -> str:
    """Returns a duration as people say it: `34 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def reporter(show: bool = True) -> Iterator[Reporter]:
    """Yields a reporter with progress bars on a terminal, one that writes a line now and then elsewhere, or a silent one.

    Args:
        show: whether anything is to be shown.
    """
    if not show or sys.stderr is None:
        yield Reporter()
        return
    if not sys.stderr.isatty():
        yield Heartbeat(sys.stderr)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        yield _Bars(bars)


Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Ignores progress."""
