"""`entoptic verify`: whether the measurements of a run still come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.options import Debug, Device, RunToRead


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Recompute the measurements of a run from its files and report what drifted."""

    title: ClassVar[str] = "measure a run again from its files and say what differs"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic verify runs/first",
        "entoptic verify runs/first --photos photos",
    )

    run: RunToRead
    photos: Annotated[str | None, arg(metavar="PHOTOS")] = None
    """where the photos are now, if they were moved"""
    prior: Annotated[str | None, arg(metavar="PRIOR")] = None
    """where the image prior of the run's inverters is now, if not where the sidecars or their cards say"""
    device: Device = "auto"
    debug: Debug = False


def run_verify(options: Verify) -> int:
    """Runs `entoptic verify`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.runs.verify import verify

    with reporter() as report:
        found = verify(
            options.run,
            photos=options.photos,
            prior=options.prior,
            device=options.device,
            on_picture=lambda done, total: report.progress("verifying", done, total),
        )
    for line in found.drift:
        print(f"differs: {line}")
    for line in dict.fromkeys(found.skipped):
        print(f"not recomputed: {line}")
    for line in found.notes:
        print(f"note: {line}")
    print(found)
    return 0 if found.ok else 2
