"""A public copy of a run with its pages."""

from __future__ import annotations

from pathlib import Path

from entoptic.base.progress import Progress, silent
from entoptic.gallery.site import build
from entoptic.runs.export import Exported, export_run
from entoptic.runs.store import Run


def export(
    run: str | Path | Run, out: str | Path, *, with_photos: bool = False, progress: Progress = silent
) -> Exported:
    """Makes a public copy of a run: pictures, records and a gallery, without paths of this machine and without photos.

    Args:
        run: the run, or its folder.
        out: a folder that is not there, or is empty.
        with_photos: whether real photos are copied too.
        progress: is called with (what, done, total).

    Returns:
        The copy, with what was left out of it.

    Raises:
        UserError: there is no run, nothing of it can be copied, or `out` holds something or cannot be written.
    """
    made = export_run(run, out, with_photos=with_photos, progress=progress)
    build(made.path)
    return made
