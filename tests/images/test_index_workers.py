"""An index that two processes read is the one of a single process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entoptic.errors import UserError
from entoptic.images import build_index
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.workers import frames
from entoptic.workers.count import Workers


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of an index by file."""
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"
    }


@pytest.mark.slow
def test_two_workers_make_the_index_of_one_process(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_index, "BLOCK", 8)
    told: list[Any] = []
    asked: dict[str, Any] = {"layers": ["stage1", "logits"], "reservoir": 5}
    one = build_index.build_index(tiny, photo_folder, out=tmp_path / "one", **asked)
    two = build_index.build_index(
        tiny, photo_folder, out=tmp_path / "two", workers=Workers(count=2, threads=1), **asked,
        progress=lambda *how: told.append(how),
    )  # fmt: skip
    assert one.whole
    assert files(one.path) == files(two.path)
    assert ("indexing photos", len(Photos.open(photo_folder)), len(Photos.open(photo_folder))) in told


def test_a_wrong_number_of_workers_is_refused_before_anything_is_read(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers is a number"):
        build_index.build_index(tiny, "nowhere", "logits", out=tmp_path, workers="many")


@pytest.mark.parametrize("kind", ["folder", "zip", "arrays"])
def test_photos_can_be_sent_to_another_process(photo_folder: Path, tmp_path: Path, kind: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", photo_folder))
    arrays = [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 100, 200)]
    photos = Photos.open({"folder": photo_folder, "zip": str(archive), "arrays": arrays}[kind]).subset([2, 0])
    again = frames.unpacked(frames.packed(photos))
    assert again.source == photos.source
    assert [again.sha256(i) for i in range(2)] == [photos.sha256(i) for i in range(2)]


def test_other_photos_at_the_same_place_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    sent = frames.packed(Photos.open(folder))
    next(folder.rglob("*.png")).rename(folder / "new.png")
    with pytest.raises(UserError, match="are not those that were opened before"):
        frames.unpacked(sent)
