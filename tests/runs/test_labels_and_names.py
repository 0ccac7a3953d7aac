"""The same photos under other labels or other names: no picture of another class is taken for one, and no number for forged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import entoptic
from entoptic.errors import UserError
from entoptic.models.model import Model

QUICK = {"steps": 2, "n": 1, "verifiers": "", "device": "cpu", "progress": False, "context": False}


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy that may be renamed."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def exchange(folder: Path, one: str, other: str) -> None:
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


def test_pictures_of_a_class_are_not_taken_for_those_of_other_labels(tiny: Model, photos: Path, tmp_path: Path) -> None:
    asked = {"method": "vital,pixels", "photos": str(photos), "out": tmp_path / "run", **QUICK}
    run = entoptic.see(tiny, ["logits:0", "stage1:1"], **asked)
    before = {p.path: p.path.read_bytes() for p in run}
    exchange(photos, "circle", "square")
    with pytest.raises(
        UserError, match="was made from other photos of circle: the photos are the same, and their labels"
    ):
        entoptic.see(tiny, ["logits:0"], **asked)
    assert {path: path.read_bytes() for path in before} == before
    elsewhere = entoptic.see(tiny, ["logits:0"], **asked | {"out": tmp_path / "other"})
    names = {path.name for path in before if path.name.startswith("vital") and "logits-0" in str(path)}
    (made,) = (p for p in elsewhere if p.method == "vital")
    assert made.path.name in names, "the photos are the same"
    assert made.path.read_bytes() not in before.values()
    entoptic.see(tiny, ["stage1:1"], **asked)  # no class chooses its photos
    entoptic.see(tiny, ["logits:0"], **asked | {"method": "pixels"})
    exchange(photos, "circle", "square")
    again = entoptic.see(tiny, ["logits:0", "stage1:1"], **asked)
    assert {p.path: p.path.read_bytes() for p in again} == before


def test_labels_that_are_given_later_are_other_labels(tiny: Model, photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted(photos.rglob("*.png")):
        shutil.copy(file, flat / f"{file.parent.name}-{file.name}")
    asked = {"method": "vital", "out": tmp_path / "run", **QUICK}
    entoptic.see(tiny, ["logits:0"], photos=str(flat), **asked)
    with pytest.raises(UserError, match="their labels have changed"):
        entoptic.see(tiny, ["logits:0"], photos=str(photos), **asked)


def test_other_names_of_photos_are_no_difference(tiny: Model, photos: Path, tmp_path: Path) -> None:
    run = entoptic.see(tiny, ["stage1:1"], method="pixels", photos=str(photos), out=tmp_path / "run", **QUICK)
    assert entoptic.verify(run, model=tiny).ok
    for i, file in enumerate(sorted(photos.rglob("*.png"), reverse=True)):
        file.rename(file.with_name(f"photo-{i:03d}.png"))
    found = entoptic.verify(run, model=tiny, photos=str(photos))
    assert found.ok, found.drift
    assert any("in the order of their names, which have changed" in line for line in found.skipped)
    assert found.numbers


def test_a_picture_of_before_there_was_a_record_of_the_order_is_not_written_anew(
    tiny: Model, photos: Path, tmp_path: Path
) -> None:
    asked = {"method": "vital", "photos": str(photos), "out": tmp_path / "run", **QUICK}
    (picture,) = entoptic.see(tiny, ["logits:0"], **asked)
    sidecar = picture.path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    del record["measured_with"]["order"], record["measured_with"]["class_photos"], record["record_sha256"]
    sidecar.write_text(json.dumps(record))
    before = sidecar.read_bytes()
    entoptic.see(tiny, ["logits:0"], **asked)
    assert sidecar.read_bytes() == before
