"""Where the runs are, for a folder that was given and is none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from entoptic.base.files import user_path
from entoptic.errors import nearest

SHOWN = 3
_INSIDE = 4


def runs_nearby(folder: str | Path, marks: Sequence[str] = ("run.json",)) -> str:
    """Says where there are runs: the one that holds the folder, those inside of it, else one beside it of nearly its name.

    Args:
        folder: as it was given.
        marks: files that tell a folder of the kind that was expected.

    Returns:
        What follows the sentence about the folder, from its `; ` on; "" where there is none near.
    """
    place = user_path(folder)
    whole = place.absolute()
    for above in list(whole.parents)[:_INSIDE]:
        if any((above / mark).is_file() for mark in marks):
            return f"; it lies inside of {above}, which is one"
    try:
        inside = sorted(
            file.parent
            for mark in marks
            for pattern in (f"*/{mark}", f"runs/*/{mark}")
            for file in islice(place.glob(pattern), 1000)
        )
        beside = [file.parent.name for mark in marks for file in islice(whole.parent.glob(f"*/{mark}"), 1000)]
    except OSError:  # a folder that may not be read
        return ""
    if inside:
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return f"; in it {'is' if len(inside) == 1 else 'are'} {', '.join(map(str, inside[:SHOWN]))}{more}"
    return nearest(whole.name, beside)
