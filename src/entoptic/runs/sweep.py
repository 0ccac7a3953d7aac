"""The batches of a plan on workers: they make the pictures, and this process, which holds the run, writes them.

A worker makes the same plan and finds its items by their places; their keys must be those of the job. A batch is cut as
in one process, so its pictures are the same bytes where a worker has as many threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from entoptic.base.files import check_inside
from entoptic.base.progress import Reporter
from entoptic.errors import UserError
from entoptic.methods.contract import Failure, FailureCode
from entoptic.runs.again import Again
from entoptic.runs.plan import Entry, Job, Plan
from entoptic.runs.progress_file import AtWork, Task, Watch
from entoptic.runs.store import Picture, Run
from entoptic.workers.count import Workers
from entoptic.workers.dispatch import Busy, dispatch
from entoptic.workers.pools import opened
from entoptic.workers.records import Chunk, Failed, Handler, Made, Step, Tell

ANYWHERE = frozenset({FailureCode.UNSUPPORTED, FailureCode.OUT_OF_REACH})
"""Failures that another worker would meet, too."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """An item of a plan, for a process that makes the same plan.

    Attributes:
        job: place of its job.
        place: of the item in its job.
        key: that it must have.
    """

    job: int
    place: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a finished picture, in the order in which they are written: its sidecar last.

    Attributes:
        names: relative to the run.
        contents: bytes of each.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]


class Collected(Run):
    """A run whose files are kept in memory and handed on, picture by picture.

    Args:
        path: where the run is in the process that writes it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files: dict[str, bytes] = {}
        self.hand_on: Callable[[str, Files], None] = lambda key, files: None

    def put(self, file: Path, content: bytes | Callable[[Path], object]) -> None:
        """Keeps one file.

        Args:
            file: below the run.
            content: its bytes.
        """
        assert isinstance(content, bytes)
        self._files[file.relative_to(self.path).as_posix()] = content

    def write(self, file: Path, pixels: np.ndarray, record: dict[str, Any], **more: Any) -> Picture:
        """Hands on a picture with its files."""
        picture = super().write(file, pixels, record, **more)
        files, self._files = self._files, {}
        self.hand_on(record["key"], Files(names=tuple(files), contents=tuple(files.values())))
        return picture


@dataclass(frozen=True, kw_only=True)
class PlanWork:
    """The work of a plan as a worker gets it.

    Attributes:
        again: makes the plan.
        sample: a piece of it, to see that the worker's plan is the job's.
    """

    again: Again
    sample: Piece

    def start(self, device: str) -> Handler:
        """Makes the plan.

        Args:
            device: of the worker, "" for the job's own choice.

        Raises:
            UserError: it cannot be made here, or is another one here.
        """
        plan = self.again.plan(device)
        if _entry(plan, self.sample).key != self.sample.key:
            raise UserError("the network, the photos or the prior differ here from those of the job")
        return _Maker(replace(plan, run=Collected(plan.run.path)))


def _entry(plan: Plan, piece: Piece) -> Entry:
    job = plan.jobs[piece.job]
    return plan.entry(job, job.items[piece.place])


class _Steps(Reporter):
    """Tells how far a batch is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def step(self, step: int, steps: int, pictures: int) -> None:
        self._tell(Step(share=step / max(steps, 1)))


class _Maker:
    """Makes the batches that a worker is given."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, pieces: Sequence[Piece], tell: Tell) -> None:
        from entoptic.runs.execute import make_batch

        plan, run = self._plan, self._plan.run
        assert isinstance(run, Collected)
        places = {piece.key: place for place, piece in enumerate(pieces)}
        left = dict(enumerate(pieces))

        def hand_on(key: str, files: Files) -> None:
            left.pop(places[key], None)
            tell(Made(piece=places[key], value=files))

        run.problems, run.hand_on = [], hand_on
        entries = [_entry(plan, piece) for piece in pieces]
        if any(entry.key != piece.key for entry, piece in zip(entries, pieces, strict=True)):
            raise UserError("the plan of this worker differs from that of the job")
        job = plan.jobs[pieces[0].job]
        make_batch(plan, job, entries, _Steps(tell))
        for place in left:
            failure = _reason(run, job, entries[place])
            tell(Failed(piece=place, value=failure, final=failure.code in ANYWHERE))


