"""`entoptic export`: a public copy of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.options import Debug, RunToRead


@dataclass(frozen=True, kw_only=True)
class Export:
    """Copy a run for publishing: pictures, records and gallery, without local paths and without real photos."""

    title: ClassVar[str] = "copy a run for publishing, without local paths or photos"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic export runs/first --out public",
        "entoptic export runs/first --out public-with-photos --with-photos",
    )

    run: RunToRead
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the copy, which is not there or empty"""
    with_photos: bool = False
    """copy real photos too: pictures by retrieval, and the small copies beside pictures; mind their licences"""
    debug: Debug = False


def run_export(options: Export) -> int:
    """Runs `entoptic export`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.gallery.publish import export

    with reporter() as report:
        made = export(options.run, options.out, with_photos=options.with_photos, progress=report.progress)
    for line in made.left_out:
        print(f"left out: {line}")
    print(f"{made}; look at {made.path / 'gallery' / 'index.html'}")
    return 2 if made.damaged else 0
