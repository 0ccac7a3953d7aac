"""`entoptic report`: one page on a classifier."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    Debug,
    Device,
    KeepPhotos,
    ModelName,
    PhotosAtOnce,
    Seed,
    Threads,
    photos_help,
    run_folder_help,
    use_threads,
)
from entoptic.errors import counted


@dataclass(frozen=True, kw_only=True)
class MakeReport:
    """Write one page on a classifier: its errors, what its classes look for, and which units carry them."""

    title: ClassVar[str] = "write one page on a classifier: errors, classes, units"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic report builtin:lite0 --photos photos --dry-run",
        "entoptic report builtin:lite0 --photos photos --classes 4 --out runs/report",
        "entoptic report builtin:lite0 --photos photos --classes church beacon",
    )
    bounds: ClassVar[Bounds] = {"quantile": (0.0, 1.0), "steps": (1, 1_000_000), "batch_size": (1, 65_536)}

    model: ModelName
    photos: Annotated[str, photos_help("; errors need one folder per class")]
    classes: Annotated[tuple[str, ...], arg(metavar="N|CLASS")] = ("6",)
    """how many classes to show (the most used and most confused), or their names"""
    method: Annotated[str, arg(metavar="METHOD")] = "vital"
    """method that makes the pictures"""
    steps: int | None = None
    """optimisation steps of a picture (default: the method's own)"""
    layer: Annotated[str, arg(metavar="LAYER")] = ""
    """where patterns of errors are looked for (default: the layer that the logits read)"""
    quantile: float = 0.9
    """a unit is on above this quantile of its own scores, for patterns"""
    masks: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """PNG masks with the names of the photos, white on the object, to measure whether classes look at it or beside it"""
    dry_run: bool = False
    """print what would be made and its time, and make nothing"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL")] = None
    seed: Seed = 0
    context: KeepPhotos = True
    batch_size: PhotosAtOnce = 32
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_report(options: MakeReport) -> int:
    """Runs `entoptic report`; returns the exit code."""
    from entoptic.base.gradients import with_gradients
    from entoptic.base.progress import reporter
    from entoptic.gallery.report import write_report
    from entoptic.runs.report import estimate_report, make_report_plan

    use_threads(options.threads)
    started = time.monotonic()
    names = (
        "photos",
        "out",
        "classes",
        "method",
        "steps",
        "layer",
        "quantile",
        "seed",
        "batch_size",
        "context",
        "masks",
        "device",
    )
    plan = make_report_plan(options.model, **{name: getattr(options, name) for name in names})
    if options.dry_run:
        print(f"report on {plan.model.card.name} with {counted(len(plan.photos), 'photo')}")
        for line in with_gradients(estimate_report)(plan):
            print(f"  {line}")
        return 0
    with reporter() as told:
        page = with_gradients(write_report)(plan, told)
    print(f"{page}, {time.monotonic() - started:.0f} s")
    return 0
