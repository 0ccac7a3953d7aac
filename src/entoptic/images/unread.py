"""Which photos could not be read, in words: what is left out is never left out in silence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from entoptic.errors import counted
from entoptic.images.photos import Photos

NAMED = 5
"""Photos that are named in a sentence."""


def unread(photos: Photos, chosen: Sequence[int], read: Collection[int]) -> tuple[str, ...]:
    """Returns the names of photos that were to be read and were not.

    Args:
        photos: the set.
        chosen: numbers of those that were to be read.
        read: numbers of those that were.
    """
    there = set(read)
    return tuple(photos[i].name for i in chosen if i not in there)


def unread_words(names: Sequence[str], of: int) -> str:
    """Returns how many photos could not be read, and which: "2 of 650 photos could not be read: a.jpg, b.jpg"; "" for none.

    Args:
        names: of these photos.
        of: photos that were to be read.
    """
    return f"{len(names):,} of {counted(of, 'photo')} could not be read: {some(names)}" if names else ""


def some(names: Sequence[str]) -> str:
    """Returns the first names of a list, and how many more there are.

    Args:
        names: all of them.
    """
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
