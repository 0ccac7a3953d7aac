"""Progress bars with time left, on the terminal's error stream and only where somebody can see them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Reporter:
    """Receives what a run reports; this one shows nothing."""

    def start(self, method: str, todo: int, done: int) -> None:
        """A method begins: `todo` pictures to make, `done` already there."""

    def step(self, step: int, steps: int, pictures: int) -> None:
        """One step of a batch is done."""

    def finish(self, pictures: int, seconds: float) -> None:
        """A batch is stored."""

    def progress(self, what: str, done: int, total: int) -> None:
        """A pass over photos moves on."""


class _Bars(Reporter):
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
    """A reporter with progress bars, or a silent one."""
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
    """Reports progress to nobody."""
