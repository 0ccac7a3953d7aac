"""Photos in folders, with or without a table of labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from entoptic.errors import UserError
from entoptic.images.decode import read_file, short_reason, why_no_file
from entoptic.images.formats import ending, extensions, first_few, listed_extensions
from entoptic.images.label_tables import LABELS, METADATA, LabelTable
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, labels_of
from entoptic.images.photo_tables import open_shards

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")


class ImageFiles:
    """Image files below a folder; see `ImageStore`."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    def encoded(self, row: int) -> bytes:
        return read_file(self.root / self.names[row])

    def stamp(self, row: int) -> tuple[int, int] | None:
        try:
            state = (self.root / self.names[row]).stat()
        except OSError:
            return None
        return state.st_size, state.st_mtime_ns

    def path(self, row: int) -> Path | None:
        return self.root / self.names[row]


def source_of_files(root: Path, photos: Iterable[Photo], left_out: Iterable[Skipped] = ()) -> PhotoSource:
    """Builds the source of image files below a folder, in the order of their names.

    Args:
        root: the folder.
        photos: their names are paths relative to it.
        left_out: what is left out.
    """
    ordered = sorted(photos, key=lambda photo: photo.name)
    source = PhotoSource(ImageFiles(root, [photo.name for photo in ordered]), ordered)
    for skipped in left_out:
        source.skip(skipped)
    return source


def is_archive(name: str | os.PathLike[str]) -> bool:
    """Tells by its ending whether a file is an archive of photos."""
    return os.fspath(name).lower().endswith(ARCHIVES)


def is_parquet(name: str | os.PathLike[str]) -> bool:
    """Tells by its ending whether a file is a Parquet file."""
    return ending(name) in (".parquet", ".pq")


@dataclass(kw_only=True)
class Listing:
    """What is directly inside a folder, hidden entries left out.

    Attributes:
        images: names of image files, sorted.
        folders: names of folders, sorted.
        others: names of files of other formats, sorted.
        left_out: entries that cannot be used, by their path below the folder that was opened.
    """

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    left_out: list[Skipped] = field(default_factory=list)


