"""How far a run is: what `entoptic status` says, from the run's progress file and from what lies in it."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from entoptic.base.files import file_exists, is_inside, path_exists
from entoptic.base.records import is_a, read_json
from entoptic.errors import Unreadable
from entoptic.methods.contract import Failure, FailureCode
from entoptic.runs.progress_file import FILE, STATES, AtWork, Progress, Task
from entoptic.runs.results import results_in
from entoptic.runs.store import Run

_SLACK = 60.0
"""Seconds by which the clock that tells when a process began may be off."""
SILENT = 600.0
"""Seconds without a word after which a job on another machine counts as ended."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is.

    Attributes:
        run: its folder.
        state: "running", "finished", "interrupted", "stopped" (by an error), "ended" (without a word: killed), or "unknown"
            (no job has said anything).
        pictures: finished in the run, of all requests.
        results: in the run that are no pictures, in words, "" without any.
        asked: of the last request.
        there: of these, before it.
        made: by its job.
        failed: that it could not make.
        seconds: that the job takes, or took.
        quiet: seconds since it was last heard of.
        pace: pictures a minute, None before the first.
        left: seconds that it will take, None where nobody can tell.
        workers: what makes the pictures, "" for the job's own process.
        tasks: by method.
        at_work: what is being made now.
        failures: what failed, with reasons.
    """

    run: str
    state: str
    pictures: int
    results: str
    asked: int
    there: int
    made: int
    failed: int
    seconds: float
    quiet: float
    pace: float | None
    left: float | None
    workers: str
    tasks: tuple[Task, ...]
    at_work: tuple[AtWork, ...]
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns what `entoptic status --json` prints."""
        return asdict(self)


def status(path: str | Path) -> Status:
    """Returns how far a run is, while it is made and after.

    Args:
        path: the run folder.

    Raises:
        UserError: there is no run at `path`.
        Unreadable: its progress file is damaged.
    """
    run = Run.open(path)
    progress = read_progress(run)
    pictures = sum(1 for file in run.path.glob("pictures/*/*.json") if file_exists(file.with_suffix(".png")))
    results = results_in(run)
    if progress is None:
        return Status(
            run=str(path), state="unknown", pictures=pictures, results=results, asked=0, there=0, made=0,
            failed=len(run.problems), seconds=0, quiet=0, pace=None, left=None, workers="", tasks=(), at_work=(),
            failures=tuple(run.problems),
        )  # fmt: skip
    state = "ended" if progress.state == "running" and not is_alive(progress) else progress.state
    made = sum(task.made for task in progress.tasks)
    asked, there = (sum(getattr(task, name) for task in progress.tasks) for name in ("asked", "there"))
    failed = sum(task.failed for task in progress.tasks)
    seconds = max(0.0, progress.stamp - progress.created)
    pace = 60 * made / seconds if made and seconds else None
    todo = asked - there - made - failed
    running = state == "running"
    return Status(
        run=str(path), state=state, pictures=pictures, results=results, asked=asked, there=there, made=made,
        failed=max(failed, progress.failed), seconds=seconds, quiet=max(0.0, time.time() - progress.stamp), pace=pace,
        left=60 * todo / pace if pace and running else None, workers=progress.workers, tasks=tuple(progress.tasks),
        at_work=tuple(progress.at_work) if running else (), failures=tuple(progress.failures),
    )  # fmt: skip


def is_alive(progress: Progress) -> bool:
    """Whether the job behind a progress file that says "running" still runs, as far as can be told from here."""
    if progress.host != socket.gethostname() or sys.platform == "win32":
        return time.time() - progress.stamp < SILENT
    if progress.process < 1:  # no process has such a number, and a group of them would answer
        return False
    try:
        os.kill(progress.process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    began = _began(progress.process)
    return began is None or began < progress.stamp + _SLACK  # else another process has its number by now


def _began(process: int) -> float | None:
    """When a process began, in seconds since 1970; None where the system does not say."""
    try:
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]  # the 22nd field
        return int(booted.split()[1]) + int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def read_progress(run: Run) -> Progress | None:
    """Returns what a run's progress file says, None where there is none.

    Args:
        run: the run.

    Raises:
        Unreadable: it is damaged, or a link to what lies outside of the run.
    """
    file = run.path / FILE
    if not path_exists(file) and not file.is_symlink():
        return None
    if not is_inside(file, run.path):
        raise Unreadable(f"{FILE} cannot be read: it is a link to what lies outside of the run")
    held = read_json(file)
    try:
        held["tasks"] = [_made(Task, one) for one in _list(held["tasks"])]
        held["at_work"] = [
            _made(AtWork, {**one, "units": tuple(map(str, _list(one["units"])))}) for one in _list(held["at_work"])
        ]
        codes = {code.value: code for code in FailureCode}
        held["failures"] = [
            _made(Failure, {**one, "code": codes.get(one["code"], FailureCode.REFUSED)})
            for one in _list(held["failures"])
        ]
        if held["state"] not in STATES:
            raise ValueError(f"there is no state {held['state']!r}")
        return _made(Progress, held)
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{file} is damaged ({error})") from None


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value


_KINDS: dict[str, Any] = {"int": int, "float": int | float, "str": str}


def _made(kind: type, held: dict[str, Any]) -> Any:
    """A record from its JSON; entries that a later version adds are left out."""
    known = {one.name: held[one.name] for one in fields(kind)}
    for one in fields(kind):
        if one.type in _KINDS and not is_a(known[one.name], _KINDS[str(one.type)]):
            raise ValueError(f'"{one.name}" is no {one.type}')
    return kind(**known)
