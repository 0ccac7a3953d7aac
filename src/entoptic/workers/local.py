"""Workers as processes of this machine.

They are started as `python -m entoptic.workers.child` and not forked: a script needs no guard, and torch's threads are
not torn. A worker ends by itself when the job does, also where that was killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from entoptic.workers import frames
from entoptic.workers.count import Seat
from entoptic.workers.records import Chunk, Done, Event, Lost, Ready, Refused, Told, Work

STARTS = 2
"""Starts of a worker that may fail one after another."""
_PATIENCE = 5.0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker process is told first.

    Attributes:
        path: where Python looks for modules.
        threads: on the CPU.
        device: of the worker.
        work: the job's work, see `frames.packed`.
    """

    path: list[str]
    threads: int
    device: str
    work: bytes


@dataclass(kw_only=True)
class _Place:
    """A seat with the process that has it."""

    name: str
    seat: Seat
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    starts: int = 0


class LocalPool:
    """Processes of this machine, one for each seat; one that ends is replaced.

    Args:
        work: the job's work.
        seats: what each worker runs on.
    """

    def __init__(self, work: Work, seats: Sequence[Seat]) -> None:
        self._work = frames.packed(work)
        self._inbox: queue.Queue[tuple[_Place, subprocess.Popen[bytes], Any]] = queue.Queue()
        self._places = [_Place(name=f"worker {i}", seat=seat) for i, seat in enumerate(seats, 1)]
        for place in self._places:
            self._start(place)

    @property
    def processes(self) -> dict[str, int]:
        """The process numbers of the workers that run, by name."""
        return {place.name: place.process.pid for place in self._places if place.process is not None}

    def events(self, timeout: float) -> list[Event]:
        """Returns what happened, after at most `timeout` seconds."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            found += self._event(*self._inbox.get(timeout=timeout))
            while True:
                found += self._event(*self._inbox.get_nowait())
        return found

    def give(self, worker: str, chunk: Chunk) -> None:
        """Gives a chunk to a worker. That it has ended meanwhile is an event."""
        place = next(one for one in self._places if one.name == worker)
        if place.process is not None and place.process.stdin is not None:
            with contextlib.suppress(OSError):
                frames.send(cast(Any, place.process.stdin), chunk.pieces)

    def hopeless(self) -> bool:
        """Whether no worker is left and none will come."""
        return all(place.process is None for place in self._places)

    def close(self) -> None:
        """Ends all workers."""
        running = [place.process for place in self._places if place.process is not None]
        for place in self._places:
            place.process = None
        for process in running:
            with contextlib.suppress(OSError):
                cast(Any, process.stdin).close()
        for process in running:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _event(self, place: _Place, process: subprocess.Popen[bytes], said: Any) -> list[Event]:
        """What a message, or the end of a process (None), means for the job."""
        if place.process is not process:
            return []
        if isinstance(said, Ready):
            place.ready, place.starts = True, 0
            return [Ready(worker=place.name)]
        if isinstance(said, Refused):
            place.process = None
            return [Refused(worker=place.name, reason=said.reason)]
        if isinstance(said, Lost):  # a defect, in the worker's own words; the process ends by itself
            return self._ended(place, said.reason)
        if said is None:
            return self._ended(place, _ending(process.wait()))
        return [Done(worker=place.name)] if isinstance(said, Done) else [Told(worker=place.name, answer=said)]

    def _ended(self, place: _Place, reason: str) -> list[Event]:
        """Puts a new process in place of one that ended, unless it cannot even start."""
        had_started, place.process = place.ready, None
        if not had_started and place.starts >= STARTS:
            return [Refused(worker=place.name, reason=f"{place.name} ended before it had begun: {reason}")]
        self._start(place)
        return [Lost(worker=place.name, reason=f"a worker ended: {reason}")] if had_started else []

    def _start(self, place: _Place) -> None:
        place.ready, place.starts = False, place.starts + 1
        # A session of its own: Ctrl-C in the terminal is for the job, which then ends its workers.
        process = subprocess.Popen(
            [sys.executable, "-m", "entoptic.workers.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
        place.process = process
        setup = Setup(path=sys.path, threads=place.seat.threads, device=place.seat.device, work=self._work)
        threading.Thread(target=self._talk, args=(place, process, setup), daemon=True).start()

    def _talk(self, place: _Place, process: subprocess.Popen[bytes], setup: Setup) -> None:
        """Sets a process up and passes on what it says until it ends."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            frames.send(cast(Any, process.stdin), setup)
            while True:
                self._inbox.put((place, process, frames.receive(cast(Any, process.stdout))))
        self._inbox.put((place, process, None))


def _environment() -> dict[str, str]:
    """The environment of a worker, in which Python finds this package wherever the job found it."""
    package, before = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{before}" if before else package}


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with code {code}"
