"""`entoptic interpolate`: pictures from one unit to another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from entoptic.cli.method_options import chosen_methods, with_method_options
from entoptic.cli.options import (
    BatchSize,
    Debug,
    Device,
    KeepPhotos,
    MethodSteps,
    ModelName,
    RunFolder,
    Seed,
    Threads,
    Verifiers,
    photos_help,
    use_threads,
)
from entoptic.cli.output import finish_run


@with_method_options
@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Make pictures from one unit to another, all from the same noise."""

    title: ClassVar[str] = "make a strip of pictures from one unit to another"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic interpolate builtin:lite0 logits:497 logits:483 --figure strip.png",
        "entoptic interpolate builtin:lite0 blocks.6:112 blocks.6:7 --method fourier",
    )

    model: ModelName
    first: Positional[Annotated[str, arg(metavar="UNIT", help="unit at the beginning")]]
    last: Positional[Annotated[str, arg(metavar="UNIT", help="unit at the end")]]
    count: int = 5
    """number of pictures, both ends included; their units are (1 - t)*FIRST + t*LAST"""
    figure: Annotated[Path | None, arg(metavar="FILE")] = None
    """also draw the strip: a file that ends in .pdf, .svg or .png"""
    method: Annotated[str, arg(metavar="METHODS")] = "vital"
    """one or more ascent methods, separated by commas"""
    photos: Annotated[str | None, photos_help("; without it the shipped statistics are used")] = None
    seed: Seed = 0
    out: RunFolder = None
    verifiers: Verifiers = "auto"
    steps: MethodSteps = None
    batch_size: BatchSize = None
    device: Device = "auto"
    threads: Threads = None
    context: KeepPhotos = True
    debug: Debug = False


def run_interpolate(options: Interpolate) -> int:
    """Runs `entoptic interpolate`; returns the exit code."""
    from entoptic.runs.interpolate import interpolate

    use_threads(options.threads)
    started = time.monotonic()
    steps: dict[str, Any] = {} if options.steps is None else {"steps": options.steps}
    pictures = interpolate(
        options.model, options.first, options.last, count=options.count, method=chosen_methods(options, options.method),
        out=options.out, photos=options.photos, seed=options.seed, verifiers=options.verifiers,
        batch_size=options.batch_size, device=options.device, context=options.context,
        **steps,
    )  # fmt: skip
    for picture in pictures:
        print(f"{picture.path}  {picture.unit}{f' ({picture.label})' if picture.label else ''} by {picture.method}")
    if options.figure is not None:
        print(pictures.figure(columns=options.count).save(options.figure))
    return finish_run(pictures.run, started)
