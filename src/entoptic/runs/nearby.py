"""Where something lies that a run names by a relative path, seen from another working directory."""

from __future__ import annotations

from pathlib import Path

_UP = 4
"""Folders around a run in which it is looked for: a run lies in `runs/NAME` of a project, as a rule."""


def nearby(source: str, run: Path) -> str:
    """Returns a path as it is where there is something, else beside the run or in a folder around it, where it is there.

    What is found is told by its hash, so that another thing of that name is not taken for it.

    Args:
        source: that a record names; anything but a relative path comes back as it is.
        run: the run's folder.
    """
    try:
        path = Path(source)
        if path.is_absolute() or ":" in source or path.exists():
            return source
        for folder in list(run.resolve().parents)[:_UP]:
            if (folder / path).exists():
                return str(folder / path)
    except (OSError, ValueError, RuntimeError):  # no path can be so
        return source
    return source
