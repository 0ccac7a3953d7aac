"""Photos in zip and tar archives: the same set as the folder they were packed from, and nothing that leads out of it."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from entoptic.errors import UserError
from entoptic.images import decode, photo_archives
from entoptic.images.photo_records import Photo, Skipped
from entoptic.images.photos import Photos
from image_files import BLUE, RED, encoded, noisy, plain, to_chw, write

ENDINGS = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")
FILES = {f"{'cat' if n % 2 else 'dog'}/{n:02d}.png": encoded(noisy(n, 24)) for n in range(6)}


def pack(path: Path, files: list[tuple[str, bytes]], links: list[str] | None = None) -> Path:
    """An archive of files in this order, and links to somewhere else; packed as its ending says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files:
                archive.writestr(name, data)
            for name in links or []:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o120777 << 16
                archive.writestr(info, "/etc/passwd")
        return path
    packing = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz", "tar": ""}[path.name.rpartition(".")[2]]
    with tarfile.open(path, f"w:{packing}") as archive:  # type: ignore[call-overload]
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name in links or []:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_is_the_folder_it_was_packed_from(tmp_path: Path, ending: str) -> None:
    for name, data in FILES.items():
        write(tmp_path / "photos" / name, data)
    folder = Photos.open(tmp_path / "photos")
    path = pack(tmp_path / f"a.{ending}", list(FILES.items())[::-1])
    before = sorted(tmp_path.rglob("*"))
    photos = Photos.open(path)
    assert list(photos) == list(folder)
    assert photos[0] == Photo("cat/01.png", ("cat",))
    assert photos.fingerprint() == folder.fingerprint()
    assert [index for kept, _ in photos.batches(to_chw, 4) for index in kept] == list(range(6))
    assert photos.skipped == []
    assert (photos.path(0), photos.stamp(0)) == (None, f"cat/01.png|{path.stat().st_size}|{path.stat().st_mtime_ns}")
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_leads_out_of_an_archive_is_left_out_by_name(tmp_path: Path, ending: str) -> None:
    out = ["../a.png", "/b.png", "x/../../c.png", "C:\\d.png", "..\\e.png"]
    files = [(name, plain(RED)) for name in [*out, "cat/f.png", "./g.png", ".hidden/h.png", "__MACOSX/i.png", "j.txt"]]
    with pytest.warns(UserWarning, match="leads out of the archive"):
        photos = Photos.open(pack(tmp_path / f"a.{ending}", files, links=["cat/link.png"]))
    assert list(photos) == [Photo("cat/f.png", ("cat",)), Photo("g.png")]
    leading = [skipped.name.replace("/", "\\") for skipped in photos.skipped if "leads out" in skipped.reason]
    assert leading == [name.replace("/", "\\") for name in out]
    assert photos.skipped[5:] == [
        Skipped("cat/link.png", "is a link, not a file"),
        Skipped("1 file of another format", 'no image that can be read here: "j.txt"', False),
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_member_is_bounded_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    path = pack(tmp_path / f"a.{ending}", [("a.bmp", bytes(50_000)), ("b.png", plain(BLUE))])
    monkeypatch.setattr(decode, "MOST_BYTES", 40_000)
    with pytest.warns(UserWarning, match=r"a\.bmp \(0 MiB, where"):
        photos = Photos.open(path)
    assert [photo.name for photo in photos] == ["b.png"]


def test_a_bomb_in_a_packed_tar_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_archives, "_MOST_UNPACKED", 2**22)
    path = pack(tmp_path / "a.tar.gz", [("a.png", plain(RED)), ("b.png", bytes(2**26)), ("c.png", plain(BLUE))])
    with pytest.warns(UserWarning, match=r"unpacks to more than \d+ MiB"):
        photos = Photos.open(path)
    assert [photo.name for photo in photos] == ["a.png", "b.png"]
    assert photos.read(0) is not None
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**32  # four gigabytes of names
    write(tmp_path / "b.tar.gz", gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(2**16)))
    with pytest.raises(UserError, match=r"not a readable archive: a header of 4294967296 bytes"):
        Photos.open(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.9])
def test_a_cut_archive_gives_what_is_there_or_says_why(tmp_path: Path, ending: str, kept: float) -> None:
    data = pack(tmp_path / f"a.{ending}", list(FILES.items())).read_bytes()
    path = write(tmp_path / f"cut.{ending}", data[: int(len(data) * kept)])
    refusal = ""
    try:
        photos = Photos.open(path)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert "not a readable archive" in refusal
        assert ending in ("zip", "tar.bz2") or kept < 0.5  # bzip2 packs this much as one block
        return
    found = sum(photos.read(index) is not None for index in range(len(photos)))
    assert 0 < found < 6 or kept != 0.5
    assert found == 6 or any("cannot be read to its end" in skipped.reason for skipped in photos.skipped)


def test_a_damaged_or_encrypted_member_costs_only_itself(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", list(FILES.items()))
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 8] |= 1  # the flag of encryption
    path.write_bytes(bytes(data))
    photos = Photos.open(path)
    assert [index for kept, _ in photos.batches(to_chw, 2) for index in kept] == [1, 2, 4, 5]
    assert sorted(skipped.name for skipped in photos.skipped) == ["cat/01.png", "dog/00.png"]
    assert all("damaged in the archive" in skipped.reason for skipped in photos.skipped)


def test_tables_of_labels_in_archives(tmp_path: Path) -> None:
    images = [("set/a.png", plain(RED)), ("set/in/b.png", plain(BLUE)), ("set/c.png", plain(RED))]
    labels = b"filename,label,class_index\na.png,hen,8\nin/b.png,cock,\ngone.png,x,\n"
    with pytest.warns(UserWarning, match="gone"):
        photos = Photos.open(pack(tmp_path / "a.zip", [*images, ("set/labels.csv", labels)]))
    assert list(photos) == [Photo("set/a.png", ("hen",), 8), Photo("set/c.png"), Photo("set/in/b.png", ("cock",))]
    assert photos.skipped == [Skipped("gone.png", "named in labels.csv but is not in the archive")]
    metadata = b'{"file_name": "in/b.png", "label": "cock"}\n'
    photos = Photos.open(pack(tmp_path / "b.tar", [*images, ("set/metadata.jsonl", metadata)]))
    assert photos[2] == Photo("set/in/b.png", ("in", "cock"))


def test_what_is_no_archive_of_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable archive"):
        Photos.open(write(tmp_path / "a.zip", b"text"))
    with pytest.raises(UserError, match=r'no photos in .*b\.tar.*it holds "a\.txt"'):
        Photos.open(pack(tmp_path / "b.tar", [("a.txt", b"x")]))
    twice = pack(tmp_path / "c.tar", [("a.png", plain(RED)), ("a.png", plain(BLUE))])
    assert (
        Photos.open(twice).fingerprint()
        == Photos.open(pack(tmp_path / "d.tar", [("a.png", plain(BLUE))])).fingerprint()
    )


def test_a_packed_tar_is_read_in_any_order_with_little_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_archives, "_CACHED_BYTES", 4000)
    photos = Photos.open(pack(tmp_path / "a.tar.xz", list(FILES.items())))
    expected = {photos[index].name: FILES[photos[index].name] for index in range(6)}
    for index in (5, 0, 3, 3, 1, 5, 2, 4, 0):
        name = photos[index].name
        assert photos._shared.store.encoded(index) == expected[name]
