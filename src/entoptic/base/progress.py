"""Progress bars with the time left, on the error stream, and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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

    def progress(self, what: str, done: int, total: int) -> None:
        if what not in self._passes:
            self._passes[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._passes[what], completed=done)
        if done >= total:
            self._bars.remove_task(self._passes.pop(what))


@contextmanager
def reporter(show: bool = True) -> Iterator[Reporter]:
    """Yields a reporter with progress bars, or one that shows nothing.

    Args:
        show: whether bars are wanted. There are none without a terminal.
    """
    if not show or not sys.stderr.isatty():
        yield Reporter()
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