def scan(folder: Path, known: frozenset[str], prefix: str = "") -> Listing:
    """Lists what is directly inside a folder.

    Args:
        folder: where to look.
        known: endings of image files.
        prefix: path of the folder below the one that was opened, with "/" at its end; named with what is left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            is_image = ending(name) in known
            why = ""
            try:
                if entry.is_dir():
                    if entry.is_symlink() and _holds(entry.path, folder):
                        why = "is a link to a folder that holds it"
                    else:
                        found.folders.append(name)
                elif not entry.is_file():
                    why = why_no_file(entry.path) or "is no file"
                elif is_image:
                    found.images.append(name)
                else:
                    found.others.append(name)
            except OSError as error:  # a link to itself
                why = short_reason(error)
            if why:
                found.left_out.append(Skipped(prefix + name, why, is_image))
    for names in (found.images, found.folders, found.others):
        names.sort()
    found.left_out.sort(key=lambda skipped: skipped.name)
    return found


def _holds(link: str, folder: Path) -> bool:
    """Tells whether a link leads to a folder or to one above it."""
    target, inside = os.path.realpath(link), os.path.realpath(folder)
    return inside == target or inside.startswith(target.rstrip(os.sep) + os.sep)


def scan_below(folder: Path, name: str, known: frozenset[str]) -> Listing:
    """Lists a folder inside another one; a folder that cannot be listed is left out.

    Args:
        folder: the one that was opened.
        name: path of the folder inside it.
        known: endings of image files.
    """
    try:
        return scan(folder / name, known, f"{name}/")
    except OSError as error:
        return Listing(left_out=[Skipped(name, short_reason(error))])


def others_left_out(names: Sequence[str]) -> list[Skipped]:
    """Describes files of other formats: one entry that counts them and names the first; none for no files."""
    if not names:
        return []
    counted = "1 file of another format" if len(names) == 1 else f"{len(names)} files of other formats"
    hint = ""
    if any(ending(name) in (".heic", ".heif") for name in names):
        hint = "; `pip install pillow-heif` reads .heic and .heif"
    return [Skipped(counted, f"no image that can be read here: {first_few(names)}{hint}", False)]


def open_folder(root: Path) -> PhotoSource:
    """Opens the photos of a folder: image files, class folders, those that a table names, or Parquet shards.

    Raises:
        OSError: the folder cannot be listed.
        UserError: it holds no photos.
    """
    known = extensions()
    top = scan(root, known)
    if LABELS in top.others:
        return _open_labelled(root, top)
    photos = {name: Photo(name) for name in top.images}
    others, left_out = list(top.others), list(top.left_out)
    deeper, tables_in, unreadable = [], [], []
    for folder in top.folders:
        inside = scan_below(root, folder, known)
        for name in inside.images:
            photos[f"{folder}/{name}"] = Photo(f"{folder}/{name}", labels_of(folder))
        others += [f"{folder}/{name}" for name in inside.others]
        left_out += inside.left_out
        unreadable += [one for one in inside.left_out if one.name == folder]
        if not inside.images and any(scan_below(root / folder, name, known).images for name in inside.folders):
            deeper.append(folder)
        if any(map(is_parquet, inside.others)):
            tables_in.append(folder)
    metadata = next((name for name in METADATA if name in top.others), None)
    if metadata is not None:
        others = [name for name in others if name not in METADATA]
        left_out += _add_metadata(root, metadata, photos)
    if photos:
        return source_of_files(root, photos.values(), [*left_out, *others_left_out(others)])
    if deeper:
        listed = ", ".join(f'"{name}"' for name in deeper[:4]) + (", ..." if len(deeper) > 4 else "")
        folders_that_hold = "folders {} that hold" if len(deeper) > 1 else "a folder {} that holds"
        raise UserError(
            f'"{root}" has {folders_that_hold.format(listed)} class folders; open one of them, say "{root / deeper[0]}"'
        )
    tables = [root / name for name in top.others if is_parquet(name)]
    if tables:
        source = open_shards(root, tables)
        rest = [name for name in top.others if not is_parquet(name)]
        for skipped in [*top.left_out, *others_left_out(rest)]:
            source.skip(skipped)
        return source
    raise UserError(_nothing_in(root, others, tables_in, left_out))


def _nothing_in(root: Path, others: Sequence[str], tables_in: Sequence[str], left_out: Sequence[Skipped]) -> str:
    """Says what a folder without photos holds instead."""
    archives = [name for name in others if is_archive(name)]
    found = ""
    if tables_in:
        found = f'; its folder "{tables_in[0]}" holds Parquet files, open "{root / tables_in[0]}"'
    elif archives:
        found = f'; it holds archives, open one of them, say "{root / archives[0]}"'
    elif left_out:
        found = f"; left out: {left_out[0].name} ({left_out[0].reason})"
    elif others:
        found = f"; it holds {first_few(others)}"
    return f'no photos in "{root}" or the folders in it (looked for {listed_extensions()}){found}'


def _open_labelled(root: Path, top: Listing) -> PhotoSource:
    """Opens a folder with labels.csv: the files that it names, and the images beside it without a label."""
    table = LabelTable.read(LABELS, str(root / LABELS), (root / LABELS).read_bytes)
    photos = {name: Photo(name) for name in top.images}
    missing = table.describe(photos, lambda name: why_no_file(root / name))
    table.check_some_exist(missing, top.images)
    if not photos:
        raise UserError(f'no photos in "{root}": its labels.csv has no rows')
    others = [name for name in top.others if name not in photos and name not in (LABELS, *METADATA)]
    return source_of_files(root, photos.values(), [*missing, *top.left_out, *others_left_out(others)])


def _add_metadata(root: Path, name: str, photos: dict[str, Photo]) -> list[Skipped]:
    """Adds what a table of a Hugging Face imagefolder says to the photos; one that is no use is left out where there are photos.

    Raises:
        UserError: it is no use, and there are no photos without it.
    """
    described = dict(photos)
    try:
        table = LabelTable.read(name, str(root / name), (root / name).read_bytes)
        missing = table.describe(described, lambda file: why_no_file(root / file))
        if not described:
            table.check_some_exist(missing, ())
    except UserError as error:
        if not photos:
            raise
        return [Skipped(name, str(error), False)]
    photos.update(described)
    return missing
