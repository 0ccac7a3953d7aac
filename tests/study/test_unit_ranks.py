"""References and queries from the ends of a unit's scores."""

from __future__ import annotations

import pytest

from entoptic.errors import UserError
from entoptic.study.unit_ranks import PhotoBatch, Ranked, batches_of_units, photo_batches

RANKED = [(1000 + i, 100.0 - i) for i in range(100)]


def cut(**more: object) -> tuple[PhotoBatch, ...]:
    given = {"references": 4, "batches": 5, "query": "extreme", "seed": 0} | more
    return photo_batches(RANKED, **given)  # type: ignore[arg-type]


def members(batch: PhotoBatch, end: str) -> list[Ranked]:
    return [*getattr(batch, end), getattr(batch, f"{end}_query")]


@pytest.mark.parametrize("query", ["extreme", "inner", "0.3"])
@pytest.mark.parametrize("end", ["high", "low"])
def test_batches_share_no_photo_and_take_one_of_each_bin(query: str, end: str) -> None:
    batches = cut(query=query)
    used = [one.index for batch in batches for side in ("high", "low") for one in members(batch, side)]
    assert len(used) == len(set(used)) == 5 * 2 * 5
    for batch in batches:
        ranks = [one.rank for one in getattr(batch, end)]
        bins = [(rank - 1) // 5 for rank in ranks]
        assert bins == ([1, 2, 3, 4] if query == "extreme" else [0, 1, 2, 3])
        own = getattr(batch, f"{end}_query").rank
        assert {"extreme": own <= 5, "inner": 20 < own <= 25, "0.3": 30 < own <= 35}[query]


def test_stated_ranks_and_scores_are_the_actual_ones() -> None:
    for batch in cut():
        for one in members(batch, "high"):
            assert RANKED[one.rank - 1] == (one.index, one.score)
        for one in members(batch, "low"):
            assert RANKED[-one.rank] == (one.index, one.score)


def test_as_many_batches_as_a_fifth_of_the_photos_fill() -> None:
    assert len(cut(batches=None)) == 4
    assert len(cut(batches=None, references=9)) == 2


def test_the_seed_decides() -> None:
    assert cut() == cut()
    assert cut() != cut(seed=1)


@pytest.mark.parametrize(
    ("ranked", "more", "said"),
    [
        (RANKED[:49], {}, "49 photos are too few"),
        (RANKED[:60], {"query": "0.45"}, "too few"),
        ([(i, 1.0) for i in range(100)], {}, "the same on all photos"),
    ],
)
def test_what_cannot_be_cut_is_refused(ranked: list[tuple[int, float]], more: dict[str, object], said: str) -> None:
    given = {"references": 4, "batches": 5, "query": "extreme", "seed": 0} | more
    with pytest.raises(UserError, match=said):
        photo_batches(ranked, **given)  # type: ignore[arg-type]
    found, reasons = batches_of_units({"u": ranked}, **given)  # type: ignore[arg-type]
    assert not found
    assert said in reasons["u"]
