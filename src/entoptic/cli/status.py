"""`entoptic status`: how far a run is."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from entoptic.base.progress import short_time
from entoptic.cli.options import Debug, RunToRead
from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.runs.progress_file import AtWork
    from entoptic.runs.status import Status as RunStatus

MOST = 10
"""Failures and batches at work that are printed."""
_STATES = {
    "running": "running", "finished": "finished", "interrupted": "interrupted; the same command goes on from there",
    "stopped": "stopped by an error; the same command goes on from there",
    "ended": "ended without a word (killed?); the same command goes on from there",
    "unknown": "no job has said how far it is",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say how far a run is: what is done, under way and failed, its pace and the time left."""

    title: ClassVar[str] = "say how far a run is: done, under way, failed, time left"
    examples: ClassVar[tuple[str, ...]] = ("entoptic status runs/first", "entoptic status runs/first --json")

    run: RunToRead
    json: bool = False
    """print a record for programs"""
    debug: Debug = False


def run_status(options: Status) -> int:
    """Runs `entoptic status`; returns the exit code."""
    from entoptic.runs.status import status

    found = status(options.run)
    if options.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: RunStatus) -> list[str]:
    """Returns what is printed of a status.

    Args:
        found: the status.
    """
    on = f" on {found.workers}" if found.workers else ""
    state, _, hint = _STATES.get(found.state, found.state).partition(";")
    said = [
        f"{found.run}: {state}{on}, {counted(found.pictures, 'picture')}"
        f"{f' and {found.results}' if found.results else ''} in the run{f';{hint}' if hint else ''}"
    ]
    for task in found.tasks:
        parts = [f"{task.there + task.made} of {counted(task.asked, 'picture')}"]
        parts += [f"{task.there} there before"] if task.there else []
        parts += [f"{task.failed} failed"] if task.failed else []
        said.append(f"  {task.method}: {', '.join(parts)}")
    if found.pace is not None:
        left = f", {short_time(found.left)} left" if found.left is not None else ""
        said.append(f"  pace: {found.pace:.1f} pictures a minute, {short_time(found.seconds)} so far{left}")
    said += [f"  under way: {_batch(one)}" for one in found.at_work[:MOST]]
    said += [f"  failed: {failure.text}" for failure in found.failures[:MOST]]
    if found.failed > min(len(found.failures), MOST):
        said.append(f"  {counted(found.failed, 'failure')} in all, see {found.run}/failures.json")
    return said


def _batch(batch: AtWork) -> str:
    units = ", ".join(batch.units[:3]) + (f" and {len(batch.units) - 3} more" if len(batch.units) > 3 else "")
    worker = f" on {batch.worker}" if batch.worker else ""
    return f"{units} by {batch.method}{worker}, {batch.share:.0%} after {short_time(time.time() - batch.since)}"
