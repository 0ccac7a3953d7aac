"""Photos of a set that are not a unit's own: what its pictures are told apart from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.images.references import References
    from entoptic.units.unit import Unit

LEAST_OTHERS = 16
"""Photos below which their mean says more about each of them than about the set."""


def weaker_photos(references: References, unit: Unit, count: int) -> list[int]:
    """Chooses up to `count` photos of the half that drives the unit less, the same for everybody (by content hash).

    An index holds the median, so that a few photos are scored, not all.

    Args:
        references: with photos.
        unit: the unit.
        count: largest number of photos.

    Returns:
        Positions in the set, in its order.
    """
    photos, index, model = references.photos, references.index, references.model
    assert photos is not None
    arbitrary = sorted(range(len(photos)), key=photos.sha256)
    if index is None or unit not in index:
        ranked = references.scores([unit]).ranked(unit)
        # Of a set most of which cannot be read, that is half of what can.
        weak = {position for position, _ in ranked[len(photos) // 2 :] or ranked[len(ranked) // 2 :]}
        return sorted([position for position in arbitrary if position in weak][:count])
    median = float(index.quantiles(unit)[100])
    found: list[int] = []
    with torch.no_grad():
        for positions, images in photos.batches(model.card.prepare, references.batch_size, arbitrary[: 2 * count + 16]):
            scores = unit.read(model.read(images.to(model.device), [unit.tap])[unit.tap]).tolist()
            found += [position for position, score in zip(positions, scores) if score <= median]
    rank = {position: number for number, position in enumerate(arbitrary)}
    return sorted(sorted(found, key=rank.__getitem__)[:count])


def quiet_photos(references: References, unit: Unit, count: int) -> tuple[list[int], str]:
    """Returns up to `count` photos that do not drive the unit (see `weaker_photos`), and which they are in words."""
    assert references.photos is not None
    found = weaker_photos(references, unit, count)
    return found, f"{len(found)} photos of {references.photos.source} that do not drive {unit}"


def other_photos(references: References, unit: Unit, used: int, count: int) -> tuple[list[int], str, str]:
    """Chooses photos of the set that a unit's own are told apart from; none of its own are among them if there are others.

    For a unit with a logit in it they are an arbitrary choice from the photos that are not of its class; for any other unit from
    the half that drives it less. The choice is the same for everybody (by content hash).

    Args:
        references: with photos.
        unit: the unit.
        used: number of reference photos asked for its own target.
        count: largest number of photos.

    Returns:
        Positions in the set; which photos they are, in words; and what is amiss where there are fewer than `LEAST_OTHERS`, "" else.
    """
    photos = references.photos
    assert photos is not None
    own = {*references.choose(unit, used)[0], *(references.class_photos(unit) or ())}
    is_class = any(part.kind == "logit" for _, part in unit.terms)
    if is_class:
        unread = {one.name for one in photos.skipped}  # the set was scored: these could not be read
        every = sorted((i for i, photo in enumerate(photos) if photo.name not in unread), key=photos.sha256)
        kind = f"are not of {unit.label or unit}" if references.class_photos(unit) else f"are not those of {unit}"
    else:
        every = sorted(weaker_photos(references, unit, count + len(own)), key=photos.sha256)
        kind = f"do not drive {unit}"
    found = sorted([position for position in every if position not in own][:count])
    few = "" if len(found) >= min(LEAST_OTHERS, count) else _shortage(photos.source, found)
    if not found:
        found, kind = sorted(every[:count]), "are there" if is_class else f"drive {unit} less"
        kind = f"{kind}, its own among them"
    return found, f"{counted(len(found), 'photo')} of {photos.source} that {kind}", few


def _shortage(source: str, found: list[int]) -> str:
    held = f"no more than {counted(len(found), 'photo')}" if found else "no photos"
    return f"{source} holds {held} beside the unit's own"
