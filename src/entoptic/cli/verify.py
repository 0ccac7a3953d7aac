"""`entoptic verify`: whether the measurements of a run, or of a benchmark, still come out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.cli.options import Debug, Device
from entoptic.errors import UserError

if TYPE_CHECKING:
    from entoptic.runs.verify import Verification


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Recompute the measurements of a run, or of a benchmark and its table, from its files and report what drifted."""

    title: ClassVar[str] = "measure a run again from its files and say what differs"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic verify runs/first",
        "entoptic verify runs/first --photos photos",
        "entoptic verify runs/bench-small",
    )

    run: Positional[Annotated[Path, arg(metavar="RUN", help="the run folder, or the folder of a benchmark")]]
    photos: Annotated[str | None, arg(metavar="PHOTOS")] = None
    """where the photos are now, if they were moved; a benchmark with photos needs them"""
    verifiers: Annotated[str, arg(metavar="MODELS")] = ""
    """networks that judged a benchmark beside those of its recipe, separated by commas"""
    clip: Annotated[str, arg(metavar="CLIP")] = ""
    """the CLIP that judged a benchmark, if one did"""
    prior: Annotated[str | None, arg(metavar="PRIOR")] = None
    """where the image prior of the run's inverters is now, if not where the sidecars or their cards say"""
    device: Device = "auto"
    debug: Debug = False


def run_verify(options: Verify) -> int:
    """Runs `entoptic verify`; returns the exit code."""
    from entoptic.bench.verify_table import is_benchmark

    found = _benchmark(options) if is_benchmark(options.run) else _run(options)
    for line in found.drift:
        print(f"differs: {line}")
    for line in dict.fromkeys(found.skipped):
        print(f"not recomputed: {line}")
    for line in found.notes:
        print(f"note: {line}")
    print(found)
    return 0 if found.ok else 2


def _benchmark(options: Verify) -> Verification:
    from entoptic.bench.verify_table import verify_benchmark

    if options.prior is not None:
        raise UserError("--prior is for runs of inverters; a benchmark has none")
    return verify_benchmark(
        options.run,
        photos=options.photos,
        verifiers=options.verifiers,
        clip=options.clip or None,
        device=options.device,
    )


def _run(options: Verify) -> Verification:
    from entoptic.base.progress import reporter
    from entoptic.runs.verify import verify

    if options.verifiers or options.clip:
        given = "--verifiers" if options.verifiers else "--clip"
        raise UserError(f"{given} is for benchmarks; the sidecars of a run name its networks")
    with reporter() as report:
        return verify(
            options.run,
            photos=options.photos,
            prior=options.prior,
            device=options.device,
            on_picture=lambda done, total: report.progress("verifying", done, total),
        )
