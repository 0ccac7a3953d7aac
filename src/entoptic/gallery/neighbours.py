"""Units that are alike: those that the same photos drive most."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entoptic.gallery.unit_pages import UnitPage
from entoptic.gallery.unit_photos import UnitPhotos

MOST = 6
"""Most similar units on a page."""
_LEAST_SHARED = 2


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A unit that is driven by the same photos as another.

    Attributes:
        page: of the unit.
        shared: how many of the other's strongest photos are among its own.
        of: how many strongest photos the other has.
    """

    page: UnitPage
    shared: int
    of: int


def similar_units(
    pages: Sequence[UnitPage], photos: Mapping[str, UnitPhotos | None]
) -> dict[str, tuple[Neighbour, ...]]:
    """Returns, by the name of its page, the units that share most of a unit's strongest photos, the nearest first.

    Args:
        pages: of the run.
        photos: of each page by its name.
    """
    photos_of = {
        page.name: frozenset(one.photo for one in found.strongest if one.photo)
        for page in pages
        if (found := photos.get(page.name)) is not None
    }
    page_of = {page.name: page for page in pages}
    place = {page.name: index for index, page in enumerate(pages)}
    names_by_photo: dict[str, list[str]] = defaultdict(list)
    for name, strongest in photos_of.items():
        for photo in strongest:
            names_by_photo[photo].append(name)
    found_by_name = {}
    for name, strongest in photos_of.items():
        shared = Counter(other for photo in strongest for other in names_by_photo[photo] if other != name)
        nearest = sorted(
            (other for other, count in shared.items() if count >= _LEAST_SHARED),
            key=lambda other: (-shared[other], abs(place[other] - place[name]), other),
        )
        found_by_name[name] = tuple(
            Neighbour(page=page_of[other], shared=shared[other], of=len(strongest)) for other in nearest[:MOST]
        )
    return found_by_name
