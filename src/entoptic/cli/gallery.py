"""`entoptic gallery`: pages that show a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entoptic.cli.options import Debug, RunToRead


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Make the static gallery of a run: pages that open from the disk, without a server."""

    run: RunToRead
    out: Path | None = None
    """where to write it (default: RUN/gallery)"""
    debug: Debug = False


def run_gallery(options: Gallery) -> int:
    """Runs `entoptic gallery`; returns the exit code."""
    from entoptic.gallery.site import build

    print(build(options.run, options.out))
    return 0
