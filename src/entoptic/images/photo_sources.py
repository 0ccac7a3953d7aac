"""Photos in folders, with or without labels.csv, and in lists of files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from entoptic.base.files import user_path
from entoptic.errors import UserError, nearest
from entoptic.images.decode import short_reason
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, labels_of, photo_of_row
from entoptic.images.photo_tables import open_parquet

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class ImageFiles:
    """Image files below a folder; see `ImageStore`."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    def encoded(self, row: int) -> bytes:
        return (self.root / self.names[row]).read_bytes()

    def stamp(self, row: int) -> tuple[int, int] | None:
        try:
            state = (self.root / self.names[row]).stat()
        except OSError:
            return None
        return state.st_size, state.st_mtime_ns


def source_of_files(root: Path, photos: Iterable[Photo]) -> PhotoSource:
    """Build the source of image files below a folder, in the order of their names."""
    ordered = sorted(photos, key=lambda photo: photo.name)
    return PhotoSource(ImageFiles(root, [photo.name for photo in ordered]), ordered)


def open_path(source: str | os.PathLike[str]) -> tuple[str, PhotoSource]:
    """Open photos by a path: a folder, a Parquet file or an image file.

    Returns:
        A description of the source, and the source.

    Raises:
        UserError: nothing is there, or it holds no photos.
    """
    if not os.fspath(source):
        raise UserError("photos were given as an empty path; expected a folder or a Parquet file")
    path = user_path(os.fspath(source))
    try:
        if path.is_dir():
            return str(path), _open_folder(path)
        if not path.exists():
            raise UserError(f'no photos at "{path}": {_what_is_missing(path)}')
    except OSError as error:
        raise UserError(f'photos at "{path}" cannot be opened: {short_reason(error)}') from None
    if path.suffix.lower() in (".parquet", ".pq"):
        return str(path), open_parquet(path)
    if path.suffix.lower() in EXTENSIONS:
        return str(path), source_of_files(path.parent, [Photo(path.name)])
    raise UserError(f'"{path}" is neither a folder, a Parquet file (.parquet) nor an image ({" ".join(EXTENSIONS)})')


def _what_is_missing(path: Path) -> str:
    """Describe which part of a path is not there, and what its folder holds that is spelt nearly so."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        siblings = sorted(os.listdir(missing.parent))
    except OSError:
        siblings = []
    return f'"{missing.name}" does not exist in "{missing.parent}"{nearest(missing.name, siblings)}'


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """List the names of the images and of the folders directly inside; hidden ones left out; sorted."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
                images.append(entry.name)
    return sorted(images), sorted(folders)


def _open_folder(root: Path) -> PhotoSource:
    images, folders = _scan(root)
    if (root / "labels.csv").is_file():
        return _open_labelled(root, images)
    photos = [Photo(name) for name in images]
    deeper = []
    for folder in folders:
        inside, below = _scan(root / folder)
        photos += [Photo(f"{folder}/{name}", labels_of(folder)) for name in inside]
        if not inside and any(_scan(root / folder / name)[0] for name in below):
            deeper.append(folder)
    if photos:
        return source_of_files(root, photos)
    if deeper:
        listed = ", ".join(f'"{name}"' for name in deeper[:4]) + (", ..." if len(deeper) > 4 else "")
        folders_that_hold = "folders {} that hold" if len(deeper) > 1 else "a folder {} that holds"
        raise UserError(
            f'"{root}" has {folders_that_hold.format(listed)} class folders; open one of them, say "{root / deeper[0]}"'
        )
    tables = sorted(root.glob("*.parquet"))
    if tables:
        raise UserError(f'"{root}" holds Parquet files, no images; open one of them, say "{tables[0]}"')
    raise UserError(f'no photos in "{root}" or the folders in it (looked for {" ".join(EXTENSIONS)})')


def _open_labelled(root: Path, images: list[str]) -> PhotoSource:
    """Open a folder with labels.csv: the files that it names, and the images beside it without a label."""
    rows = _read_labels(root / "labels.csv")
    photos = {name: Photo(name) for name in images}
    missing: list[Skipped] = []
    for line, row in rows:
        where = f"labels.csv line {line}"
        name = Path(row["file"]).as_posix() if row["file"] else ""
        if not name:
            missing.append(Skipped(where, "names no file"))
        elif name not in photos and not (root / name).is_file():
            missing.append(Skipped(name, "named in labels.csv but does not exist"))
        else:
            described = photo_of_row(where, {key: value or None for key, value in row.items()}, None)
            before = photos.get(name, Photo(name))  # a file may have several rows, one for each label
            class_index = described.class_index if before.class_index is None else before.class_index
            photos[name] = Photo(name, tuple(dict.fromkeys(before.labels + described.labels)), class_index)
    if rows and len(missing) == len(rows):
        name = missing[0].name
        hint = nearest(name, images)
        raise UserError(f'none of the {len(rows)} files that "{root / "labels.csv"}" names exist, say "{name}"{hint}')
    if not photos:
        raise UserError(f'no photos in "{root}": its labels.csv has no rows')
    shared = source_of_files(root, photos.values())
    for skipped in missing:
        shared.skip(skipped)
    return shared


def _read_labels(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read line number and cells of each row; column names in lower case."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            columns = [cell.strip().lower() for cell in next(reader, [])]
            if "file" not in columns:
                listed = ", ".join(columns) if columns else "none"
                raise UserError(f'"{path}" has no column "file" (columns: {listed}){nearest("file", columns)}')
            rows = []
            for cells in reader:
                if len(cells) > len(columns):
                    raise UserError(
                        f'"{path}" line {reader.line_num} has {len(cells)} cells for {len(columns)} columns; '
                        "put names that contain commas in double quotes"
                    )
                if cells:
                    padded = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
                    rows.append((reader.line_num, dict(zip(columns, padded, strict=True))))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'"{path}" is not a readable table: {short_reason(error)}') from None


def open_list(source: Iterable[Any]) -> tuple[str, PhotoSource]:
    """Open photos by a list of image files.

    Returns:
        A description of the source, and the source.

    Raises:
        UserError: an empty list, or no file among them.
    """
    paths = list(source)
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise UserError(f"a list of photos must hold file paths; it holds {type(path).__name__}")
    if not paths:
        raise UserError("photos were given as an empty list; expected at least one file")
    names = dict.fromkeys(user_path(os.fspath(path)).as_posix() for path in paths)
    missing = [
        Skipped(name, "is a folder, not a file" if os.path.isdir(name) else "does not exist")
        for name in names
        if not os.path.isfile(name)
    ]
    if len(missing) == len(names):
        first = Path(missing[0].name)
        why = f'"{first}" is a folder; give it alone' if first.is_dir() else _what_is_missing(first)
        raise UserError(f"none of the {len(names)} photos given is a file: {why}")
    gone = {skipped.name for skipped in missing}
    shared = source_of_files(Path(), [Photo(name) for name in names if name not in gone])
    for skipped in missing:
        shared.skip(skipped)
    return f"{len(names)} files", shared
