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
    )

    run: RunToRead
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """where to write it (default: RUN/gallery)"""
    debug: Debug = False


def run_gallery(options: Gallery) -> int:
    """Runs `entoptic gallery`; returns the exit code."""
    from entoptic.gallery.atlas_page import write_atlas_pages
    from entoptic.gallery.circuit_page import write_circuit_pages
    from entoptic.gallery.site import build

    has_circuits = options.out is None and any(options.run.glob("results/circuit/*/result.json"))
    has_atlases = options.out is None and any(options.run.glob("results/atlas/*/result.json"))
    if not (has_circuits or has_atlases) or any(options.run.glob("pictures/*/*.json")):
        print(build(options.run, options.out))
    if has_circuits:
        print(write_circuit_pages(options.run)[0].with_name("circuits.html"))
    if has_atlases:
        print(write_atlas_pages(options.run)[0].with_name("atlases.html"))
    return 0
