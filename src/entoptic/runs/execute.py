"""Makes, measures and stores what a plan's run does not hold yet. It is the same for every kind of item."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from entoptic.base.gradients import with_gradients
from entoptic.base.pixels import quantise
from entoptic.base.progress import Reporter
from entoptic.errors import UserError, counted
from entoptic.methods.contract import Draft, Failure, FailureCode
from entoptic.runs.earlier import earlier_pictures
from entoptic.runs.failures import keep_failures
from entoptic.runs.film import FRAMES, encoded
from entoptic.runs.plan import Entry, Job, Plan
from entoptic.runs.progress_file import AtWork, Watch, watching
from entoptic.runs.records import about_run, make_record
from entoptic.runs.store import Run, Unwritable
from entoptic.runs.sweep import sweep
from entoptic.workers.count import Workers

_AT_ONCE = 1000
"""Finished pictures whose records are in memory."""


@with_gradients
def execute(plan: Plan, report: Reporter, workers: Workers | None = None) -> Run:
    """Makes what the plan's run does not hold yet.

    Args:
        plan: what to make.
        report: is told of the progress.
        workers: processes that make it; None makes it in this one.

    Returns:
        The run; what failed is in `run.problems`, and said as a warning.

    Raises:
        UserError: nothing of what was asked for could be made.
        Unwritable: the folder cannot be written; what is finished is stored.
    """
    run = plan.run
    run.problems = list(plan.failures)
    asked: list[tuple[Job, list[Entry]]] = []
    with run.writing(about_run(plan.model)), watching(run, report, str(workers or "")) as watch:
        try:
            if workers is None:
                for job in plan.jobs:
                    asked.append((job, plan.entries(job)))
                    _make_all(plan, *asked[-1], watch)
            else:
                asked += [(job, plan.entries(job)) for job in plan.jobs]
                _share_out(plan, asked, workers, watch)
        except (UserError, KeyboardInterrupt):
            with contextlib.suppress(UserError):
                _keep(run, asked)
            raise
        _note(run, plan.kind.complete(run, asked, watch))
        _keep(run, asked)
        if any(task.made for task in watch.state.tasks) and (told := earlier_pictures(run, asked)):
            watch.note(told)
    if run.problems:
        if not any(run.finished(entry.file, entry.key) for _, entries in asked for entry in entries):
            raise UserError(run.problems[0].text)
        for failure in run.failures:
            warnings.warn(failure, stacklevel=3)
    return run


def _make_all(plan: Plan, job: Job, entries: Sequence[Entry], watch: Watch) -> None:
    """Makes a job in this process."""
    todo = _left(plan, job, entries)
    watch.start(job.card.name, len(todo), len(entries) - len(todo))
    task = watch.task(job.card.name, len(entries), len(entries) - len(todo))
    for chunk in chunks(job, todo, plan.batch_size):
        units = tuple(entry.item.target.text for entry in chunk)
        watch.at_work([AtWork(worker="", method=job.card.name, units=units, since=time.time())])
        stored = make_batch(plan, job, chunk, watch)
        task.made, task.failed = task.made + stored, task.failed + len(chunk) - stored


def _share_out(plan: Plan, asked: Sequence[tuple[Job, list[Entry]]], workers: Workers, watch: Watch) -> None:
    """Makes all jobs on workers."""
    batches: list[tuple[int, list[Entry]]] = []
    tasks, todo = [], 0
    for place, (job, entries) in enumerate(asked):
        left = _left(plan, job, entries)
        batches += [(place, chunk) for chunk in chunks(job, left, plan.batch_size)]
        tasks.append(watch.task(job.card.name, len(entries), len(entries) - len(left)))
        todo += len(left)
    names = ", ".join(job.card.name for job, _ in asked)
    watch.start(f"{names} on {workers}", todo, sum(task.there for task in tasks))
    sweep(plan, batches, tasks, workers, watch)


def _left(plan: Plan, job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """The entries that are to be made. What is finished is brought up to date, some at a time: a record takes memory."""
    todo: list[Entry] = []
    for start in range(0, len(entries), _AT_ONCE):
        finished, left = split(plan.run, entries[start : start + _AT_ONCE])
        plan.kind.refresh(plan.run, job, finished)
        todo += left
    if plan.film and len(todo) < len(entries):
        text = f"{counted(len(entries) - len(todo), 'picture')} by {job.card.name} had been made before, without a film now"
        warnings.warn(f"{text}; give another --out to film them", stacklevel=5)
    return todo


def _keep(run: Run, asked: Sequence[tuple[Job, Sequence[Entry]]]) -> None:
    """Writes down what failed of what was asked for."""
    names = {(entry.item.target.text, job.card.name) for job, entries in asked for entry in entries}
    keep_failures(run, names, run.problems)


def split(run: Run, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, dict[str, Any]]], list[Entry]]:
    """Returns the finished entries with their sidecars, and those that are to be made."""
    finished, todo = [], []
    for entry in entries:
        record = run.finished(entry.file, entry.key)
        if record is None:
            todo.append(entry)
        else:
            finished.append((entry, record))
    return finished, todo


def chunks(job: Job, todo: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
    """Yields batches of at most `size` drawn pictures; items that belong together are in one batch of their own."""
    together = job.card.together
    if together is not None:
        for _, group in itertools.groupby(todo, key=lambda entry: together(entry.item)):
            yield list(group)
        return
    each = max(1, size // job.config.draws_per_item)
    for start in range(0, len(todo), each):
        yield list(todo[start : start + each])


def make_batch(plan: Plan, job: Job, chunk: Sequence[Entry], report: Reporter) -> int:
    """Makes one batch. Where it breaks off, the items that it left are tried once more, each alone.

    Args:
        plan: that the batch is of; its run takes what is made, and what fails.
        job: that the batch is of.
        chunk: the batch.
        report: is told of the progress.

    Returns:
        How many pictures were stored.
    """
    left = {id(entry.item): entry for entry in chunk}
    context = plan.kind.context(job, report, len(chunk), plan.batch_size)
    context.frames = FRAMES if plan.film else 0
    started, stored = time.monotonic(), 0
    try:
        for draft in job.card.function([entry.item for entry in chunk], job.config, context):
            entry = left[id(draft.item)]
            if draft.failure is not None:
                _note(plan.run, [_of_draft(job, draft.failure, entry)])
            else:
                _store(plan, job, draft, entry)
                stored += 1
            del left[id(draft.item)]
    except Unwritable:
        raise
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        if len(chunk) > 1:  # one item that cannot be made must not take its mates along
            if isinstance(error, torch.OutOfMemoryError) and plan.model.device.type == "cuda":
                torch.cuda.empty_cache()
            return stored + sum(make_batch(plan, job, [entry], report) for entry in list(left.values()))
        _note(plan.run, [_of_error(job, error, entry) for entry in left.values()])
    else:
        silent = f"{job.card.name} gave no picture and no reason"
        _note(plan.run, [Failure(unit=e.item.target.text, method=job.card.name, text=silent) for e in left.values()])
    report.finish(len(chunk), time.monotonic() - started)
    return stored


def _store(plan: Plan, job: Job, draft: Draft, entry: Entry) -> None:
    assert draft.image is not None
    pixels = quantise(draft.image)
    overlays = plan.kind.overlays(job, draft, pixels)
    evidence = plan.kind.measure(job, draft, pixels, overlays)
    for one in evidence:
        if one.name == "activation" and one.value is not None and not math.isfinite(one.value):
            raise UserError(
                f"the network gives the saved picture no finite value ({one.value}), so there is no picture"
            )
    if plan.film and draft.frames:
        film = encoded([*draft.frames, pixels], plan.film)
        plan.run.put(plan.run.film(entry.file, plan.film), film)
    plan.run.write(entry.file, pixels, make_record(plan, job, draft, entry, evidence), maps=overlays)


def _of_draft(job: Job, failure: Failure, entry: Entry) -> Failure:
    text = f"{entry.item.target.text} by {job.card.name}: {failure.text}"
    return replace(failure, unit=entry.item.target.text, method=job.card.name, text=text)


def _of_error(job: Job, error: BaseException, entry: Entry) -> Failure:
    unit = entry.item.target.text
    found = Failure.of(error, unit=unit, method=job.card.name, prefix=f"{unit}: ")
    if found.code is FailureCode.OUT_OF_MEMORY:
        text = f"{unit} by {job.card.name}: out of memory ({error}); give a smaller batch_size or a smaller network"
        return replace(found, text=text)
    return found


def _note(run: Run, failures: Sequence[Failure]) -> None:
    run.problems += [failure for failure in dict.fromkeys(failures) if failure not in run.problems]
