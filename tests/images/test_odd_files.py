"""Files that are no files, names that are no text: left out by name or read, never a stop."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

import pytest

from entoptic.cli.main import main
from entoptic.errors import UserError, printable
from entoptic.images.index import listing_sha256
from entoptic.images.photo_records import Skipped
from entoptic.images.photos import Photos
from image_files import BLUE, RED, encoded, noisy, plain, to_chw, write

NOT_UTF8 = "caf\udce9.png"

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and names of any bytes"),
    pytest.mark.filterwarnings("ignore:left out of the photos"),
]


def odd_entries(folder: Path) -> dict[str, str]:
    """Entries that are no files, and the reasons expected for them."""
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(folder / "sock.jpg"))
    for name, target in {
        "device.jpg": "/dev/zero", "dangling.jpg": "nothing", "loop.jpg": "loop.jpg", "loop": "loop", "self": ".", "up": "..",
    }.items():  # fmt: skip
        os.symlink(target, folder / name)
    return {
        "dangling.jpg": "is a link to nothing",
        "device.jpg": "is a device, not a file",
        "loop": "Too many levels of symbolic links",
        "loop.jpg": "Too many levels of symbolic links",
        "pipe.jpg": "is a named pipe, not a file",
        "self": "is a link to a folder that holds it",
        "sock.jpg": "is a socket, not a file",
        "up": "is a link to a folder that holds it",
    }


@pytest.fixture
def short_path() -> Path:
    """A folder whose path is short enough for the name of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_what_is_no_file_is_left_out_by_name(short_path: Path) -> None:
    write(short_path / "a.png", plain(RED))
    expected = odd_entries(short_path)
    photos = Photos.open(short_path)
    assert [photo.name for photo in photos] == ["a.png"]
    assert {skipped.name: skipped.reason for skipped in photos.skipped} == expected
    assert [index for kept, _ in photos.batches(to_chw, 2) for index in kept] == [0]
    below = Photos.open(str(short_path / "**/*.*"))
    assert [photo.name for photo in below] == ["a.png"]
    assert {skipped.name for skipped in below.skipped} >= {name for name in expected if "." in name}


@pytest.mark.parametrize("name", ["pipe.jpg", "sock.jpg", "device.jpg", "dangling.jpg", "loop.jpg", "loop"])
def test_what_is_no_file_is_refused_where_it_is_named(short_path: Path, name: str) -> None:
    expected = odd_entries(short_path)[name]
    with pytest.raises(UserError, match=rf'no photos at ".*{name}": it {expected}|it .*{expected}'):
        Photos.open(short_path / name)
    write(short_path / "a.png", plain(RED))
    listed = Photos.open([short_path / "a.png", short_path / name])
    assert [(Path(skipped.name).name, skipped.reason) for skipped in listed.skipped] == [(name, expected)]
    write(short_path / "labels.csv", f"file,label\na.png,x\n{name},y\n".encode())
    labelled = Photos.open(short_path)
    assert [photo.name for photo in labelled] == ["a.png"]
    assert Skipped(name, f"named in labels.csv but {expected}") in labelled.skipped


def test_a_file_that_turns_into_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", plain(RED))
    photos = Photos.open(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert photos.read(0) is None
    assert photos.skipped == [Skipped("a.png", "is a named pipe, not a file")]


def test_a_class_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cat/a.png", plain(RED))
    write(tmp_path / "dog/b.png", plain(RED))
    original = os.scandir

    def refuse(path: Path) -> object:  # root, whom no mode bits stop, runs this test too
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    photos = Photos.open(tmp_path)
    assert [photo.name for photo in photos] == ["dog/b.png"]
    assert photos.skipped == [Skipped("cat", "Permission denied")]
    assert Photos.open(str(tmp_path / "**/*.png")).skipped == photos.skipped


def test_links_between_folders_end(tmp_path: Path) -> None:
    write(tmp_path / "a/x.png", plain(RED))
    write(tmp_path / "b/y.png", plain(BLUE))
    os.symlink("../b", tmp_path / "a/to_b")
    os.symlink("../a", tmp_path / "b/to_a")
    photos = Photos.open(str(tmp_path / "**/*.png"))
    assert [photo.name for photo in photos] == ["a/to_b/y.png", "a/x.png", "b/to_a/x.png", "b/y.png"]
    assert [skipped.name for skipped in photos.skipped] == ["a/to_b/to_a", "b/to_a/to_b"]


def test_empty_and_cut_files_are_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"")
    write(tmp_path / "b.png", encoded(noisy())[:2000])
    write(tmp_path / "c.png", plain(RED))
    photos = Photos.open(tmp_path)
    assert [index for kept, _ in photos.batches(to_chw, 2) for index in kept] == [2]
    assert [skipped.name for skipped in photos.skipped] == ["a.jpg", "b.png"]


# ---------------------------------------------------------------------------------------------- names


def not_utf8(folder: Path, data: bytes) -> Path:
    try:
        return write(folder / NOT_UTF8, data)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


def test_names_that_are_not_utf8_are_read_and_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    not_utf8(tmp_path, plain(RED))
    not_utf8(tmp_path / "b\udcff", b"broken")
    photos = Photos.open(tmp_path)
    assert [photo.name for photo in photos] == ["b\udcff/" + NOT_UTF8, NOT_UTF8]
    assert [index for kept, _ in photos.batches(to_chw, 2) for index in kept] == [1]
    assert len(photos.fingerprint()) == len(listing_sha256(photos)) == 64
    print(photos, photos[0], photos.skipped)
    photos._repr_html_().encode()
    with pytest.raises(UserError) as caught:
        Photos.open(tmp_path / "b\udcff" / "gone.png")
    str(caught.value).encode()
    assert r"b\udcff" in str(caught.value)
    assert len(Photos.open([tmp_path / NOT_UTF8, tmp_path / "gone\udcff.png"])) == 1
    capsys.readouterr()


def test_the_warning_about_such_a_name_can_be_printed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", plain(RED))
    os.mkfifo(os.path.join(os.fsencode(tmp_path), b"p\xe9.jpg"))
    with pytest.warns(UserWarning, match=r"p\\udce9\.jpg \(is a named pipe") as caught:
        Photos.open(tmp_path)
    str(caught[0].message).encode()


def test_the_command_line_shows_such_a_name_escaped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        write(tmp_path / f"photos/{n}.png", encoded(noisy(n)))
    not_utf8(tmp_path / "photos", b"broken")
    out = tmp_path / "index"
    options = ["--layers", "logits", "--out", str(out), "--device", "cpu"]
    code = main(["index", "builtin:lite0", "--photos", str(tmp_path / "photos"), *options])
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert r"not read: caf\udce9.png (not an image in a known format)" in shown.out
    records = [json.loads(path.read_text(encoding="utf-8")) for path in out.rglob("*.json")]
    assert any(NOT_UTF8 in json.dumps(record, ensure_ascii=False) for record in records)  # read back as it is
    assert main(["ls", str(out)]) in (0, 2)


def test_printable() -> None:
    assert printable(NOT_UTF8) == r"caf\udce9.png"
    assert printable("café 猫.png") == "café 猫.png"
