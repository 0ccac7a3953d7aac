"""How long a plan will take, from two steps of each method's first batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from entoptic.base.progress import EVERY, Reporter
from entoptic.errors import UserError, counted
from entoptic.runs.execute import split
from entoptic.runs.plan import Plan
from entoptic.runs.sampling_time import sampling_work
from entoptic.runs.unit_items import UnitItems


def estimate(plan: Plan, *, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Times two steps of each method's first batch: what the plan would make, how long it takes, and its memory.

    Returns:
        `pictures`, `done`, and per method `seconds_per_picture`, `seconds`, and `steps` or, of methods that sample a prior, `work`
        in words; `peak_memory_mb` of this process; `samples`, on how much the evidence of a picture will rest, in words.
    """
    import resource

    report: dict[str, Any] = {
        "run": str(plan.run.path),
        "model": plan.model.card.name,
        "methods": {},
        "samples": samples(plan),
    }
    for job in plan.jobs:
        todo = [entry.item for entry in split(plan.run, plan.entries(job))[1]]
        entry: dict[str, Any] = {"pictures": len(job.items), "done": len(job.items) - len(todo)}
        report["methods"][job.card.name] = entry
        if not todo:
            entry["seconds"] = 0.0
            continue
        progress(job.card.name)
        times: list[float] = []
        total = 0

        def on_step(step: int, steps: int, times: list[float] = times) -> None:
            nonlocal total
            times.append(time.monotonic())
            total = steps
            if step == 3:
                raise _Enough

        batch = todo[: plan.batch_size]
        if work := sampling_work(todo, job.config, plan.kind.context(job, Reporter(), len(todo), plan.batch_size)):
            entry |= {"work": str(work), "seconds": work.seconds[1], "seconds_per_picture": work.seconds[1] / len(todo)}
            continue
        started = time.monotonic()
        try:
            context = replace(plan.kind.context(job, Reporter(), len(batch), plan.batch_size), on_step=on_step)
            for _ in job.card.function(batch, job.config, context):
                pass
        except _Enough:
            pass
        seconds = time.monotonic() - started
        if len(times) > 1:
            seconds = (times[-1] - times[0]) / (len(times) - 1) * total
        each = seconds / len(batch)
        entry |= {"steps": total, "seconds_per_picture": each, "seconds": each * len(todo)}
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if plan.model.device.type == "cuda":
        report["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return report


def say_sampling_work(plan: Plan, report: Reporter) -> None:
    """Says of each method that samples a prior what it will compute, and about how long that takes.

    One piece of each kind is timed. Methods whose work takes less than a quarter of a minute say nothing.
    """
    for job in plan.jobs:
        todo = [entry.item for entry in split(plan.run, plan.entries(job))[1]]
        try:
            work = sampling_work(todo, job.config, plan.kind.context(job, Reporter(), len(todo), plan.batch_size))
        except UserError:
            continue  # the run will name it beside what it could make
        if work and work.seconds[1] >= EVERY:
            report.note(f"{job.card.name}: {work}")


def samples(plan: Plan) -> str:
    """Returns in words how many pictures, photos and verifiers the evidence of a plan's pictures will rest on."""
    each = {(job.card.name, item.target.identity): 0 for job in plan.jobs for item in job.items}
    for job in plan.jobs:
        for item in job.items:
            each[job.card.name, item.target.identity] += 1
    told = [f"{counted(max(each.values(), default=0), 'picture')} a unit and method"]
    kind = plan.kind
    if isinstance(kind, UnitItems):
        photos = kind.references.photos
        told.append(
            "the shipped statistics, no photos"
            if photos is None
            else f"{counted(len(photos), 'photo')} to compare with"
        )
        names = ", ".join(one.card.name for one in kind.verifiers)
        told.append(f"{counted(len(kind.verifiers), 'verifier')}{f' ({names})' if names else ''}")
    return "; ".join(told)


class _Enough(Exception):
    """Ends a method after the steps that were to be timed."""