def _reason(run: Run, job: Job, entry: Entry) -> Failure:
    """Why an item of a batch was not made."""
    unit, method = entry.item.target.text, job.card.name
    silent = Failure(unit=unit, method=method, text=f"{unit} by {method}: no picture and no reason was given")
    return next((one for one in run.problems if one.unit == unit), silent)


def sweep(
    plan: Plan, batches: Sequence[tuple[int, list[Entry]]], tasks: Sequence[Task], workers: Workers, watch: Watch
) -> None:
    """Has batches of a plan made by workers, and stores what they make.

    Args:
        plan: the plan.
        batches: the place of a job, and entries of it.
        tasks: counts of the jobs, which are kept up to date.
        workers: which ones.
        watch: is told of the progress.

    Raises:
        UserError: no worker can make them; what is finished is stored.
        Unwritable: the folder cannot be written; what is finished is stored.
    """
    if not batches:
        return
    if plan.again is None:
        raise UserError("this job cannot be shared out to workers; leave workers out")
    places = [{id(item): place for place, item in enumerate(job.items)} for job in plan.jobs]
    chunks = [
        Chunk(
            number=number,
            pieces=tuple(Piece(job=job, place=places[job][id(entry.item)], key=entry.key) for entry in entries),
        )
        for number, (job, entries) in enumerate(batches)
    ]
    del places
    work = PlanWork(again=plan.again, sample=chunks[0].pieces[0])
    with opened(work, workers, str(plan.again.arguments.get("device", "auto")), len(chunks)) as pool:
        dispatch(pool, chunks, _Keeper(plan, tasks, watch))


class _Keeper:
    """Writes what workers make and notes what failed."""

    def __init__(self, plan: Plan, tasks: Sequence[Task], watch: Watch) -> None:
        self._plan, self._tasks, self._watch = plan, tasks, watch
        self._stored: set[str] = set()
        self._warned: set[str] = set()

    def made(self, piece: Piece, value: Files) -> None:
        """Writes the files of a picture, its sidecar last."""
        run = self._plan.run
        for name, content in zip(value.names, value.contents, strict=True):
            run.put(check_inside(run.path / name, run.path), content)
        if piece.key not in self._stored:
            self._stored.add(piece.key)
            self._tasks[piece.job].made += 1

    def failed(self, piece: Piece, value: Failure) -> None:
        """Notes why there is no picture."""
        self._note(piece, value)

    def lost(self, piece: Piece, reason: str) -> None:
        """Notes that workers ended over an item."""
        unit, method = self._unit(piece), self._plan.jobs[piece.job].card.name
        self._note(piece, Failure(unit=unit, method=method, text=f"{unit} by {method}: {reason}, whenever it was made"))

    def finished(self, pieces: int, seconds: float) -> None:
        """Passes on that a batch is through."""
        self._watch.finish(pieces, seconds)

    def said(self, text: str) -> None:
        """Warns, once of each thing."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=2)

    def state(self, busy: list[Busy]) -> None:
        """Passes on how far all workers are."""
        share = sum(one.share * len(one.chunk.pieces) for one in busy)
        if share:
            self._watch.shown.step(round(1000 * share), 1000, 1)
        self._watch.at_work([
            AtWork(
                worker=one.worker, method=self._plan.jobs[one.chunk.pieces[0].job].card.name,
                units=tuple(self._unit(piece) for piece in one.chunk.pieces), since=one.since, share=one.share,
            )
            for one in busy
        ])  # fmt: skip

    def _unit(self, piece: Piece) -> str:
        return self._plan.jobs[piece.job].items[piece.place].target.text

    def _note(self, piece: Piece, failure: Failure) -> None:
        problems = self._plan.run.problems
        self._tasks[piece.job].failed += 1
        if failure not in problems:
            problems.append(failure)
