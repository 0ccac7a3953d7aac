"""Where the runs are, for a folder that was given and is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from entoptic.base.files import file_exists, user_path
from entoptic.errors import nearest

BENCHMARK = "bench.json"
"""The file that tells the folder of a benchmark, whose runs lie in `runs`."""
SHOWN = 3
_INSIDE = 4
_MOST = 1000


def hint_of_runs(folder: str | Path, marks: Sequence[str] = ("run.json",)) -> str:
    """Says where there are runs: the one that holds the folder, those inside of it, else one beside it of nearly its name.

    Benchmarks, which hold runs, are named too.

    Args:
        folder: as it was given.
        marks: files that tell a folder of the kind that was expected.

    Returns:
        What follows the sentence about the folder, from its `; ` on; "" where there is none near.
    """
    place = user_path(folder)
    try:
        place = place.resolve() if ".." in place.parts else place
        whole = place.absolute()
    except (OSError, RuntimeError):  # a circle of links
        return ""
    if _may_not_be_read(place):
        return f"; {place} may not be looked into"
    above = next((one for one in list(whole.parents)[:_INSIDE] if _has(one, (*marks, BENCHMARK))), None)
    if above is not None and _has(above, marks):
        return f"; it lies inside of {above}, which is one"
    around = f"; it lies inside of {above}, which is a benchmark" if above is not None else ""
    inside = [str(one) for one in _folders_with(place, marks, ("*", "runs/*"))]
    inside += [f"{one} (a benchmark)" for one in _folders_with(place, (BENCHMARK,), ("*",))]
    if inside:
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return f"{around}; in it {'is' if len(inside) == 1 else 'are'} {', '.join(inside[:SHOWN])}{more}"
    return around or nearest(whole.name, [one.name for one in _folders_with(whole.parent, (*marks, BENCHMARK), ("*",))])


def _has(folder: Path, marks: Sequence[str]) -> bool:
    return any(file_exists(folder / mark) for mark in marks)


def _folders_with(place: Path, marks: Sequence[str], patterns: Sequence[str]) -> list[Path]:
    """The folders in a place that have one of some files; none where they may not be listed."""
    try:
        found = [islice(place.glob(f"{pattern}/{mark}"), _MOST) for mark in marks for pattern in patterns]
        return sorted({file.parent for files in found for file in files})
    except OSError:
        return []


def _may_not_be_read(place: Path) -> bool:
    """Whether the files of a folder are hidden from this user."""
    try:
        os.stat(place / BENCHMARK)
    except PermissionError:
        return True
    except OSError:
        return False
    return False
