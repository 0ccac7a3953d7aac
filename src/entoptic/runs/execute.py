"""Makes, measures and stores what a plan's run does not hold yet. It is the same for every kind of item."""

from __future__ import annotations

import itertools
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
from entoptic.runs.failures import keep_failures
from entoptic.runs.film import FRAMES, encoded
from entoptic.runs.plan import Entry, Job, Plan
from entoptic.runs.records import about_run, make_record
from entoptic.runs.store import Run, Unwritable


@with_gradients
def execute(plan: Plan, report: Reporter) -> Run:
    """Makes what the plan's run does not hold yet.

    Args:
        plan: what to make.
        report: is told of the progress.

    Returns:
        The run; what failed is in `run.problems`, and said as a warning.

    Raises:
        UserError: nothing of what was asked for could be made.
        Unwritable: the folder cannot be written; what is finished is stored.
    """
    run = plan.run
    run.problems = list(plan.failures)
    asked: list[tuple[Job, list[Entry]]] = []
    with run.writing(about_run(plan.model)):
        for job in plan.jobs:
            entries = plan.entries(job)
            asked.append((job, entries))
            finished, todo = split(run, entries)
            plan.kind.refresh(run, job, finished)
            if plan.film and finished:
                text = (
                    f"{counted(len(finished), 'picture')} by {job.card.name} had been made before, without a film now"
                )
                warnings.warn(f"{text}; give another --out to film them", stacklevel=3)
            report.start(job.card.name, len(todo), len(finished))
            for chunk in chunks(job, todo, plan.batch_size):
                _make(plan, job, chunk, report)
        _note(run, plan.kind.complete(run, asked, report))
        names = {(entry.item.target.text, job.card.name) for job, entries in asked for entry in entries}
        keep_failures(run, names, run.problems)
    if run.problems:
        if not any(split(run, entries)[0] for _, entries in asked):
            raise UserError(run.problems[0].text)
        for failure in run.failures:
            warnings.warn(failure, stacklevel=3)
    return run


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


def _make(plan: Plan, job: Job, chunk: Sequence[Entry], report: Reporter) -> None:
    """Makes one batch. Where it breaks off, the items that it left are tried once more, each alone."""
    left = {id(entry.item): entry for entry in chunk}
    context = plan.kind.context(job, report, len(chunk), plan.batch_size)
    context.frames = FRAMES if plan.film else 0
    started = time.monotonic()
    try:
        for draft in job.card.function([entry.item for entry in chunk], job.config, context):
            entry = left[id(draft.item)]
            if draft.failure is not None:
                _note(plan.run, [_of_draft(job, draft.failure, entry)])
            else:
                _store(plan, job, draft, entry)
            del left[id(draft.item)]
    except Unwritable:
        raise
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        if len(chunk) > 1:  # one item that cannot be made must not take its mates along
            if isinstance(error, torch.OutOfMemoryError) and plan.model.device.type == "cuda":
                torch.cuda.empty_cache()
            for entry in list(left.values()):
                _make(plan, job, [entry], report)
            return
        _note(plan.run, [_of_error(job, error, entry) for entry in left.values()])
    else:
        silent = f"{job.card.name} gave no picture and no reason"
        _note(plan.run, [Failure(unit=e.item.target.text, method=job.card.name, text=silent) for e in left.values()])
    report.finish(len(chunk), time.monotonic() - started)


def _store(plan: Plan, job: Job, draft: Draft, entry: Entry) -> None:
    assert draft.image is not None
    pixels = quantise(draft.image)
    overlays = plan.kind.overlays(job, draft, pixels)
    evidence = plan.kind.measure(job, draft, pixels, overlays)
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
