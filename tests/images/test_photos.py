"""Photo sets: every source, every kind of pixel, every kind of damage."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from entoptic.errors import UserError
from entoptic.images import photo_tables
from entoptic.images.decode import decode
from entoptic.images.photo_records import Photo, PhotoSource, Skipped
from entoptic.images.photos import Photos

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Pixel = tuple[int, int, int]


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(colour: Pixel, size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(Image.new("RGB", size, colour))


def noisy(seed: int = 0, size: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def to_chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((4, 4))).copy()).permute(2, 0, 1).float() / 255


def pixel(image: Image.Image, x: int, y: int) -> Pixel:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    assert len(value) == 3
    return value[0], value[1], value[2]


# ---------------------------------------------------------------------------------------------- decoding


def corners() -> Image.Image:
    """16 x 8: red, green above blue, white."""
    image = Image.new("RGB", (16, 8))
    for colour, box in zip(
        (RED, GREEN, BLUE, WHITE), ((0, 0, 8, 4), (8, 0, 16, 4), (0, 4, 8, 8), (8, 4, 16, 8)), strict=True
    ):
        image.paste(colour, box)
    return image


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "clockwise_from_top_left"),
    [
        (1, (RED, GREEN, WHITE, BLUE)),
        (2, (GREEN, RED, BLUE, WHITE)),
        (3, (WHITE, BLUE, RED, GREEN)),
        (4, (BLUE, WHITE, GREEN, RED)),
        (5, (RED, BLUE, WHITE, GREEN)),  # mirrored along the main diagonal
        (6, (BLUE, RED, GREEN, WHITE)),  # a quarter turn clockwise makes it upright
        (7, (WHITE, GREEN, RED, BLUE)),  # mirrored along the other diagonal
        (8, (GREEN, WHITE, BLUE, RED)),
        (99, (RED, GREEN, WHITE, BLUE)),  # not an orientation: left as stored
    ],
)
def test_exif_orientation(format: str, orientation: int, clockwise_from_top_left: tuple[Pixel, ...]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    image = decode(encoded(corners(), format, exif=exif, **options))
    assert image.size == ((8, 16) if 5 <= orientation <= 8 else (16, 8))
    right, bottom = image.width - 2, image.height - 2
    found = [pixel(image, x, y) for x, y in ((1, 1), (right, 1), (right, bottom), (1, bottom))]
    assert np.abs(np.subtract(found, clockwise_from_top_left)).max() <= (4 if format == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_photo() -> None:
    data = encoded(Image.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage")
    assert pixel(decode(data), 0, 0) == RED


def grey(values: list[int], dtype: type) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def palette(transparent: int | None) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return encoded(image, "PNG", **({} if transparent is None else {"transparency": transparent}))


def from_pixels(mode: str, values: list[Any], format: str = "PNG", **options: Any) -> bytes:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return encoded(image, format, **options)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(from_pixels("L", [0, 7, 255]), [(0,) * 3, (7,) * 3, WHITE], id="L"),
        pytest.param(from_pixels("1", [0, 255]), [(0,) * 3, WHITE], id="1"),
        pytest.param(from_pixels("RGB", [RED, (1, 2, 3)]), [RED, (1, 2, 3)], id="RGB"),
        pytest.param(
            encoded(grey([0, 257, 25700, 25900, 65535], np.uint16)),
            [(0,) * 3, (1,) * 3, (100,) * 3, (101,) * 3, WHITE],
            id="16-bit PNG",
        ),
        pytest.param(encoded(grey([257, 65535], np.uint16), "TIFF"), [(1,) * 3, WHITE], id="16-bit TIFF"),
        pytest.param(b"P5 2 1 65535\n\x01\x01\xff\xff", [(1,) * 3, WHITE], id="16-bit PGM (mode I)"),
        pytest.param(encoded(grey([0, 51400], np.int32), "TIFF"), [(0,) * 3, (200,) * 3], id="I"),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 0.2, 1]], np.float32)), "TIFF"),
            [(0,) * 3, (51,) * 3, WHITE],
            id="F to 1",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[3, 200]], np.float32)), "TIFF"),
            [(3,) * 3, (200,) * 3],
            id="F to 255",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[257, 51400]], np.float32)), "TIFF"),
            [(1,) * 3, (200,) * 3],
            id="F to 65535",
        ),
        pytest.param(palette(None), [RED, BLUE], id="P"),
        pytest.param(palette(1), [RED, WHITE], id="P with transparency"),
        pytest.param(from_pixels("RGB", [RED, BLUE], transparency=BLUE), [RED, WHITE], id="RGB with transparency"),
        pytest.param(from_pixels("L", [9, 7], transparency=7), [(9,) * 3, WHITE], id="L with transparency"),
        pytest.param(
            from_pixels("RGBA", [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]),
            [RED, WHITE, (204,) * 3],
            id="RGBA",
        ),
        pytest.param(from_pixels("LA", [(7, 255), (7, 0), (0, 51)]), [(7,) * 3, WHITE, (204,) * 3], id="LA"),
        pytest.param(
            from_pixels("CMYK", [(0, 255, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)], "TIFF"),
            [RED, WHITE, (0,) * 3],
            id="CMYK TIFF",
        ),
    ],
)
def test_every_kind_of_pixel(data: bytes, expected: list[Pixel]) -> None:
    image = decode(data)
    assert image.mode == "RGB"
    assert [pixel(image, x, 0) for x in range(image.width)] == expected


def test_cmyk_jpeg_with_adobes_inversion() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    data = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in data  # the file holds inverted values and says so
    assert np.abs(np.subtract(pixel(decode(data), 8, 8), RED)).max() <= 3


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
        assert pixel(decode(data), 4, 4) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(format: str, kept: float) -> None:
    data = encoded(noisy(), format)
    assert decode(data).size == (96, 96)
    with pytest.raises(ValueError, match=r"damaged image|not an image"):
        decode(data[: int(len(data) * kept)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"just some text, called a photo", "not an image"),
        (b"<html><body>404</body></html>", "not an image"),
        (encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), "not finite"),
        (encoded(Image.fromarray(np.array([[0, 1e9]], np.float32)), "TIFF"), "0 to 65535"),
        (encoded(grey([0, -4], np.int32), "TIFF"), "0 to 65535"),
    ],
)
def test_unusable_bytes_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        decode(data)
    assert len(str(caught.value)) < 160
    assert "0x" not in str(caught.value)  # no object addresses


def test_a_flipped_byte_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(noisy()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="damaged image"):
        decode(bytes(data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [1000, 500, 10])  # Pillow itself only warns up to twice the limit
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    data = plain(RED, (32, 32))
    assert decode(data).size == (32, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"more than {limit} pixels"):
        decode(data)


# --------------------------------------------------------------------------------------------- folders


def test_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "n02/b.PNG", plain(GREEN))
    write(tmp_path / "n02/a.png", plain(RED))
    write(tmp_path / "n01/z.JPeG", encoded(Image.new("RGB", (8, 8), BLUE), "JPEG"))
    write(tmp_path / "n01/.hidden.png", plain(BLUE))
    write(tmp_path / "n01/notes.txt", b"no photo")
    write(tmp_path / ".cache/c.png", plain(BLUE))
    photos = Photos.open(tmp_path)
    assert list(photos) == [
        Photo("n01/z.JPeG", ("n01",)),
        Photo("n02/a.png", ("n02",)),
        Photo("n02/b.PNG", ("n02",)),
    ]
    assert photos.source == str(tmp_path)
    assert photos.classes() == {"n01": 1, "n02": 2}
    assert photos.of_class(["N02"]) == [1, 2]
    image = photos.read(1)
    assert image is not None
    assert pixel(image, 0, 0) == RED
    assert photos[-1].name == "n02/b.PNG"
    with pytest.raises(IndexError):
        photos[3]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "JPG"])
def test_every_extension_is_found_and_read(tmp_path: Path, extension: str) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / f"a.{extension}")
    photos = Photos.open(str(tmp_path))
    assert [photo.name for photo in photos] == [f"a.{extension}"]
    assert photos.read(0) is not None


def test_a_tree_of_splits_is_not_guessed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "cat/a.png", plain(RED))
    with pytest.raises(UserError, match=r'has folders "train", "val" that hold class folders.*train"$'):
        Photos.open(tmp_path)
    assert len(Photos.open(tmp_path / "val")) == 1


def test_flat_folder_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "b.png", plain(RED))
    write(tmp_path / "a.png", plain(RED))
    photos = Photos.open(tmp_path)
    assert list(photos) == [Photo("a.png"), Photo("b.png")]
    assert photos.classes() == {}
    assert photos.of_class(["a"], class_index=0) == []


def test_flat_folder_with_labels(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "in/d.png", "in/unnamed.png"):
        write(tmp_path / name, plain(RED))
    write(
        tmp_path / "labels.csv",
        b"\xef\xbb\xbfFile,class_index,wnid,name\r\n"
        b'c.png,7,n07,"cock, rooster"\r\n'
        b"a.png,,,hen\r\n"
        b"gone.png,7,n07,cock\r\n"
        b"in/d.png,9,n09,\r\n"
        b"a.png,8,,chicken\r\n",
    )
    photos = Photos.open(tmp_path)
    assert list(photos) == [
        Photo("a.png", ("hen", "chicken"), 8),
        Photo("b.png"),
        Photo("c.png", ("n07", "cock, rooster", "cock", "rooster"), 7),
        Photo("in/d.png", ("n09",), 9),
    ]
    assert photos.skipped == [Skipped("gone.png", "named in labels.csv but does not exist")]
    assert photos.classes() == {"hen": 1, "n07": 1, "n09": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "filename,label\na.png,x\n",
            r'no column "file" \(columns: filename, label\); did you mean "filename"',
        ),
        ("", r'no column "file" \(columns: none\)'),
        ("file,label\nb.png,x\nc.png,x\n", r"none of the 2 files .* exist"),
        ("file,class_index\na.png,1.5\n", r'class_index "1.5" of labels.csv line 2 is not a whole number'),
        ("file,class_index\na.png,-1\n", "not a whole number"),
        ("file,class_index\na.png,inf\n", "not a whole number"),
        ("file,name\na.png,tench, Tinca tinca\n", r"line 2 has 3 cells for 2 columns"),
        ("file,name\na.png,\udcff\n", "not a readable table"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, table: str, message: str) -> None:
    write(tmp_path / "a.png", plain(RED))
    write(tmp_path / "labels.csv", table.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        Photos.open(tmp_path)


def test_errors_of_paths(tmp_path: Path) -> None:
    write(tmp_path / "photos/notes.txt", b"text")
    with pytest.raises(UserError, match=r'"photo" does not exist in .*; did you mean "photos"\?'):
        Photos.open(tmp_path / "photo")
    with pytest.raises(UserError, match=r'"fotos" does not exist .* did you mean "photos"'):
        Photos.open(tmp_path / "fotos" / "train")
    with pytest.raises(
        UserError, match=r"no photos in .*looked for \.jpg \.jpeg \.png \.webp \.bmp \.tif \.tiff \.gif"
    ):
        Photos.open(tmp_path / "photos")
    with pytest.raises(UserError, match="neither a folder, a Parquet file"):
        Photos.open(tmp_path / "photos/notes.txt")
    with pytest.raises(UserError, match="empty path"):
        Photos.open("")
    with pytest.raises(UserError, match="given as int"):
        Photos.open(3)


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root, whom no mode bits stop, runs this test too
    with pytest.raises(UserError, match=r"cannot be opened: Permission denied"):
        Photos.open(tmp_path)


# ---------------------------------------------------------------------------------------------- lists


def test_a_list_of_files(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.png", plain(RED)), write(tmp_path / "x/b.dat", plain(BLUE))
    photos = Photos.open([b, str(a), a, tmp_path / "gone.png"])
    assert [photo.name for photo in photos] == [a.as_posix(), b.as_posix()]
    assert photos.skipped == [Skipped((tmp_path / "gone.png").as_posix(), "does not exist")]
    image = photos.read(1)
    assert image is not None
    assert pixel(image, 0, 0) == BLUE
    assert [photo.name for photo in Photos.open(a)] == ["a.png"]
    with pytest.raises(UserError, match=r'none of the 1 photos given is a file.*did you mean "a.png"'):
        Photos.open([tmp_path / "aa.png"])
    with pytest.raises(UserError, match="is a folder"):
        Photos.open([tmp_path])
    with pytest.raises(UserError, match="empty list"):
        Photos.open([])
    with pytest.raises(UserError, match="it holds int"):
        Photos.open([1])


# -------------------------------------------------------------------------------------------- Parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog, hound"], "_type": "ClassLabel"}}


def parquet(path: Path, cells: list[dict[str, Any]], metadata: Any = None, rows: int = 2, **columns: Any) -> Path:
    table = pa.table({"image": pa.array(cells, IMAGE), **columns})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=rows)
    return path


def cells_of(*colours: Pixel) -> list[dict[str, Any]]:
    return [{"bytes": plain(colour), "path": f"{n}.png"} for n, colour in enumerate(colours)]


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
    with pytest.raises(UserError, match=r"holds Parquet files, no images; open one of them, say .*both\.parquet"):
        Photos.open(tmp_path)


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


# ------------------------------------------------------------------------------------------- contents


@pytest.fixture
def labelled(tmp_path: Path) -> Photos:
    rows = [
        ("a.png", 639, "n1", "maillot, tank suit"),
        ("b.png", 638, "n2", "maillot"),
        ("c.png", 207, "n3", "golden_retriever"),
        ("d.png", 5, "", ""),
    ]
    for name, *_ in rows:
        write(tmp_path / name, plain(RED))
    body = "".join(f'{file},{index},{wnid},"{name}"\n' for file, index, wnid, name in rows)
    write(tmp_path / "labels.csv", ("file,class_index,wnid,name\n" + body).encode())
    return Photos.open(tmp_path)


@pytest.mark.parametrize(
    ("identifiers", "class_index", "expected"),
    [
        (["n1", "maillot"], None, [0]),  # the first identifier that finds photos decides
        (["n9", "MAILLOT"], None, [1]),  # a whole label goes before a synonym
        (["Tank Suit"], None, [0]),
        (["golden retriever"], None, [2]),
        (["golden retriever, goldie"], None, [2]),
        (["goldie, Golden Retriever"], None, [2]),
        ("n3", None, [2]),
        (["n9"], 5, [3]),
        (["n3"], 5, [2]),
        (["n9"], 6, []),
        ([], 0, []),
        ([], None, []),
    ],
)
def test_of_class(labelled: Photos, identifiers: list[str], class_index: int | None, expected: list[int]) -> None:
    assert labelled.of_class(identifiers, class_index) == expected


def test_of_class_counts_within_a_subset(labelled: Photos) -> None:
    assert labelled.subset([3, 2, 0]).of_class(["n3"]) == [1]
    assert labelled.subset([3]).of_class(["n3"]) == []


def test_stamps_change_with_the_file_and_need_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", plain(RED))
    write(tmp_path / "b.png", plain(RED))
    photos = Photos.open(tmp_path)
    before = photos.stamp(0)
    assert before is not None
    assert before != photos.stamp(1)  # names count
    assert photos.subset([1, 0]).stamp(1) == before
    os.utime(path, ns=(0, 0))
    assert photos.stamp(0) == f"a.png|{len(plain(RED))}|0"
    path.unlink()
    assert photos.stamp(0) is None
    table = Photos.open(parquet(tmp_path / "t.parquet", cells_of(RED, GREEN)))
    assert len({table.stamp(0), table.stamp(1), None}) == 3


def test_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", plain(RED))
    write(tmp_path / "b.png", plain(BLUE))
    photos = Photos.open(tmp_path)
    expected = hashlib.sha256(plain(RED)).hexdigest()
    assert photos.sha256(0) == expected
    path.unlink()
    assert photos.sha256(0) == expected  # remembered
    assert photos.subset([1, 0]).sha256(1) == expected  # also by a subset
    assert photos.fingerprint([0]) != photos.fingerprint([1]) != photos.fingerprint()
    later = Photos.open([tmp_path / "b.png"])
    assert later.fingerprint() == photos.fingerprint([1])  # names do not count
    (tmp_path / "b.png").unlink()
    reopened = Photos(later.source, PhotoSource(later._shared.store, later._shared.photos), [0])
    assert reopened.sha256(0) == hashlib.sha256(b"").hexdigest()
    assert [skipped.reason for skipped in reopened.skipped] == ["No such file or directory"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=6), min_size=1, max_size=6), st.randoms(), st.data())
def test_fingerprint_depends_on_contents_only(contents: list[bytes], random: Any, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def fingerprint(files: list[bytes], indices: list[int] | None = None) -> str:
            for n, content in enumerate(files):
                write(Path(folder) / f"{n}.png", content)
            return Photos.open(folder).fingerprint(indices)

        before = fingerprint(contents)
        order = list(range(len(contents)))
        random.shuffle(order)
        assert fingerprint(contents, order) == before
        assert fingerprint([contents[n] for n in order]) == before
        changed = data.draw(st.integers(0, len(contents) - 1))
        other = [*contents]
        other[changed] = other[changed] + b"!"
        assert fingerprint(other) != before
        assert len(contents) == 1 or fingerprint(contents, order[1:]) != before


# -------------------------------------------------------------------------------------------- batches


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=9).filter(any),
    st.integers(1, 11),
    st.integers(1, 4),
    st.booleans(),
)
def test_batches_hold_each_readable_photo_once_in_order(
    readable: list[bool], batch_size: int, workers: int, backwards: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for n, good in enumerate(readable):
            write(Path(folder) / f"{n}.png", plain((10 * n, 0, 0)) if good else b"broken")
        photos = Photos.open(folder)
        order = list(range(len(readable)))[:: -1 if backwards else 1]
        batches = list(photos.batches(to_chw, batch_size, order if backwards else None, workers))
    expected = [n for n in order if readable[n]]
    assert [index for indices, _ in batches for index in indices] == expected
    assert all(len(indices) == batch_size for indices, _ in batches[:-1])
    assert all(images.shape == (len(indices), 3, 4, 4) for indices, images in batches)
    reds = torch.cat([images[:, 0, 0, 0] for _, images in batches]) * 255
    assert reds.round().int().tolist() == [10 * n for n in expected]
    assert [skipped.name for skipped in photos.skipped] == [f"{n}.png" for n in order if not readable[n]]


def numbered(folder: Path, count: int) -> Photos:
    for n in range(count):
        write(folder / f"{n:03d}.png", plain((n, 0, 0)))
    return Photos.open(folder)


def test_batches_look_ahead_within_bounds(tmp_path: Path) -> None:
    started: list[int] = []

    def prepare(image: Image.Image) -> torch.Tensor:
        started.append(1)
        return to_chw(image)

    batches = numbered(tmp_path, 40).batches(prepare, 4, workers=2)
    assert started == []
    next(batches)
    time.sleep(0.1)  # time to run ahead of the one who asks
    assert 4 <= len(started) <= 4 + 4 + 2


def test_batches_left_early_leave_no_work_behind(tmp_path: Path) -> None:
    started: list[int] = []
    gate = threading.Event()

    def prepare(image: Image.Image) -> torch.Tensor:
        started.append(1)
        if pixel(image, 0, 0)[0] >= 4:  # behind the first batch
            gate.wait(10)
        return to_chw(image)

    before = threading.active_count()
    batches = numbered(tmp_path, 40).batches(prepare, 4, workers=2)
    next(batches)
    release = threading.Timer(0.2, gate.set)
    release.start()
    batches.close()  # type: ignore[attr-defined]
    release.join()
    assert len(started) <= 4 + 2  # what both threads had in hand; the queue was dropped
    assert threading.active_count() == before


def test_batches_pass_on_what_prepare_raises(tmp_path: Path) -> None:
    def prepare(image: Image.Image) -> torch.Tensor:
        raise ValueError("a defect of the caller, no broken photo")

    photos = numbered(tmp_path, 3)
    with pytest.raises(ValueError, match="defect of the caller"):
        list(photos.batches(prepare, 2))
    assert photos.skipped == []


def test_batches_refuse_what_cannot_be(tmp_path: Path) -> None:
    photos = numbered(tmp_path, 3)
    bad: list[Callable[[], object]] = [
        lambda: photos.batches(to_chw, 0),
        lambda: photos.batches(to_chw, 2, workers=0),
        lambda: photos.batches(to_chw, 2, indices=[0, 3]),
        lambda: photos.batches(to_chw, 2, indices=[-1]),
    ]
    for call in bad:
        with pytest.raises(UserError):
            call()  # at once, not at the first batch
    assert list(photos.batches(to_chw, 2, indices=[])) == []


def test_no_readable_photo_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"text")
    write(tmp_path / "b.jpg", b"")
    photos = Photos.open(tmp_path)
    with pytest.raises(UserError, match=r"none of 2 photos .* could be read \(b\.jpg: empty file"):
        list(photos.batches(to_chw, 1))
    assert [skipped.name for skipped in photos.skipped] == ["a.jpg", "b.jpg"]


def test_every_kind_of_damage_is_skipped_once_and_shared(tmp_path: Path) -> None:
    write(tmp_path / "good.png", plain(RED))
    write(tmp_path / "cut.jpg", encoded(noisy(), "JPEG")[:2000])
    write(tmp_path / "cut.png", encoded(noisy())[:2000])
    write(tmp_path / "text.jpg", b"hello")
    write(tmp_path / "zero.png", b"")
    photos = Photos.open(tmp_path)
    for _ in range(2):
        assert [indices for indices, _ in photos.batches(to_chw, 8)] == [[2]]
    assert photos.read(0) is None
    few = photos.subset([4, 2])
    assert few.read(0) is None
    assert few.skipped is photos.skipped
    assert [skipped.name for skipped in photos.skipped] == ["cut.jpg", "cut.png", "text.jpg", "zero.png"]
    assert all(skipped.reason for skipped in photos.skipped)
    assert [photo.name for photo in few] == ["zero.png", "good.png"]
    assert "2 of 5" in few.source


def test_html_shows_thumbnails_and_counts(tmp_path: Path) -> None:
    write(tmp_path / "<b>/x.png", plain(RED, (300, 200)))
    write(tmp_path / "<b>/y.png", b"broken")
    page = Photos.open(tmp_path)._repr_html_()
    assert page.count("<img src=") == 1
    assert "2 photos, 1 classes, 1 could not be read" in page
    assert 'alt="&lt;b&gt;/x.png: &lt;b&gt;"' in page
    assert "<b>/x" not in page


# ------------------------------------------------------------------------------------------ real photos


@pytest.mark.parametrize(
    ("source", "count", "first_labels", "class_index", "identifiers"),
    [
        ("imagenette/train", 1000, ("n01440764",), None, ["n01440764"]),
        ("imagenet-val-650", 650, ("n02165105", "tiger beetle"), 300, ["Tiger Beetle"]),
        ("tiny-imagenet-64-val.parquet", 5000, ("n03444034", "go-kart"), None, ["n03444034"]),
    ],
)
def test_real_photos(
    shared_data: Path,
    source: str,
    count: int,
    first_labels: tuple[str, ...],
    class_index: int | None,
    identifiers: list[str],
) -> None:
    photos = Photos.open(shared_data / source)
    assert len(photos) == count
    assert photos[0].labels == first_labels
    assert photos[0].class_index == class_index
    assert len({photo.name for photo in photos}) == count
    chosen = photos.of_class(identifiers)
    assert 0 in chosen
    spread = [*chosen[:5], *range(count - 5, count)]
    ((indices, images),) = photos.batches(to_chw, 16, spread)
    assert indices == spread
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.1
    assert photos.skipped == []


def test_a_tree_of_real_splits(shared_data: Path) -> None:
    with pytest.raises(UserError, match=r'folders "train", "val"'):
        Photos.open(shared_data / "imagenette")
