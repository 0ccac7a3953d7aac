"""A folder that is written whole or not at all. What a killed process left half written is begun anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from entoptic.base.files import (
    LOCK,
    UNFINISHED,
    file_exists,
    folder_exists,
    listed,
    lock_folder,
    path_exists,
    writing_to,
)
from entoptic.errors import UserError

MARK = ".unfinished"
"""File of a folder that is being written. It is deleted last."""


@contextmanager
def fresh_folder(folder: Path, names: Sequence[str], failed: str) -> Iterator[None]:
    """Locks a folder, and deletes what was written when the block raises.

    Args:
        folder: that is not there, is empty, or was left half written.
        names: of the files and folders that the block writes. Others are never deleted.
        failed: what a full disk means, for the message.

    Raises:
        UserError: the folder holds something already, or cannot be written.
    """
    if os.path.islink(folder) and not path_exists(folder):
        raise UserError(f"{folder} is a symbolic link that leads nowhere; give another --out")
    if path_exists(folder) and not folder_exists(folder):
        raise UserError(f"{folder} is a file; give --out a folder")
    there = path_exists(folder)
    left_half = there and file_exists(folder / MARK)
    others = [one.name for one in listed(folder) if one.name not in (LOCK, MARK)] if there else []
    if others and not left_half:
        raise UserError(f"{folder} holds something already; give --out a folder that is empty or not there")
    try:
        with lock_folder(folder), writing_to(folder, failed):
            if left_half:
                _delete(folder, names)
            strangers = sorted(one.name for one in folder.iterdir() if one.name not in (LOCK, MARK))
            if strangers:
                raise UserError(f"{folder} holds other files ({', '.join(strangers[:3])}); give --out an empty folder")
            (folder / MARK).touch()
            yield
            (folder / MARK).unlink()
        (folder / LOCK).unlink(missing_ok=True)
    except BaseException:
        if file_exists(folder / MARK):
            _delete(folder, names)
            for name in (MARK, LOCK):
                (folder / name).unlink(missing_ok=True)
        if not there and folder_exists(folder) and not any(one.name != LOCK for one in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
        raise


def _delete(folder: Path, names: Sequence[str]) -> None:
    for path in (*(folder / name for name in names), *folder.glob(f".*{UNFINISHED}")):
        if folder_exists(path) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
