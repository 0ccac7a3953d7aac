"""`entoptic see`: pictures of what units look for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from entoptic.base.progress import short_time
from entoptic.cli.method_options import chosen_methods, preset_configs, preset_of, with_method_options
from entoptic.cli.options import (
    BankSeed,
    BatchSize,
    Debug,
    Device,
    KeepPhotos,
    MethodSteps,
    ModelName,
    NoiseOf,
    PriorName,
    RunFolder,
    Seed,
    Threads,
    UnitNames,
    Verifiers,
    WorkerCount,
    asked_workers,
    parse_shard,
    photos_help,
    use_threads,
)
from entoptic.cli.output import finish_run
from entoptic.cli.report import Report, tracked
from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.runs.pictures import Picture


@with_method_options
@dataclass(frozen=True, kw_only=True)
class See:
    """Make pictures of what units look for, each with its measurements."""

    title: ClassVar[str] = "make pictures of what units look for, each with measurements"
    examples: ClassVar[tuple[str, ...]] = (
        """entoptic see builtin:lite0 'logits:"church"' logits:701 --out runs/first""",
        "entoptic see builtin:lite0 blocks.6:112 --method fourier,maco --n 2",
        "entoptic see builtin:lite0 logits:340 --quick",
        "entoptic see builtin:lite0 blocks.6:0-9 --photos photos --method retrieval",
        "entoptic see builtin:lite0 logits:207 --print-config",
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
    quick: bool = False
    """pictures in about a third of the time: stands for --vital.steps 100; options that you give override it"""
    fine: bool = False
    """pictures in about twice the time: stands for --vital.steps 600"""
    steps: MethodSteps = None
    size: int | None = None
    """pixels of the pictures' longer side, if larger than the network's own, for methods that have it (vital, fourier, others)"""
    nats: float | None = None
    """KL divergence to spend, for every method that has a budget"""
    batch_size: BatchSize = None
    device: Device = "auto"
    threads: Threads = None
    workers: WorkerCount = None
    context: KeepPhotos = True
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """YAML file of what to make, in place of MODEL and UNIT: several models, units and methods; options on the command
    line override it"""
    print_config: bool = False
    """print this command as such a file and make nothing"""
    shard: Annotated[str, arg(metavar="I/M")] = "0/1"
    """I/M makes the I-th (from 0) of M parts of the units; `entoptic merge` makes one run of them"""
    report: Report = ""
    dry_run: bool = False
    """time two steps, then print the plan, its time and its memory"""
    debug: Debug = False

    def behind_words(self, default: See | None) -> See | None:
        """What counts where the words of a command say nothing: a preset that they ask for, before `default`.

        Args:
            default: what counts without it, or None for the verb's own.

        Returns:
            Options, or None where they ask for no preset.
        """
        preset = preset_of(self)
        if not preset or preset == preset_of(default):
            return None
        return replace(default or type(self)(model="", units=()), **preset_configs(preset))  # type: ignore[arg-type]


@tracked
def run_see(options: See) -> int:
    """Runs `entoptic see`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.base.tracking import Telling
    from entoptic.runs.estimate import estimate, say_sampling_work
    from entoptic.runs.execute import execute
    from entoptic.runs.headline import headline
    from entoptic.runs.plan import make_plan
    from entoptic.runs.shards import shard_of

    use_threads(options.threads)
    workers = asked_workers(options.workers, options.threads)
    part = parse_shard(options.shard)
    methods = chosen_methods(options, options.method)
    for_all = {"steps": options.steps, "size": options.size, "nats": options.nats}
    started = time.monotonic()
    with reporter() as shown:
        report = Telling(shown)
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
        plan = shard_of(plan, *part)
        if not plan.failures and not any(job.items for job in plan.jobs):
            print(f"no unit of this request is in shard {options.shard}: nothing to make")
            return 0
        if options.dry_run:
            _print_estimate(estimate(plan), plan.failures)
            return 2 if plan.failures else 0
        say_sampling_work(plan, report)
        run = execute(plan, report, workers)
    asked = {str(item.unit) for job in plan.jobs for item in job.items}
    for number, picture in enumerate(one for one in run if one.unit in asked):
        _tell(picture, number)
        label = f" ({picture.record['label']})" if picture.record.get("label") else ""
        print(f"{picture.path}  {picture.unit}{label} by {picture.method}: {'; '.join(headline(picture.record))}")
    return finish_run(run, started)


def _tell(picture: Picture, number: int) -> None:
    """Tells what `--report` names the measurements of a picture, and shows it."""
    from entoptic.base.tracking import is_tracked, tell, tell_picture

    if not is_tracked():
        return
    for name, entry in picture.evidence.items():
        if entry["value"] is not None:
            tell(f"{picture.method}/{name}", entry["value"], number)
    tell_picture(picture.method, picture.pixels, picture.unit, number)


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
