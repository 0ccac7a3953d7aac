"""What records of earlier versions held otherwise: keys of shorter settings, and another identity of an inverter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter
    from entoptic.runs.plan import Job


def earlier_identity(inverter: Inverter) -> str | None:
    """Returns what earlier pictures hold of an inverter, None for one that was not loaded from a file."""
    return getattr(inverter, "earlier_identity", None) or None


def as_stored(job: Job, stored: Mapping[str, Any]) -> Job:
    """Returns a job whose keys hold only what a sidecar holds: what a method got later was no part of its keys then.

    Args:
        job: with the whole config.
        stored: the config in the sidecar.
    """
    made = replace(job)
    made.__dict__["config_identity"] = {name: one for name, one in job.config_identity.items() if name in stored}
    return made
