"""One writer at a time, whatever becomes of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from entoptic import UserError
from entoptic.base import files
from entoptic.base.files import delete_unfinished, lock_folder

CHILD = """
import sys, time
sys.path[:0] = {paths!r}
from entoptic.base.files import lock_folder
held = lock_folder({folder!r})
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_job_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b"):
        with pytest.raises(UserError) as refused:
            lock_folder(tmp_path / "a" / "b", instead="give another folder")
        lock_folder(tmp_path / "a").close()  # other folders are free
        lock_folder(tmp_path / "a" / "b", name=".other").close()  # and so is another lock
    assert str(refused.value).startswith(
        f"{tmp_path / 'a' / 'b'} is being written by another process (pid {os.getpid()} on "
    )
    assert str(refused.value).endswith("; wait until it ends, or give another folder")
    lock_folder(tmp_path / "a" / "b").close()


def test_a_killed_job_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = CHILD.format(paths=[p for p in sys.path if p], folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process \(pid {child.pid} on"):
            lock_folder(tmp_path)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()} on ")


def test_what_a_killed_job_left_half_written_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    folder, outside = tmp_path / "a", tmp_path / "outside"
    for place in (folder, folder / "sheets", folder / "mine", outside):
        place.mkdir(parents=True)
        for name in (".x.part", "x.part", ".x", "x.png"):
            (place / name).write_text("x")
    (folder / "linked").symlink_to(outside)
    (folder / ".y.part").symlink_to(outside / "x.png")
    kept = {"x.part", ".x", "x.png"}
    with lock_folder(folder), lock_folder(folder, name=".other.lock"):
        delete_unfinished(folder, "", "sheets/", "linked/")
        assert (folder / ".x.part").exists()  # the holder of the other lock may be writing it
    (folder / ".other.lock").unlink()
    with lock_folder(folder):
        delete_unfinished(folder, "", "sheets/", "linked/")
    assert {path.name for path in folder.iterdir()} == kept | {".lock", "sheets", "mine", "linked"}
    assert {path.name for path in (folder / "sheets").iterdir()} == kept
    for place in (folder / "mine", outside):
        assert {path.name for path in place.iterdir()} == kept | {".x.part"}


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be written \(.*\); give another --out$"):
            lock_folder(folder)


def test_where_there_are_no_locks_it_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_take", none)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"), lock_folder(tmp_path):
        pass
