"""Files: atomic writing, a lock for one writer per folder, hashes, and allocation of disk space.

The operating system holds the lock for the open file. The lock ends with its process, also when that is killed, so nothing
has to be cleaned up. Readers take no lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from entoptic.errors import UserError

LOCK = ".lock"
UNFINISHED = ".part"
"""Ending of a file that is still being written."""


def lock_folder(folder: str | Path, *, name: str = LOCK, instead: str = "give another --out") -> TextIO:
    """Locks a folder for this process until the returned file is closed; makes the folder if need be.

    Args:
        folder: what is locked.
        name: of the lock's file. Two locks in one folder need two names.
        instead: what a user can do other than wait, as the end of a sentence.

    Returns:
        The open file that holds the lock.

    Raises:
        UserError: another job is writing there, or the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / name, "a+")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}: {error.filename}); {instead}") from None
    try:
        _take(lock.fileno())
    except (BlockingIOError, PermissionError):
        with lock:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
        raise UserError(
            f"{folder} is being written by another process ({holder}); wait until it ends, or {instead}"
        ) from None
    except OSError as error:  # some network file systems
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}), so nothing keeps a second job out; start one at a time there",
            stacklevel=3,
        )
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
    lock.flush()
    return lock


if sys.platform == "win32":
    import msvcrt

    _BEHIND = 2**30  # offset of the locked byte: a locked byte cannot be read, and the holder's name must stay readable

    def _take(file: int) -> None:
        os.lseek(file, _BEHIND, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_atomically(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file completely or not at all, also when the power fails. Makes its folder if need be.

    A killed process leaves a hidden file beside it that ends in `UNFINISHED`. The next writer of the folder may delete it.

    Args:
        path: of the file; an existing file is replaced.
        content: its bytes, or a function that writes them to a path that it is given.

    Raises:
        OSError: the folder cannot be written, or the disk is full. What was at `path` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=UNFINISHED)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
                file.flush()
            else:
                content(part)
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # a temporary file is its owner's alone
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def json_bytes(record: object) -> bytes:
    """A record as the bytes of a JSON file; a name that is no UTF-8 (lone surrogates) is escaped and read back as it was."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allocate(file: Path) -> None:
    """Allocates the disk space of a sparse file. Without it, a mapped file on a full disk kills the process.

    Args:
        file: with its final size. It is deleted where there is no room.

    Raises:
        UserError: there is no room.
    """
    size = file.stat().st_size
    try:
        with file.open("r+b") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
            elif shutil.disk_usage(file.parent).free < size:  # macOS has no such call
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        file.unlink()
        raise UserError(f"{file.parent} has no room for {size / 2**20:.0f} MB of photos ({error.strerror})") from None
