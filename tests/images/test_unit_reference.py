"""The record that metrics receive: each part is computed when it is read, once, and few records are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entoptic.images.photo_scores import RealScores
from entoptic.images.photos import Photos
from entoptic.images.references import KEPT_UNITS, References
from entoptic.images.unit_reference import (
    ARBITRARY,
    STRONGEST,
    ExemplarPhotos,
    LayerMoments,
    UnitReference,
    evenly_spaced,
)
from entoptic.models.model import Model
from entoptic.units.unit import bind


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of photos of each pass over them."""
    found, before = list[int](), Photos.batches

    def batches(photos: Photos, *args: Any, **more: Any) -> Any:
        found.append(len(args[2]) if len(args) > 2 else len(photos))
        return before(photos, *args, **more)

    monkeypatch.setattr(Photos, "batches", batches)
    return found


def test_each_part_is_computed_when_it_is_read_and_once(tiny: Model, photo_folder: Path, passes: list[int]) -> None:
    references = References(tiny, Photos.open(photo_folder))
    (unit,) = bind(tiny, "stage1:3")
    record = references.unit_reference(unit)
    assert passes == []
    assert isinstance(record.real_scores, RealScores)
    assert passes == [40]
    assert isinstance(record.exemplars, ExemplarPhotos)
    assert passes[1:] == [STRONGEST, len(record.exemplars.arbitrary)]
    assert 0 < len(record.exemplars.arbitrary) <= ARBITRARY
    assert isinstance(record.moments, LayerMoments)
    assert record.moments.mean.shape == record.moments.sd.shape == (12,)
    assert len(passes) == 4
    again = references.unit_reference(bind(tiny, "stage1:3")[0])
    assert again is record
    assert again.real_scores is record.real_scores
    assert len(passes) == 4


def test_the_exemplars_are_the_strongest_photos_in_their_order(tiny: Model, photo_folder: Path) -> None:
    references = References(tiny, Photos.open(photo_folder))
    (unit,) = bind(tiny, "stage1:3")
    exemplars = references.unit_reference(unit).exemplars
    assert isinstance(exemplars, ExemplarPhotos)
    best = [score for _, score in references.scores([unit]).ranked(unit)][:STRONGEST]
    assert unit.score(exemplars.strongest).tolist() == pytest.approx(best, abs=1e-5)


def test_few_records_are_kept(tiny: Model, photo_folder: Path) -> None:
    references = References(tiny, Photos.open(photo_folder))
    units = bind(tiny, f"stage1:0-{KEPT_UNITS}")
    records = [references.unit_reference(unit) for unit in units]
    assert references.unit_reference(units[-1]) is records[-1]
    assert references.unit_reference(units[0]) is not records[0]


def test_what_depends_on_the_record_is_computed_once(tiny: Model) -> None:
    calls = []

    def compute(reference: UnitReference) -> str:
        calls.append(reference)
        return str(reference.unit)

    first, second = (UnitReference(unit=unit) for unit in bind(tiny, "stage1:0-1"))
    assert [first.once(compute), first.once(compute), second.once(compute)] == ["stage1:0", "stage1:0", "stage1:1"]
    assert calls == [first, second]


def test_what_is_not_there_is_a_reason(tiny: Model) -> None:
    (unit,) = bind(tiny, "stage1:3")
    for record in (UnitReference(unit=unit), References(tiny).unit_reference(unit)):
        assert record.real_scores == record.exemplars == record.moments == "no photos were given"


@pytest.mark.parametrize(("total", "count", "expected"), [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (10, 2, [2, 7])])
def test_evenly_spaced_positions(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(total, count) == expected
