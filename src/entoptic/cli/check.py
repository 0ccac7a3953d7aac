"""`entoptic check`: whether a model's card fits the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from entoptic.cli.options import Debug, Device, ModelName, photos_help


@dataclass(frozen=True, kw_only=True)
class Check:
    """Check that a model's card (size, mean, std, …) fits the network, on real photos."""

    title: ClassVar[str] = "check that a model's card (size, mean, std, …) fits the network"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic check builtin:lite0 --photos photos",
        "entoptic check builtin:lite0 --photos 'photos/**/*.jpg' --n 16",
    )

    model: ModelName
    photos: Annotated[str, photos_help(", with labels if possible")]
    n: int = 64
    """number of photos to show"""
    device: Device = "auto"
    debug: Debug = False


def run_check(options: Check) -> int:
    """Runs `entoptic check`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.images.preflight import preflight
    from entoptic.models.sources import load

    with reporter() as report:
        result = preflight(
            load(options.model, device=options.device), options.photos, n=options.n, progress=report.progress
        )
    print(result)
    return 0 if result.ok else 2
