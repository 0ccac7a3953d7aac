"""`entoptic index`: what every unit of some layers does on photos."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.options import (
    Debug,
    Device,
    ModelName,
    PhotosAtOnce,
    Threads,
    WorkerCount,
    asked_workers,
    parse_shard,
    photos_help,
    use_threads,
)
from entoptic.cli.output import print_losses


@dataclass(frozen=True, kw_only=True)
class Index:
    """Read photos once and keep what every unit of some layers does on them."""

    title: ClassVar[str] = "read photos once and keep what every unit does on them"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic index builtin:lite0 --photos photos --layers bn2 --out runs/index",
        "entoptic index builtin:lite0 --photos photos --layers bn2 logits --out both",
        "entoptic ls runs/index bn2:112",
    )

    model: ModelName
    photos: Annotated[str, photos_help()]
    layers: Annotated[tuple[str, ...], arg(metavar="LAYER")]
    """module names, or logits; `entoptic ls MODEL` lists them"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """the index folder; what it holds already is not read again"""
    k: int = 25
    """strongest photos kept of each unit"""
    bottom: int = 8
    """weakest photos kept of each unit"""
    readouts: Annotated[tuple[str, ...], arg(metavar="READOUT")] = ("",)
    """how units are read, as behind @ in a unit (mean, max, cls, tok3, centre); '' is each layer's default"""
    reservoir: int = 0
    """photos in a uniform sample whose scores and activation vectors are kept"""
    shard: Annotated[str, arg(metavar="I/M")] = "0/1"
    """I/M reads the I-th (from 0) of M parts of the photos; `entoptic merge` makes one index of them"""
    batch_size: PhotosAtOnce = 32
    device: Device = "auto"
    threads: Threads = None
    workers: WorkerCount = None
    debug: Debug = False


def run_index(options: Index) -> int:
    """Runs `entoptic index`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.base.unread import said_elsewhere
    from entoptic.images.build_index import build_index
    from entoptic.models.sources import load
    from entoptic.units.grammar import quoted_layer

    use_threads(options.threads)
    shard = parse_shard(options.shard)
    started = time.monotonic()
    with reporter() as report, said_elsewhere():  # `print_losses` names them
        index = build_index(
            load(options.model, device=options.device),
            options.photos,
            options.layers,
            out=options.out,
            k=options.k,
            bottom=options.bottom,
            readouts=options.readouts,
            reservoir=options.reservoir,
            shard=shard,
            batch_size=options.batch_size,
            progress=report.progress,
            workers=asked_workers(options.workers, options.threads),
        )
    print_losses(index)
    unit = shlex.quote(f"{quoted_layer(index.layers[-1])}:0")
    print(f"{index}, {time.monotonic() - started:.0f} s; look with `entoptic ls {index.path} {unit}`")
    return 0
