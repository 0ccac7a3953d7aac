"""`entoptic bench`: methods side by side, in one table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.base.progress import short_time
from entoptic.cli.options import BatchSize, Debug, Device, Threads, WorkerCount, asked_workers, photos_help, use_threads

if TYPE_CHECKING:
    from entoptic.bench.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure methods side by side: pictures by ordinary runs, every metric, a table, a plot and a page."""

    title: ClassVar[str] = "compare methods: a table, a plot and a page"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic bench small --out runs/bench-small",
        "entoptic bench small --out runs/bench-small --dry-run",
        "entoptic bench standard --out runs/bench --photos photos --seeds 1",
        "entoptic bench standard --out runs/bench --photos photos --device cuda",
    )

    recipe: Positional[Annotated[str, arg(metavar="RECIPE")]]
    """small (minutes on two cores, no photos), standard (hours, with photos), tuning (the same on classes on which methods may be
    chosen) or full (for a GPU)"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the benchmark; what is there already is not made again"""
    photos: Annotated[str | None, photos_help("; pictures are measured on one half of them")] = None
    verifiers: Annotated[
        str,
        arg(
            metavar="MODELS",
            help="networks that judge beside those of the recipe, separated by commas; give some of other families than "
            "EfficientNet, MobileNetV2 and SqueezeNet, by which recipes were chosen",
        ),
    ] = ""
    clip: Annotated[str, arg(metavar="CLIP")] = ""
    """a CLIP that judges too: a folder in the format of transformers, or MODEL:PRETRAINED of open_clip"""
    seeds: int | None = None
    """seeds of each unit, the first of the recipe's; the rest can be made later, by the same command without this (default: all)"""
    batch_size: BatchSize = None
    device: Device = "auto"
    threads: Threads = None
    workers: WorkerCount = None
    dry_run: bool = False
    """time two steps of each method, then print what there is to make and how long it takes"""
    debug: Debug = False


def run_bench(options: Bench) -> int:
    """Runs `entoptic bench`; returns the exit code."""
    from entoptic.bench.recipe import cost_of
    from entoptic.bench.run import benchmark, check_folder, checked
    from entoptic.bench.tables import markdown

    use_threads(options.threads)
    recipe = checked(options.recipe, options.photos, options.seeds)
    check_folder(options.out, recipe)
    if options.dry_run:
        return _print_estimate(options, recipe)
    started = time.monotonic()
    print(f"{recipe.name}: {recipe.title}; {cost_of(recipe)}; --dry-run says how long it takes", flush=True)
    results = benchmark(
        recipe, out=options.out, photos=options.photos, verifiers=options.verifiers, batch_size=options.batch_size,
        clip=options.clip or None, seeds=options.seeds, device=options.device,
        workers=asked_workers(options.workers, options.threads),
    )  # fmt: skip
    print(markdown(results))
    spent = short_time(time.monotonic() - started)
    print(f"{len(results.cells)} numbers in {options.out}, {spent}; look at {options.out / 'index.html'}")
    return 2 if results.failures else 0


def _print_estimate(options: Bench, recipe: Recipe) -> int:
    from entoptic.bench.estimate import estimate
    from entoptic.bench.run import judges_of
    from entoptic.images.photos import Photos

    photos = None if options.photos is None else Photos.open(options.photos)
    parts = estimate(
        recipe, options.out, judges=judges_of(options.verifiers), photos=photos, device=options.device,
        batch_size=options.batch_size,
    )  # fmt: skip
    for part in parts:
        print(f"{part.subject}, {part.method}: {part.pictures} to make, {part.done} there, {short_time(part.seconds)}")
    print(f"together {short_time(sum(part.seconds for part in parts))}")
    return 0
