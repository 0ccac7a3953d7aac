"""What several verbs print."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from entoptic.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from entoptic.images.index import ActivationIndex
    from entoptic.runs.store import Run


def table_console() -> Console:
    """A console for tables. A table that is piped somewhere is not folded to the width of a terminal that is not there."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def finish_run(run: Run, started: float) -> int:
    """Makes the gallery of a run and prints where it is; returns the exit code."""
    from entoptic.gallery.site import build

    gallery = build(run.path)
    seconds = time.monotonic() - started
    print(f"{counted(len(run), 'picture')} in {run.path}, {seconds:.0f} s; look at {gallery}")
    return 2 if run.failures else 0


def print_losses(index: ActivationIndex) -> None:
    """Prints which photos an index could not read, and which scores are not finite."""
    for name, reason in index.skipped:
        print(f"not read: {name} ({reason})")
    odd = index.nonfinite
    if odd["photos"]:
        print(f"scores that are not finite: {counted(odd['photos'], 'photo')}, {', '.join(odd['names'])}")
