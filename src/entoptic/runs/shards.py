"""A part of a plan, for jobs that share the work without talking to each other."""

from __future__ import annotations

from dataclasses import replace

from entoptic.base.bounds import check_shard
from entoptic.runs.plan import UnitPlan


def shard_of(plan: UnitPlan, part: int, parts: int) -> UnitPlan:
    """Returns every `parts`-th unit of a plan, all samples and methods of a unit together.

    The parts have no unit in common and are the whole plan together, so `merge_runs` makes the run of one process of them.

    Args:
        plan: of the whole request.
        part: from 0.
        parts: how many there are.

    Raises:
        UserError: there is no such part. One without a unit is no error: where several requests are divided into equal
            numbers of parts, a small one has fewer units than parts.
    """
    check_shard(part, parts)
    if parts == 1:
        return plan
    units = list(dict.fromkeys(item.target.text for job in plan.jobs for item in job.items))
    chosen = set(units[part::parts])
    jobs = [replace(job, items=[item for item in job.items if item.target.text in chosen]) for job in plan.jobs]
    failures = plan.failures if part == 0 else []  # what cannot be made is said once
    return replace(plan, jobs=jobs, failures=failures)
