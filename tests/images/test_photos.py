"""Photo sets: classes, hashes, batches, and photos that cannot be read."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.photo_records import PhotoSource
from entoptic.images.photos import Photos
from image_files import BLUE, GREEN, RED, cells_of, encoded, noisy, parquet, pixel, plain, to_chw, write

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
    with pytest.raises(UserError, match=r"no photo from .* could be read \(2 photos tried; b\.jpg: empty file"):
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
    assert "2 photos, 1 class, 1 could not be read" in page
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
