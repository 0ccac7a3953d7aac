"""`entoptic gallery`: pages that show a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.options import Debug, RunToRead


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Make the static gallery of a run: pages that open from the disk, without a server."""

    title: ClassVar[str] = "pages that show a run, opened from the disk"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic gallery runs/first",
        "entoptic gallery runs/first --out pages",
        "entoptic gallery runs/first --names runs/other/names.json",
    )

    run: RunToRead
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """where to write it (default: RUN/gallery)"""
    names: Annotated[Path | None, arg(metavar="FILE")] = None
    """suggested names of units, made by `entoptic name` (default: RUN/names.json, where it is)"""
    debug: Debug = False


def run_gallery(options: Gallery) -> int:
    """Runs `entoptic gallery`; returns the exit code."""
    from entoptic.gallery.circuit_page import write_circuit_pages
    from entoptic.gallery.site import build

    has_circuits = options.out is None and any(options.run.glob("results/circuit/*/result.json"))
    if not has_circuits or any(options.run.glob("pictures/*/*.json")):
        print(build(options.run, options.out, names=options.names))
    if has_circuits:
        print(write_circuit_pages(options.run, options.names)[0].with_name("circuits.html"))
    return 0
