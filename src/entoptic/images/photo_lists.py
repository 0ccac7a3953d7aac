"""Photos in lists: image files, PIL images and arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.decode import as_bmp, read_file, why_no_file
from entoptic.images.photo_folders import source_of_files
from entoptic.images.photo_records import Photo, PhotoSource, Skipped
from entoptic.images.photo_sources import what_is_missing

_TAKEN = "file paths, PIL images or arrays (height x width x 3, uint8)"


class ListedImages:
    """Image files and pictures in memory; see `ImageStore`."""

    def __init__(self, items: Sequence[Path | Image.Image | np.ndarray]) -> None:
        self._items = items
        self._lock = threading.Lock()  # a PIL image that is not loaded yet is no matter for two threads

    def encoded(self, row: int) -> bytes:
        item = self._items[row]
        if isinstance(item, Path):
            return read_file(item)
        with self._lock:
            return as_bmp(Image.fromarray(item) if isinstance(item, np.ndarray) else item)

    def stamp(self, row: int) -> tuple[int, int] | None:
        path = self.path(row)
        try:
            state = path.stat() if path is not None else None
        except OSError:
            state = None
        return None if state is None else (state.st_size, state.st_mtime_ns)

    def path(self, row: int) -> Path | None:
        item = self._items[row]
        return item if isinstance(item, Path) else None


def open_list(source: Iterable[Any]) -> tuple[str, PhotoSource]:
    """Opens photos by a list of image files (ordered by name), or of PIL images and arrays, with or without files (in its order).

    Returns:
        A description of the source, and the source.

    Raises:
        UserError: an empty list, something in it that is no photo, or none of its files exists.
    """
    items = list(source)
    if not items:
        raise UserError("photos were given as an empty list; expected at least one file")
    for place, item in enumerate(items):
        _check(place, item)
    if not all(isinstance(item, (str, os.PathLike)) for item in items):
        return f"{len(items)} images", _open_mixed(items)
    names = dict.fromkeys(_path(item).as_posix() for item in items)
    missing = [Skipped(name, why) for name in names if (why := why_no_file(name))]
    if len(missing) == len(names):
        first = Path(missing[0].name)
        what = f'"{first}" {missing[0].reason}' if missing[0].reason != "does not exist" else what_is_missing(first)
        why = f'"{first}" is a folder; give it alone' if os.path.isdir(first) else what
        none = "the photo given is no file" if len(names) == 1 else f"none of the {len(names)} photos given is a file"
        raise UserError(f"{none}: {why}")
    gone = {skipped.name for skipped in missing}
    return f"{len(names)} files", source_of_files(Path(), [Photo(name) for name in names if name not in gone], missing)


def _path(item: str | os.PathLike[str]) -> Path:
    try:
        return Path(item).expanduser()
    except RuntimeError:  # the home of a user who is not known
        return Path(item)


def _check(place: int, item: Any) -> None:
    """Refuses what is no photo.

    Raises:
        UserError: neither a path nor a PIL image nor an array of height x width x 3 uint8.
    """
    if isinstance(item, np.ndarray):
        if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8 or not item.size:
            shape = "x".join(map(str, item.shape)) or "no dimensions"
            raise UserError(
                f"the array at position {place} of the list of photos is {shape} {item.dtype}; "
                "expected height x width x 3, uint8 (0 to 255)"
            )
    elif not isinstance(item, (str, os.PathLike, Image.Image)):
        raise UserError(f"a list of photos must hold {_TAKEN}; it holds {type(item).__name__} at position {place}")


def _open_mixed(items: Sequence[Any]) -> PhotoSource:
    rows: dict[str, Any] = {}
    missing: list[Skipped] = []
    for place, item in enumerate(items):
        if isinstance(item, (Image.Image, np.ndarray)):
            rows[f"image#{place}"] = item
            continue
        path = _path(item)
        if why := why_no_file(path):
            missing.append(Skipped(path.as_posix(), why))
        else:
            rows.setdefault(path.as_posix(), path)
    source = PhotoSource(ListedImages(list(rows.values())), [Photo(name) for name in rows])
    for skipped in missing:
        source.skip(skipped)
    return source
