"""Photos in Parquet files and Hugging Face datasets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from entoptic.errors import UserError
from entoptic.images import photo_tables
from entoptic.images.photo_records import Photo, Skipped
from entoptic.images.photos import Photos
from image_files import (
    BLUE,
    GREEN,
    IMAGE,
    RED,
    WHITE,
    cells_of,
    corners,
    encoded,
    noisy,
    parquet,
    pixel,
    plain,
    to_chw,
    write,
)

# -------------------------------------------------------------------------------------------- Parquet

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog, hound"], "_type": "ClassLabel"}}


@pytest.mark.parametrize("metadata", [{"features": FEATURES}, {"info": {"features": FEATURES}}])
def test_parquet_with_label_names(tmp_path: Path, metadata: Any) -> None:
    path = parquet(tmp_path / "t.parquet", cells_of(RED, GREEN, BLUE), metadata, label=[1, 0, -1])
    photos = Photos.open(path)
    assert list(photos) == [
        Photo("t.parquet#0", ("dog, hound", "dog", "hound")),
        Photo("t.parquet#1", ("cat",)),
        Photo("t.parquet#2"),
    ]
    for index, colour in ((2, BLUE), (0, RED), (1, GREEN)):
        image = photos.read(index)
        assert image is not None
        assert pixel(image, 3, 3) == colour


def test_parquet_with_other_columns(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        cells_of(RED, GREEN),
        label=[107, 3],
        wnid=["n1", None],
        name=["go-kart", None],
        class_index=pa.array([573, None], pa.int16()),
        extra=[[1], [2]],
    )
    assert list(Photos.open(path)) == [
        Photo("t.parquet#0", ("n1", "go-kart"), 573),
        Photo("t.parquet#1", ("3",)),  # the bare number where nothing else is known
    ]


def test_parquet_rows_without_sound_bytes_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "beside.png", plain(BLUE))
    cells = [
        {"bytes": None, "path": None},
        {"bytes": None, "path": "beside.png"},
        {"bytes": b"", "path": None},
        None,
        {"bytes": None, "path": "gone.png"},
    ]
    photos = Photos.open(parquet(tmp_path / "t.parquet", cells))  # type: ignore[arg-type]
    read = [photos.read(index) for index in range(5)]
    assert [image is not None for image in read] == [False, True, False, False, False]
    assert [skipped.name for skipped in photos.skipped] == [f"t.parquet#{row}" for row in (0, 2, 3, 4)]
    assert photos.skipped[3].reason == "No such file or directory"


def test_parquet_is_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [{"bytes": plain((n, 0, 0)), "path": None} for n in range(12)]
    path = parquet(tmp_path / "t.parquet", cells, rows=4)
    read: list[tuple[int, list[str]]] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: Any, group: int, columns: list[str], **options: Any) -> Any:
        read.append((group, columns))
        return original(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    monkeypatch.setattr(photo_tables, "_CACHED_ROW_GROUP_BYTES", 0)  # holds two row groups, the least
    photos = Photos.open(path)
    assert read == []
    values = [images[:, 0, 0, 0] * 255 for _, images in photos.batches(to_chw, 5, workers=1)]
    assert torch.cat(values).round().int().tolist() == list(range(12))
    assert read == [(0, ["image"]), (1, ["image"]), (2, ["image"])]
    assert len(photos._shared.store._cache) == 2  # type: ignore[attr-defined]
    for row in (7, 8, 7, 8):  # to and fro over a border, as two threads do
        photos.read(row)
    assert len(read) == 3


def test_parquet_errors(tmp_path: Path) -> None:
    pq.write_table(pa.table({"imag": ["a"], "label": [1]}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r'no image column "image" \(columns: imag, label\); did you mean "imag"'):
        Photos.open(tmp_path / "none.parquet")
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"not struct\{bytes, path\}"):
        Photos.open(tmp_path / "text.parquet")
    both = {"a": pa.array(cells_of(RED), IMAGE), "b": pa.array(cells_of(RED), IMAGE)}
    pq.write_table(pa.table(both), tmp_path / "both.parquet")
    with pytest.raises(UserError, match=r"several image columns \(a, b\)"):
        Photos.open(tmp_path / "both.parquet")
    pq.write_table(pa.table({"img": both["a"]}), tmp_path / "img.parquet")
    assert Photos.open(tmp_path / "img.parquet").read(0) is not None
    parquet(tmp_path / "empty.parquet", [])
    with pytest.raises(UserError, match="no rows"):
        Photos.open(tmp_path / "empty.parquet")
    write(tmp_path / "cut.parquet", (tmp_path / "img.parquet").read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        Photos.open(tmp_path / "cut.parquet")
    with pytest.warns(UserWarning, match=r"both\.parquet.*cut\.parquet"):
        photos = Photos.open(tmp_path)  # shards: what is no use is left out
    assert [photo.name for photo in photos] == ["img.parquet#0"]
    assert len(photos.skipped) == 5
    (tmp_path / "img.parquet").unlink()
    with pytest.raises(UserError, match=r"none of the 5 Parquet files in .* can be used: .*both\.parquet"):
        Photos.open(tmp_path)


# --------------------------------------------------------------------------------------------- shards


def test_a_folder_of_shards(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet", cells_of(RED, GREEN, BLUE, WHITE), label=["a", "b", "c", "a"])
    data = tmp_path / "data"
    data.mkdir()
    parquet(data / "train-00000-of-00003.parquet", cells_of(RED, GREEN), label=["a", "b"])
    parquet(data / "train-00001-of-00003.parquet", cells_of(BLUE), label=["c"])
    parquet(data / "train-00002-of-00003.parquet", cells_of(WHITE), label=["a"])
    for source in (data, str(data / "train-*.parquet"), str(tmp_path / "d*/*.parquet")):
        photos = Photos.open(source)
        assert [photo.name.rpartition("/")[2] for photo in photos] == [
            "train-00000-of-00003.parquet#0", "train-00000-of-00003.parquet#1",
            "train-00001-of-00003.parquet#0", "train-00002-of-00003.parquet#0",
        ]  # fmt: skip
        assert [photo.labels for photo in photos] == [("a",), ("b",), ("c",), ("a",)]
        images = [photos.read(index) for index in range(4)]
        assert [pixel(image, 1, 1) for image in images if image is not None] == [RED, GREEN, BLUE, WHITE]
        assert photos.fingerprint() == Photos.open(whole).fingerprint()
        assert photos.skipped == []
        assert photos.path(0) is None
        assert len({photos.stamp(index) for index in range(4)}) == 4
    (data / "train-00001-of-00003.parquet").unlink()
    with pytest.warns(UserWarning, match="train-00001-of-00003"):
        photos = Photos.open(data)
    assert photos.skipped == [Skipped("train-00001-of-00003.parquet", "is missing among the shards")]
    parquet(data / "test-00000-of-00001.parquet", cells_of(BLUE))
    with pytest.raises(
        UserError, match=r'several splits \("test", "train"\); open one of them, say ".*test-\*\.parquet"'
    ):
        Photos.open(data)
    assert len(Photos.open(str(data / "test-*.parquet"))) == 1


def test_shards_keep_few_row_groups(tmp_path: Path) -> None:
    for n in range(4):
        parquet(tmp_path / f"{n}.parquet", cells_of(RED, GREEN))
    photos = Photos.open(tmp_path)
    assert [index for kept, _ in photos.batches(to_chw, 3) for index in kept] == list(range(8))
    stores = photos._shared.store._stores  # type: ignore[attr-defined]
    assert sum(bool(store._cache) for store in stores) <= 2


def test_a_thread_that_reads_late_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        parquet(tmp_path / f"{n}.parquet", cells_of(RED, GREEN))
    shards: Any = Photos.open(tmp_path)._shared.store
    first, read = shards._stores[0], shards._stores[0].encoded

    def late(row: int) -> bytes:
        monkeypatch.setattr(first, "encoded", read)
        for later in (2, 4, 6):  # of the other files, by other threads
            shards.encoded(later)
        return bytes(read(row))

    monkeypatch.setattr(first, "encoded", late)
    shards.encoded(0)
    assert not first._cache
    assert sum(bool(store._cache) for store in shards._stores) == 2


def test_a_damaged_row_group_costs_only_its_photos(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(noisy(n, 32)), "path": None} for n in range(4)]
    path = parquet(tmp_path / "t.parquet", cells, rows=2)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))
    photos = Photos.open(path)
    assert [index for kept, _ in photos.batches(to_chw, 2) for index in kept] == [2, 3]
    assert [skipped.name for skipped in photos.skipped] == ["t.parquet#0", "t.parquet#1"]


# ------------------------------------------------------------------------------- Hugging Face datasets


def test_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(corners(), "PNG", exif=exif)
    cells = [*cells_of(RED), {"bytes": turned, "path": None}, {"bytes": b"broken", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    decoded = datasets.Dataset.from_dict({"image": cells, "label": [1, 0, 1]}, features=features, split="train")
    raw = decoded.cast_column("image", datasets.Image(decode=False))
    for dataset in (decoded, raw, decoded.with_format("torch")):
        photos = Photos.open(dataset)
        assert list(photos) == [
            Photo("train#0", ("dog",)),
            Photo("train#1", ("cat",)),
            Photo("train#2", ("dog",)),
        ]
        image = photos.read(1)
        assert image is not None
        assert image.size == (8, 16)
        assert pixel(image, 0, 0) == BLUE  # turned once, not twice
        assert photos.sha256(1) == hashlib.sha256(turned).hexdigest()
        assert photos.read(2) is None
        assert photos.skipped == [Skipped("train#2", "not an image in a known format")]
    path = tmp_path / "hub.parquet"
    decoded.to_parquet(path)  # what the hub's own writer makes
    assert [photo.labels for photo in Photos.open(path)] == [("dog",), ("cat",), ("dog",)]
    assert Photos.open(path).fingerprint() == Photos.open(decoded).fingerprint()
    with pytest.raises(UserError, match=r'has splits \(train\); give one, say dataset\["train"\]'):
        Photos.open(datasets.DatasetDict({"train": decoded}))
    with pytest.raises(UserError, match="streaming"):
        Photos.open(decoded.to_iterable_dataset())
    with pytest.raises(UserError, match=r'the dataset has no image column "image" \(columns: label\)'):
        Photos.open(decoded.remove_columns("image"))


class Decoded:
    """A table that only hands out decoded pictures; row 1 cannot be decoded."""

    column_names = ("image", "label")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return ["cat", "dog"]
        if key == 1:
            raise RuntimeError("decoder gave up")
        return {"image": Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "label": "cat"}


def test_a_dataset_of_decoded_pictures() -> None:
    photos = Photos.open(Decoded())
    image = photos.read(0)
    assert image is not None
    assert pixel(image, 0, 0) == WHITE
    assert photos.read(1) is None
    assert photos.skipped == [Skipped("row#1", "row not readable: decoder gave up")]
    assert len(photos.sha256(0)) == 64
