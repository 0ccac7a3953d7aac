"""Makes, measures and stores what a plan's run does not hold yet."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entoptic.base.pixels import quantise
from entoptic.base.progress import Reporter
from entoptic.errors import UserError
from entoptic.methods.contract import Item
from entoptic.metrics.kl import divergence
from entoptic.metrics.picture import measure
from entoptic.runs.plan import Job, Plan, judges
from entoptic.runs.records import make_record, measured_with, model_record, picture_key, version
from entoptic.runs.store import Picture, Run, Unwritable
from entoptic.runs.unit_photos import picture_maps, write_context
from entoptic.units.unit import slug


def execute(plan: Plan, report: Reporter) -> Run:
    """Makes what the plan's run does not hold yet."""
    about = {
        "entoptic": version("entoptic"),
        "title": plan.model.card.name,
        "model": model_record(plan.model),
    }
    plan.run.failures = list(plan.failures)
    with plan.run.writing(about):
        for job in plan.jobs:
            todo = list(_unfinished(plan, job))
            report.start(job.card.name, len(todo), len(job.items) - len(todo))
            for chunk in _chunks(todo, plan.batch_size):
                _make(plan, job, chunk, report)
        if plan.context and plan.references.photos is not None:
            shown = {item.unit.identity: item.unit for job in plan.jobs for item in job.items}
            for done, unit in enumerate(shown.values(), 1):
                write_context(plan.run, unit, plan.references)
                report.progress("photos of units", done, len(shown))
    if plan.run.failures:
        if not len(plan.run):
            raise UserError(plan.run.failures[0])
        for failure in plan.run.failures:
            warnings.warn(failure, stacklevel=3)
    return plan.run


def _unfinished(plan: Plan, job: Job) -> Iterator[tuple[Item, str, Path]]:
    """Items whose picture is not there yet; evidence that is missing or of another kind is measured again."""
    for item in job.items:
        key = picture_key(plan, job, item)
        file = plan.run.file(slug(item.unit), f"{job.card.name}-{item.sample}-{key[:12]}")
        record = plan.run.finished(file, key)
        if record is None:
            yield item, key, file
        elif record.get("measured_with") != measured_with(plan, item.unit, record["trace"]):
            judging = judges(plan, record["trace"])
            evidence = measure(Picture(file, record).pixels, item.unit, plan.references, judging)
            evidence += divergence(record["trace"])
            record["evidence"] = [e.to_json() for e in evidence]
            record["measured_with"] = measured_with(plan, item.unit, record["trace"])
            plan.run.write_record(file, record)


def _make(plan: Plan, job: Job, chunk: list[tuple[Item, str, Path]], report: Reporter) -> None:
    items = [item for item, _, _ in chunk]
    places = {id(item): (key, file) for item, key, file in chunk}
    started, answered = time.monotonic(), 0
    try:
        for draft in job.card.function(items, job.config, plan.context_of(job, report, len(items))):
            answered += 1
            if draft.failure is not None:
                plan.run.failures.append(f"{draft.item.unit} by {job.card.name}: {draft.failure}")
                continue
            key, file = places[id(draft.item)]
            pixels = quantise(draft.image)
            evidence = measure(pixels, draft.item.unit, plan.references, judges(plan, draft.trace))
            evidence += divergence(draft.trace)
            record = make_record(plan, job, draft, key) | {"evidence": [e.to_json() for e in evidence]}
            plan.run.write(file, pixels, record, maps=picture_maps(draft.item.unit, pixels, draft.alpha, draft.pair))
    except Unwritable:
        raise
    except UserError as error:
        if len(items) > 1 and not answered:  # one unit that cannot be made must not take its mates along
            for entry in chunk:
                _make(plan, job, [entry], report)
            return
        plan.run.failures.append(f"{', '.join(dict.fromkeys(str(i.unit) for i in items))}: {error}")
    report.finish(len(items), time.monotonic() - started)


def _chunks(todo: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(todo), size):
        yield todo[start : start + size]


def _unfinished_quietly(plan: Plan, job: Job) -> Iterator[tuple[Item, str, Path]]:
    for item in job.items:
        key = picture_key(plan, job, item)
        file = plan.run.file(slug(item.unit), f"{job.card.name}-{item.sample}-{key[:12]}")
        if plan.run.finished(file, key) is None:
            yield item, key, file
