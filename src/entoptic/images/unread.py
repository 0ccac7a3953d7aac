"""Which photos could not be read, in words: what is left out is never left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from entoptic.base.unread import NAMED, one_line, unread_sentence
from entoptic.errors import Unreadable, counted, printable
from entoptic.images.photos import Photos

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Prepare = Callable[[Image.Image], torch.Tensor]


def unread(photos: Photos, chosen: Sequence[int], read: Collection[int]) -> tuple[str, ...]:
    """Returns the names of photos that were to be read and were not.

    Args:
        photos: the set.
        chosen: numbers of those that were to be read.
        read: numbers of those that were.
    """
    there = set(read)
    return tuple(photos[i].name for i in chosen if i not in there)


def remember_unread(photos: Photos, prepare: Prepare, chosen: Sequence[int], read: Collection[int] | int) -> None:
    """Names photos in `Photos.skipped` that an earlier pass could not read, whose result is loaded from the cache.

    They are tried again, to learn why: they are few, and their bytes are the same.

    Args:
        photos: the set.
        prepare: as the pass had it.
        chosen: numbers of those that were to be read.
        read: numbers of those that were, or how many of the chosen ones.
    """
    lost = len(set(chosen)) - (read if isinstance(read, int) else len(set(chosen) & set(read)))
    if lost <= 0:
        return
    there = set() if isinstance(read, int) else set(read)
    known = {one.name: one for one in photos.skipped}
    unknown = []
    for i in sorted(set(chosen) - there):
        if (one := known.get(photos[i].name)) is not None:
            photos.leave_out(one)
            lost -= 1
        else:
            unknown.append(i)
    for i in unknown:
        if lost <= 0:
            return
        try:
            lost -= 0 if any(True for _ in photos.batches(prepare, 1, [i])) else 1
        except Unreadable:  # it is named in `skipped` now
            lost -= 1


def unread_of(photos: Photos) -> str:
    """Returns which photos of a set could not be used so far and why, those left out when it was opened among them; "" for none.

    Args:
        photos: the set.
    """
    return unread_sentence(photos.found, {one.name: one.reason for one in photos.skipped if one.is_photo})


def unread_record(*sets: Photos | None) -> dict[str, str]:
    """Returns what a record holds beside its photos: which could not be used, under "unread"; nothing where all could.

    Args:
        sets: the photo sets.
    """
    words = "; ".join(text for one in sets if one is not None and (text := unread_of(one)))
    return {"unread": words} if words else {}


def unread_words(names: Sequence[str], of: int, photos: Photos | None = None) -> str:
    """Returns how many photos could not be read, and which: "2 of 650 photos could not be read: a.jpg, b.jpg"; "" for none.

    Args:
        names: of these photos.
        of: photos that were to be read.
        photos: the set, which knows why.
    """
    if photos is not None:
        reasons = {one.name: one.reason for one in photos.skipped}
        return unread_sentence(of, {name: reasons.get(name, "not read") for name in names})
    return f"{len(names):,} of {counted(of, 'photo')} could not be read: {some(names)}" if names else ""


def some(names: Sequence[str]) -> str:
    """Returns the first names of a list, and how many more there are.

    Args:
        names: all of them.
    """
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return printable(", ".join(map(one_line, names[:NAMED]))) + more
