"""`entoptic split`: units as sums of sub-units that read different inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.options import Debug, Device, ModelName, Seed, Threads, UnitNames, photos_help, use_threads


@dataclass(frozen=True, kw_only=True)
class Split:
    """Split units into sub-units that read different inputs and add up to them; the network is not changed."""

    title: ClassVar[str] = "split units into sub-units that read different inputs"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic split builtin:lite0 conv_head:12 conv_head:40 --photos photos",
        "entoptic split builtin:lite0 conv_head:12 --photos photos --most 3",
    )

    model: ModelName
    units: UnitNames
    photos: Annotated[str, photos_help()]
    out: Annotated[Path, arg(metavar="FILE")] = Path("split.safetensors")
    """where the dictionary of sub-units is written; another file is replaced"""
    labels: Annotated[tuple[str, ...], arg(metavar="LABEL")] = ()
    """split by two or more classes of the photos (default: by clusters of the inputs)"""
    most: int = 6
    """largest number of sub-units tried for one unit"""
    limit: int = 400
    """largest number of photos read"""
    seed: Seed = 0
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


def run_split(options: Split) -> int:
    """Runs `entoptic split`; returns the exit code."""
    from entoptic.runs.split import split

    use_threads(options.threads)
    file = split(
        options.model,
        options.units,
        options.photos,
        options.out,
        labels=options.labels,
        most=options.most,
        limit=options.limit,
        seed=options.seed,
        device=options.device,
        log=lambda line: print(line, flush=True),
    )
    print(f"{file}: see a sub-unit with `entoptic see {options.model} 'dict({file}):0' --photos {options.photos}`")
    return 0
