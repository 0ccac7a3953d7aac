"""Which files count as photos, and what is said of the others."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.formats import extensions
from entoptic.images.photo_records import Skipped
from entoptic.images.photos import Photos
from image_files import RED, encoded, pixel, plain, write

FORMATS = {
    "jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "j2k": "JPEG2000", "avif": "AVIF", "ppm": "PPM", "pgm": "PPM", "pnm": "PPM",
    "tga": "TGA", "dib": "DIB", "ico": "ICO", "pcx": "PCX", "sgi": "SGI", "dds": "DDS", "qoi": "QOI", "apng": "PNG",
    "im": "IM", "icns": "ICNS", "mpo": "MPO",
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_of_pillow_is_found_and_read(tmp_path: Path, ending: str) -> None:
    Image.init()
    if FORMATS[ending] not in Image.SAVE or f".{ending}" not in Image.registered_extensions():
        pytest.skip("this Pillow does not write it")
    write(tmp_path / f"cat/a.{ending.upper()}", encoded(Image.new("RGB", (32, 32), RED), FORMATS[ending]))
    photos = Photos.open(tmp_path)
    assert [photo.labels for photo in photos] == [("cat",)]
    image = photos.read(0)
    assert image is not None
    assert max(abs(a - b) for a, b in zip(pixel(image, 9, 9), RED, strict=True)) <= 3
    assert len(Photos.open(tmp_path / f"cat/a.{ending.upper()}")) == 1


def test_the_list_is_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = extensions()
    assert {
        ending for ending, name in Image.registered_extensions().items() if name in ("JPEG", "TIFF", "GIF")
    } <= before
    assert not {".pdf", ".palm", ".h5", ".grib", ".mpg"} & before  # written only, or opened without pixels
    monkeypatch.setitem(Image.EXTENSION, ".new", "PNG")
    assert extensions() == before | {".new"}


def test_heif_where_its_plugin_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.heic", plain(RED))
    write(tmp_path / "a.png", plain(RED))
    if "HEIF" not in Image.OPEN:
        with pytest.warns(UserWarning, match=r"a\.heic.*pip install pillow-heif"):
            assert len(Photos.open(tmp_path)) == 1

    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
        monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert [photo.name for photo in Photos.open(tmp_path)] == ["a.heic", "a.png"]


def test_files_of_other_formats_are_counted_and_named_once(tmp_path: Path) -> None:
    write(tmp_path / "cat/a.png", plain(RED))
    for name in ("notes.txt", "cat/b.docx", "cat/c.mp4", "dog/d.svg", "cat/.hidden.txt"):
        write(tmp_path / name, b"x")
    with pytest.warns(UserWarning, match="4 files of other formats") as caught:
        photos = Photos.open(tmp_path)
    assert len(caught) == 1
    reason = 'no image that can be read here: "notes.txt", "cat/b.docx", "cat/c.mp4" and 1 more'
    assert photos.skipped == [Skipped("4 files of other formats", reason, False)]
    assert len(photos) == 1


def test_tables_of_labels_are_no_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a.png", plain(RED))
    write(tmp_path / "labels.csv", b"file,label\na.png,x\n")
    assert Photos.open(tmp_path).skipped == []
    os.rename(tmp_path / "labels.csv", tmp_path / "metadata.csv")
    assert Photos.open(tmp_path).skipped == []


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"x")
    with pytest.raises(UserError, match=r'no photos in .*\.jpg .* and \d+ more\); it holds "a.txt"$'):
        Photos.open(tmp_path)
    write(tmp_path / "b.zip", b"x")
    with pytest.raises(UserError, match=r'holds archives, open one of them, say ".*b\.zip"'):
        Photos.open(tmp_path)
    write(tmp_path / "data/train-00000-of-00001.parquet", b"x")
    with pytest.raises(UserError, match=r'its folder "data" holds Parquet files, open ".*data"'):
        Photos.open(tmp_path)
