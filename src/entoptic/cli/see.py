"""`entoptic see`: pictures of what units look for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from entoptic.base.progress import short_time
from entoptic.cli.method_options import chosen_methods, with_method_options
from entoptic.cli.options import (
    BankSeed,
    BatchSize,
    Debug,
    Device,
    KeepPhotos,
    ModelName,
    NoiseOf,
    PriorName,
    RunFolder,
    Seed,
    Threads,
    UnitNames,
    Verifiers,
    photos_help,
    use_threads,
)
from entoptic.cli.output import finish_run
from entoptic.errors import counted


@with_method_options
@dataclass(frozen=True, kw_only=True)
class See:
    """Make pictures of what units look for, each with its measurements."""

    title: ClassVar[str] = "pictures of what units look for, each with measurements"
    examples: ClassVar[tuple[str, ...]] = (
        """entoptic see builtin:lite0 'logits:"church"' logits:701 --out runs/first""",
        "entoptic see builtin:lite0 blocks.6:112 --method fourier,maco --n 2",
        "entoptic see builtin:lite0 blocks.6:0-9 --photos photos --method retrieval",
    )

    model: ModelName
    units: UnitNames
    method: Annotated[str, arg(metavar="METHODS")] = "vital"
    """one or more methods, separated by commas"""
    photos: Annotated[str | None, photos_help("; without it the shipped statistics are used")] = None
    index: Annotated[Path | None, arg(metavar="INDEX")] = None
    """activation index of the model on these photos (entoptic index): units it holds need no pass over them"""
    prior: PriorName = None
    bank_seed: BankSeed = 0
    n: int = 1
    """pictures per unit and method"""
    seed: Seed = 0
    noise_of: NoiseOf = None
    film: Annotated[str, arg(metavar="KIND")] = ""
    """also store how each picture came about: gif or apng, in RUN/films"""
    out: RunFolder = None
    verifiers: Verifiers = "auto"
    steps: int | None = None
    """optimisation steps, for every method that has them"""
    size: int | None = None
    """pixels of the pictures' longer side, above the network's own, for every method that has it (vital, fourier)"""
    nats: float | None = None
    """KL divergence to spend, for every method that has a budget"""
    batch_size: BatchSize = None
    device: Device = "auto"
    threads: Threads = None
    context: KeepPhotos = True
    dry_run: bool = False
    """time two steps, then print the plan, its time and its memory"""
    debug: Debug = False


def run_see(options: See) -> int:
    """Runs `entoptic see`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.runs.estimate import estimate
    from entoptic.runs.execute import execute
    from entoptic.runs.headline import headline
    from entoptic.runs.plan import make_plan

    use_threads(options.threads)
    methods = chosen_methods(options, options.method)
    for_all = {"steps": options.steps, "size": options.size, "nats": options.nats}
    started = time.monotonic()
    with reporter() as report:
        plan = make_plan(
            options.model,
            options.units,
            method=methods,
            photos=options.photos,
            n=options.n,
            seed=options.seed,
            out=options.out,
            verifiers=options.verifiers,
            batch_size=options.batch_size,
            device=options.device,
            report=report,
            options={name: value for name, value in for_all.items() if value is not None},
            index=options.index,
            context=options.context,
            prior=options.prior,
            bank_seed=options.bank_seed,
            noise_of=options.noise_of,
            film=options.film,
        )
        if options.dry_run:
            _print_estimate(estimate(plan), plan.failures)
            return 2 if plan.failures else 0
        run = execute(plan, report)
    asked = {str(item.unit) for job in plan.jobs for item in job.items}
    for picture in run:
        if picture.unit in asked:
            label = f" ({picture.record['label']})" if picture.record.get("label") else ""
            print(f"{picture.path}  {picture.unit}{label} by {picture.method}: {'; '.join(headline(picture.record))}")
    return finish_run(run, started)


def _print_estimate(report: dict[str, Any], failures: Sequence[object]) -> None:
    print(f"run {report['run']} of {report['model']}")
    for name, entry in report["methods"].items():
        parts = [f"{entry['pictures'] - entry['done']} to make", f"{entry['done']} there"]
        if "steps" in entry:
            parts += [counted(entry["steps"], "step"), f"{entry['seconds_per_picture']:.1f} s a picture"]
        took = entry["work"] if "work" in entry else short_time(entry["seconds"])
        print(f"  {name}: {', '.join(parts)}, {took}")
    total = sum(entry["seconds"] for entry in report["methods"].values())
    gpu = f", {report['peak_gpu_memory_mb']:.0f} MB on the GPU" if "peak_gpu_memory_mb" in report else ""
    most = "at most " * any("work" in entry for entry in report["methods"].values())
    print(f"  together {most}{short_time(total)}, peak memory {report['peak_memory_mb']:.0f} MB{gpu}")
    print(f"  evidence rests on {report['samples']}")
    for failure in failures:
        print(f"  cannot be made: {failure}")
