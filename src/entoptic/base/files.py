"""Files: atomic writing, a lock for one writer per folder, hashes, and allocation of disk space.

The operating system holds the lock for the open file. The lock ends with its process, also when that is killed, so nothing
has to be cleaned up. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TextIO

from entoptic.errors import UserError

LOCK = ".lock"
UNFINISHED = ".part"
"""Ending of a file that is still being written."""
_NO_FOLLOW, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def user_path(path: str | Path) -> Path:
    """Turns what a person gave into a path; `~` is a home folder.

    Raises:
        UserError: no path can be so, or there is no such user.
    """
    text = str(path)
    if not text.strip():
        raise UserError('a path was given as an empty text; "." is the folder here')
    if "\0" in text:
        raise UserError(f"{text!r} is no path: it holds a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
        expanded = Path(path).expanduser()
    except (RuntimeError, UnicodeError):
        raise UserError(f"{text!r} is no path here; there is no home folder of that user") from None
    if any(len(os.fsencode(part)) > _LONGEST for part in expanded.parts):
        raise UserError(f"{text[:40]!r}… is no path: a name in it is longer than {_LONGEST} bytes")
    if len(os.fsencode(expanded)) > _LONGEST_PATH:
        raise UserError(f"{text[:40]!r}… is no path: it is longer than {_LONGEST_PATH} bytes")
    return expanded


def file_exists(path: str | Path) -> bool:
    """Whether there is such a file, as far as one may see: `Path.is_file` raises where a folder may not be read."""
    return os.path.isfile(path)


def folder_exists(path: str | Path) -> bool:
    """Whether there is such a folder, as far as one may see."""
    return os.path.isdir(path)


def path_exists(path: str | Path) -> bool:
    """Whether there is anything at a path, as far as one may see; a link that leads nowhere is nothing."""
    return os.path.exists(path)


def paths_in(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Lists what a folder holds, sorted, as far as one may see; nothing where there is no such folder.

    Args:
        folder: the folder.
        pattern: of names, as `Path.glob` takes it.
    """
    try:
        return sorted(Path(folder).glob(pattern))
    except OSError:
        return []


def listed(folder: Path, option: str = "--out") -> list[Path]:
    """Lists what a folder that is to be written holds.

    Args:
        folder: it must be there.
        option: by which it was given, for the message.

    Raises:
        UserError: it may not be looked into.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}); give another {option}") from None


@contextlib.contextmanager
def writing_to(folder: Path, finished: str = "what is finished is kept") -> Iterator[None]:
    """Turns the errors of a full or read-only disk into one sentence.

    Args:
        folder: that is written.
        finished: what the failure leaves whole, for the message.

    Raises:
        UserError: it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{folder} cannot be written ({reason}); {finished}, make room or give another folder and start again"
        ) from None


_LONGEST = 255
_LONGEST_PATH = 3800  # files in it have names too, and 4095 is the end


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads to something in a folder, also behind symbolic links."""
    try:
        return folder.resolve() in path.resolve().parents
    except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL character
        return False


def check_inside(path: Path, folder: Path) -> Path:
    """Checks that a file to be written is of a folder: nothing is written, or replaced, behind a symbolic link.

    Args:
        path: of the file, below the folder; it need not be there.
        folder: that may itself lie behind a link.

    Returns:
        The path.

    Raises:
        UserError: it lies elsewhere, or is a symbolic link.
    """
    if not is_inside(path.parent / "file", folder):
        raise UserError(f"{path} lies outside of {folder}, where a symbolic link leads; nothing is written there")
    if os.path.islink(path):
        raise UserError(f"{path} is a symbolic link; nothing is written there, delete it first")
    return path


def check_own(folder: Path, *, marks: Collection[str], what: str, option: str = "--out", prefix: str = "") -> None:
    """Checks that a folder may be written: that it is not there, is empty or holds one of the files of its kind.

    Args:
        folder: to be written.
        marks: names of files or folders, one of which shows that the folder is of this kind.
        what: it is to hold, for the message.
        option: by which the folder was given, for the message.
        prefix: that stands before a folder in that option.

    Raises:
        UserError: it is a file, or holds other things.
    """
    if not folder_exists(folder):
        if path_exists(folder) or os.path.islink(folder):
            raise UserError(f"{folder} is no folder; give {option} a folder")
        return
    names = sorted(p.name for p in listed(folder, option) if p.name != LOCK and p.suffix != UNFINISHED)
    if names and not set(names) & set(marks):
        raise UserError(
            f"{folder} is no {what} and holds other files ({', '.join(names[:3])}); "
            f"give {option} an empty folder, for instance {prefix}{folder / what.split()[-1]}"
        )


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
        # A lock that is a symbolic link is of somebody else: it would be emptied where it points to.
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _NO_WAIT, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no plain file", str(folder / name))
        lock = os.fdopen(descriptor, "a+")
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise UserError(f"{folder} cannot be written ({reason}: {error.filename}); {instead}") from None
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
    with contextlib.suppress(OSError):  # who holds it is for people; a full disk is found by what is written next
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


def delete_unfinished(folder: Path, *places: str) -> None:
    """Deletes the files that a killed process left half written. To be called by the holder of the folder's lock.

    Where a folder has locks for two kinds of jobs, one of which may be writing, nothing is deleted.

    Args:
        folder: that this process has locked.
        places: patterns of folders in it, each with a slash at its end; "" is the folder itself.
    """
    if sum(1 for _ in folder.glob(f"*{LOCK}")) > 1:
        return
    for place in places:
        for left in folder.glob(f"{place}.*{UNFINISHED}"):
            if is_inside(left.parent / "file", folder) and (left.is_file() or left.is_symlink()):
                with contextlib.suppress(OSError):
                    left.unlink()


def write_atomically(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file completely or not at all, also when the power fails. Makes its folder if need be.

    A killed process leaves a hidden file beside it that ends in `UNFINISHED`. The next writer of the folder may delete it.

    Args:
        path: of the file; an existing file is replaced.
        content: its bytes, or a function that writes them to a path that it is given.

    Raises:
        OSError: the folder cannot be written, or the disk is full. What was at `path` is still there. A symbolic link
            there is replaced, not what it points to.
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
