"""What else `Photos.open` takes: patterns, pictures in memory, tables of a Hugging Face imagefolder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.photo_records import Photo, Skipped
from entoptic.images.photos import Photos
from image_files import BLUE, GREEN, RED, cells_of, encoded, parquet, pixel, plain, to_chw, write

# ------------------------------------------------------------------------------------------- patterns


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, colour in {"train/cat/a.png": RED, "train/dog/b.jpg": GREEN, "val/cat/c.png": BLUE, "d.png": RED}.items():
        write(tmp_path / name, encoded(Image.new("RGB", (8, 8), colour), "JPEG" if name.endswith("jpg") else "PNG"))
    write(tmp_path / "train/cat/notes.txt", b"x")
    write(tmp_path / "train/.hidden/e.png", plain(RED))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names", "label"),
    [
        ("**/*.png", ["d.png", "train/cat/a.png", "val/cat/c.png"], ""),
        ("**/*.jpg", ["train/dog/b.jpg"], "dog"),
        ("train/**/*.png", ["cat/a.png"], "cat"),
        ("train/**", ["cat/a.png", "dog/b.jpg"], "cat"),
        ("train/*/*", ["cat/a.png", "dog/b.jpg"], "cat"),
        ("train/*", ["cat/a.png", "dog/b.jpg"], "cat"),
        ("*/cat/*.png", ["train/cat/a.png", "val/cat/c.png"], "cat"),
        ("train/[cd]?[tg]/*", ["cat/a.png", "dog/b.jpg"], "cat"),
        ("*.png", ["d.png"], ""),
        ("**/**/c.png", ["val/cat/c.png"], "cat"),
    ],
)
@pytest.mark.filterwarnings("ignore:left out")
def test_patterns(tree: Path, pattern: str, names: list[str], label: str) -> None:
    for source in (str(tree / pattern), tree / pattern):
        photos = Photos.open(source)
        assert [photo.name for photo in photos] == names
        assert photos[0].labels == ((label,) if label else ())
        assert all(photos.read(index) is not None for index in range(len(photos)))
        assert Photos.open(photos.source).fingerprint() == photos.fingerprint()  # records name the source


def test_a_pattern_names_what_it_cannot_use(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="notes"):
        photos = Photos.open(str(tree / "train/**"))
    assert [skipped.name for skipped in photos.skipped] == ["1 file of another format"]
    with pytest.raises(UserError, match=r'the pattern finds nothing in ".*val" \(looked for \.jpg'):
        Photos.open(str(tree / "val/**/*.gif"))
    with pytest.raises(UserError, match=r'the pattern finds only other files, say "cat/notes\.txt"'):
        Photos.open(str(tree / "train/**/*.txt"))
    with pytest.raises(UserError, match=r'"trian" does not exist in .*did you mean "train"'):
        Photos.open(str(tree / "trian/**/*.png"))
    monkeypatch.chdir(tree)
    assert [photo.name for photo in Photos.open("train/**/*.png")] == ["cat/a.png"]
    assert [photo.name for photo in Photos.open("*/cat/*.png")] == ["train/cat/a.png", "val/cat/c.png"]


def test_a_name_with_a_bracket_is_a_name_first(tmp_path: Path) -> None:
    write(tmp_path / "photos [1]/a.png", plain(RED))
    write(tmp_path / "b[1].png", plain(RED))
    assert [photo.name for photo in Photos.open(tmp_path / "photos [1]")] == ["a.png"]
    assert [photo.name for photo in Photos.open(tmp_path / "b[1].png")] == ["b[1].png"]


# ------------------------------------------------------------------------------------------ in memory


def test_pictures_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", plain(GREEN))
    array = np.zeros((8, 8, 3), np.uint8)
    array[..., 0] = 255
    opened = Image.open(path)  # not loaded yet
    photos = Photos.open([Image.new("RGB", (8, 8), RED), array, path, str(path), opened, tmp_path / "gone.png"])
    assert [photo.name for photo in photos] == ["image#0", "image#1", path.as_posix(), "image#4"]
    assert photos.skipped == [Skipped((tmp_path / "gone.png").as_posix(), "does not exist")]
    images = [photos.read(index) for index in range(4)]
    assert [pixel(image, 1, 1) for image in images if image is not None] == [RED, RED, GREEN, GREEN]
    assert photos.sha256(0) == photos.sha256(1) != photos.sha256(3)  # by content
    assert photos.sha256(2) == Photos.open(path).sha256(0)
    assert (photos.path(0), photos.path(2), photos.stamp(0)) == (None, path, None)
    assert photos.stamp(2) is not None
    ((kept, _),) = photos.batches(to_chw, 8)
    assert kept == [0, 1, 2, 3]


def test_one_picture_or_a_stack_of_arrays() -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    assert [photo.name for photo in Photos.open(array)] == ["image#0"]
    assert len(Photos.open(Image.new("L", (8, 8)))) == 1
    assert len(Photos.open(np.stack([array] * 3))) == 3
    assert Photos.open(iter([array, array])).fingerprint() == Photos.open([Image.fromarray(array)] * 2).fingerprint()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            [np.zeros((3, 8, 8), np.uint8)],
            "position 0 of the list of photos is 3x8x8 uint8; expected height x width x 3",
        ),
        ([np.zeros((8, 8, 3), np.float32)], "is 8x8x3 float32; expected height x width x 3, uint8 (0 to 255)"),
        ([np.zeros((8, 8), np.uint8)], "is 8x8 uint8"),
        ([np.zeros((0, 8, 3), np.uint8)], "is 0x8x3 uint8"),
        ([np.zeros((8, 8, 3), np.uint8), 3], "it holds int at position 1"),
        ([torch.zeros(3, 8, 8)], "it holds Tensor"),
        ([None], "PIL images or arrays (height x width x 3, uint8); it holds NoneType"),
        (np.zeros((8, 8)), "is 8 float64"),
        (b"photos", "given as bytes"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(given: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        Photos.open(given)
    assert words in str(error.value)


def test_the_file_of_a_photo(tmp_path: Path) -> None:
    write(tmp_path / "cat/a.png", plain(RED))
    assert Photos.open(tmp_path).path(0) == tmp_path / "cat/a.png"
    assert Photos.open(tmp_path / "cat/a.png").subset([0]).path(0) == tmp_path / "cat/a.png"
    assert Photos.open(parquet(tmp_path / "t.parquet", cells_of(RED))).path(0) is None


# --------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("column", ["file", "filename", "file_name", "path", "FileName"])
@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv"])
def test_names_of_the_column_of_files(tmp_path: Path, column: str, table: str) -> None:
    write(tmp_path / "a.png", plain(RED))
    write(tmp_path / "b.png", plain(RED))
    write(tmp_path / table, f'label,{column}\n"cock, rooster",b.png\n'.encode())
    assert list(Photos.open(tmp_path)) == [Photo("a.png"), Photo("b.png", ("cock, rooster", "cock", "rooster"))]


def test_metadata_of_an_imagefolder_adds_to_class_folders(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "deep/in/c.png"):
        write(tmp_path / name, plain(RED))
    plainly = Photos.open(tmp_path)
    write(
        tmp_path / "metadata.jsonl",
        b'{"file_name": "cat/a.png", "label": "tabby", "class_index": 281, "text": ["x"], "evidence": null}\n\n'
        b'{"file_name": "deep/in/c.png", "label": 3}\n{"label": "no file"}\n{"file_name": "gone.png"}\n',
    )
    with pytest.warns(UserWarning, match="gone"):
        photos = Photos.open(tmp_path)
    assert list(photos) == [
        Photo("cat/a.png", ("cat", "tabby"), 281), Photo("cat/b.png", ("cat",)), Photo("deep/in/c.png", ("3",)),
    ]  # fmt: skip
    assert photos.fingerprint([0, 1]) == plainly.fingerprint()
    assert [(skipped.name, skipped.reason) for skipped in photos.skipped] == [
        ("metadata.jsonl line 4", "names no file"), ("gone.png", "named in metadata.jsonl but does not exist"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("metadata.csv", b"id,text\n1,x\n", 'no column "file" (columns: id, text)'),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n[1]\n', "line 2 is not a JSON object"),
        ("metadata.jsonl", b"[" * 100000, "line 1 is not a JSON object"),
        ("metadata.jsonl", b"\xff\xfe", "not a readable table"),
        (
            "metadata.csv",
            b"file,class_index\na.png,x\n",
            'class_index "x" of metadata.csv line 2 is not a whole number',
        ),
    ],
)
def test_metadata_of_no_use_costs_no_photo(tmp_path: Path, name: str, table: bytes, words: str) -> None:
    write(tmp_path / name, table)
    if b"a.png" not in table:
        with pytest.raises(UserError) as error:
            Photos.open(tmp_path)
        assert words in str(error.value)
    write(tmp_path / "a.png", plain(RED))
    with pytest.warns(UserWarning, match="metadata"):
        photos = Photos.open(tmp_path)
    assert list(photos) == [Photo("a.png")]
    assert [skipped.name for skipped in photos.skipped] == [name]
    assert words in photos.skipped[0].reason


def test_names_in_tables_that_no_file_can_have(tmp_path: Path) -> None:
    write(tmp_path / "a.png", plain(RED))
    write(
        tmp_path / "metadata.jsonl", b'{"file_name": "a\\u0000.png"}\n{"file_name": "\\ud800.png"}\n{"file_name": 3}\n'
    )
    write(tmp_path / "labels.csv", f"file,label\na.png,x\n{'n' * 300}.png,y\n".encode())
    with pytest.warns(UserWarning, match="File name too long"):
        assert [skipped.reason for skipped in Photos.open(tmp_path).skipped] == [
            "named in labels.csv but File name too long",
        ]
    os.unlink(tmp_path / "labels.csv")
    with pytest.warns(UserWarning, match="names no file"):
        assert len(Photos.open(tmp_path).skipped) == 3


def test_photos_in_tables_cannot_be_named_one_by_one(tmp_path: Path) -> None:
    from entoptic.inversion.targets import sources_of

    write(tmp_path / "files/cat/a.png", plain(RED))
    (tmp_path / "tables").mkdir()
    parquet(tmp_path / "tables/train-00000-of-00001.parquet", cells_of(RED, GREEN))
    found, failures = sources_of([tmp_path / "files", tmp_path / "tables"], "conv")
    assert [source.path for source in found] == [str(tmp_path / "files/cat/a.png")]
    assert failures == [
        f'{tmp_path / "tables"}: "{tmp_path / "tables"}" holds photos in tables; expected image files or a folder of them'
    ]
