"""The real photos that drive a unit most and least, cut into disjoint sets of references and a query.

Photos are ranked from either end. The first 10·B of an end are cut into 10 bins of B by rank, each bin is shuffled, and set
i takes the i-th photo of each bin: all sets are equally strong. One bin gives the query, the others the references.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entoptic.errors import UserError
from entoptic.study.design import query_share

MOST_BATCHES = 20
LEAST_RANGE = 1e-8
"""Units whose scores differ by less over all photos are constant."""
_SHARE = 5
"""References and queries come from at most one photo in so many at either end."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A photo among a unit's strongest or weakest.

    Attributes:
        index: position in the photo set.
        score: the unit's score.
        rank: from the end, from 1.
    """

    index: int
    score: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class PhotoBatch:
    """References and a query of either end; no photo is in two of a unit's batches.

    Attributes:
        high: references that drive the unit.
        low: references that do not.
        high_query: a further photo that drives it.
        low_query: a further photo that does not.
    """

    high: tuple[Ranked, ...]
    low: tuple[Ranked, ...]
    high_query: Ranked
    low_query: Ranked


def photo_batches(
    ranked: Sequence[tuple[int, float]], *, references: int, batches: int | None, query: str, seed: object
) -> tuple[PhotoBatch, ...]:
    """Cuts ranked photos into batches.

    Args:
        ranked: (position, score) from strongest to weakest.
        references: on each side.
        batches: how many; None takes as many as a fifth of the photos fills from either end, at most 20.
        query: "extreme", "inner", or the share of photos beyond the query's rank.
        seed: of the shuffles.

    Raises:
        UserError: there are too few photos, or the unit's scores are all alike.
    """
    size, n = references + 1, len(ranked)
    number = batches if batches is not None else max(1, min(MOST_BATCHES, n // (_SHARE * size)))
    share = query_share(query)
    queries_from = round(share * n) if share is not None else 0
    needed = 2 * max(size * number, queries_from + number)
    if n < needed:
        raise UserError(
            f"{n} photos are too few: {references} references and a query from either end, {number} times, need {needed}; "
            "give --photos with more, or fewer --references"
        )
    if ranked[0][1] - ranked[-1][1] < LEAST_RANGE:
        raise UserError("its scores are the same on all photos")
    ends = {}
    for end, photos in (("high", ranked), ("low", list(reversed(ranked)))):
        draw = random.Random(f"{seed}|{end}")
        ranks = [Ranked(index=i, score=score, rank=r) for r, (i, score) in enumerate(photos, 1)]
        ends[end] = _cut(ranks, number, size, query, queries_from, draw)
    return tuple(
        PhotoBatch(
            high=ends["high"][i][:-1],
            low=ends["low"][i][:-1],
            high_query=ends["high"][i][-1],
            low_query=ends["low"][i][-1],
        )
        for i in range(number)
    )


def _cut(
    ranks: Sequence[Ranked], number: int, size: int, query: str, queries_from: int, draw: random.Random
) -> list[tuple[Ranked, ...]]:
    """Batches of one end, the query last."""
    if queries_from:
        taken = {one.rank for one in ranks[: (size - 1) * number]}
        bins = [list(ranks[b * number : (b + 1) * number]) for b in range(size - 1)]
        free = [one for one in ranks[queries_from:] if one.rank not in taken]
        bins.append(free[:number])
    else:
        bins = [list(ranks[b * number : (b + 1) * number]) for b in range(size)]
        bins.append(bins.pop(0 if query == "extreme" else size - 1))
    for one in bins:
        draw.shuffle(one)
    return [tuple(one[i] for one in bins) for i in range(number)]


def batches_of_units(
    scores: Mapping[str, Sequence[tuple[int, float]]], *, references: int, batches: int | None, query: str, seed: int
) -> tuple[dict[str, tuple[PhotoBatch, ...]], dict[str, str]]:
    """Returns the batches of every unit by name, and why there are none of some units.

    Args:
        scores: ranked photos of each unit, from strongest to weakest.
        references: on each side.
        batches: how many a unit; see `photo_batches`.
        query: see `photo_batches`.
        seed: of the shuffles.
    """
    found: dict[str, tuple[PhotoBatch, ...]] = {}
    reasons: dict[str, str] = {}
    for name, ranked in scores.items():
        try:
            found[name] = photo_batches(
                ranked, references=references, batches=batches, query=query, seed=f"{seed}|photos|{name}"
            )
        except UserError as error:
            reasons[name] = str(error)
    return found, reasons
