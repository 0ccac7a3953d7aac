"""Pictures from one unit to another: weighted sums of the two, all from the same starting noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.execute import execute
from entoptic.runs.plan import make_plan
from entoptic.runs.see import Network
from entoptic.runs.selection import Pictures
from entoptic.units.unit import Unit, bind

COUNT = 5
"""Pictures of a strip where nobody says how many."""
MOST = 100
"""Largest number of pictures of a strip."""


@names_unread
def interpolate(
    model: Network,
    first: str | Unit,
    last: str | Unit,
    *,
    count: int = COUNT,
    method: Any = "vital",
    out: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Pictures:
    """Makes pictures of (1 - t)·first + t·last for t from 0 to 1, all from the same starting noise and views.

    The scores are added as they are. The first picture is the one that `see` makes of the first unit.

    Args:
        model: anything `load` takes.
        first: the unit at t = 0.
        last: the unit at t = 1.
        count: pictures for each method, both ends included.
        method: one or several ascent methods, by name or as configs.
        out: the run folder (default `runs/MODEL`).
        progress: show how far the work is.
        options: what `see` takes beside these: photos, seed, and fields of the methods' configs.

    Returns:
        The pictures in the order of t, method by method; `.figure(columns=count)` is the strip.

    Raises:
        UserError: bad input, or every picture failed.
    """
    subject = load(model, options.pop("card", None), device=options.pop("device", "auto"))
    units = between(subject, first, last, count)
    for_all = {name: options.pop(name) for name in list(options) if name in _OF_PLAN}
    with reporter(progress) as report:
        plan = make_plan(
            subject, units, method=method, out=out, report=report, options=options, noise_of=units[0], **for_all
        )
        run = execute(plan, report)
    made = {picture.record["key"]: picture for picture in run}
    keys = [plan.kind.key(job, item) for job in plan.jobs for item in sorted(job.items, key=lambda item: item.sample)]
    return Pictures(run, [made[key] for key in keys if key in made])


_OF_PLAN = frozenset({"photos", "n", "seed", "verifiers", "batch_size", "index", "context", "film"})


def between(model: Model, first: str | Unit, last: str | Unit, count: int) -> list[Unit]:
    """Returns the units from the first to the last; weights have four digits behind the point.

    Args:
        model: the network.
        first: the unit at t = 0.
        last: the unit at t = 1.
        count: how many, both included.

    Raises:
        UserError: fewer than two or more than `MOST`, no single unit at an end, or the same unit at both.
    """
    if not 2 <= count <= MOST:
        raise UserError(
            f"count is the number of pictures from the first unit to the last and must be from 2 to {MOST}, got {count}"
        )
    ends = []
    for unit in (first, last):
        found = bind(model, unit)
        if len(found) != 1:
            raise UserError(f"{unit} names {len(found)} units; an end is one unit, such as {found[0]}")
        ends += found
    if ends[0] == ends[1]:
        raise UserError(f"both ends are {ends[0]}, so there is nothing between them")
    inner = [round(k / (count - 1), 4) for k in range(1, count - 1)]
    return [ends[0], *(round(1 - t, 4) * ends[0] + t * ends[1] for t in inner), ends[1]]
