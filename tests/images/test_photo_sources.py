"""Photos in folders and lists of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.photo_records import Photo, Skipped
from entoptic.images.photos import Photos
from image_files import BLUE, GREEN, RED, encoded, pixel, plain, write

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
            "fil,label\na.png,x\n",
            r'no column "file" \(columns: fil, label\); did you mean "fil".* \(also taken: filename, file_name, path\)',
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
    with pytest.raises(UserError, match=r'the photo given is no file.*did you mean "a.png"'):
        Photos.open([tmp_path / "aa.png"])
    with pytest.raises(UserError, match="is a folder"):
        Photos.open([tmp_path])
    with pytest.raises(UserError, match="empty list"):
        Photos.open([])
    with pytest.raises(UserError, match="it holds int"):
        Photos.open([1])
