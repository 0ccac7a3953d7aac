"""Photos by a path: a folder, a Parquet file, an archive, an image file, or a pattern of names."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path, PurePosixPath

from entoptic.base.files import user_path
from entoptic.errors import UserError, nearest
from entoptic.images.decode import short_reason, why_no_file
from entoptic.images.formats import ending, extensions, listed_extensions
from entoptic.images.photo_archives import open_archive
from entoptic.images.photo_folders import (
    ImageFiles,
    Listing,
    is_archive,
    is_parquet,
    open_folder,
    others_left_out,
    scan,
    scan_below,
    source_of_files,
)
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, labels_of
from entoptic.images.photo_tables import open_parquet, open_shards

__all__ = ["ImageFiles", "open_path", "what_is_missing"]

_WILD = re.compile(r"[*?\[]")


def open_path(source: str | os.PathLike[str]) -> tuple[str, PhotoSource]:
    """Opens photos by a path.

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
            return str(path), open_folder(path)
        if not os.path.lexists(path) and _WILD.search(str(path)):
            return str(path), _open_pattern(path)
        if not path.exists():
            why = why_no_file(path)
            raise UserError(
                f'no photos at "{path}": {what_is_missing(path) if why == "does not exist" else f"it {why}"}'
            )
    except OSError as error:
        raise UserError(f'photos at "{path}" cannot be opened: {short_reason(error)}') from None
    if why := why_no_file(path):
        raise UserError(f'no photos at "{path}": it {why}')
    return str(path), _open_file(path)


def _open_file(path: Path) -> PhotoSource:
    if is_parquet(path):
        return open_parquet(path)
    if is_archive(path):
        return open_archive(path)
    if ending(path) in extensions():
        return source_of_files(path.parent, [Photo(path.name)])
    raise UserError(
        f'"{path}" is neither a folder, a Parquet file (.parquet), an archive (.zip, .tar, .tar.gz) nor an image '
        f"({listed_extensions()})"
    )


def what_is_missing(path: Path) -> str:
    """Describes which part of a path is not there, and what its folder holds that is spelt nearly so."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        siblings = sorted(os.listdir(missing.parent))
    except OSError:
        siblings = []
    return f'"{missing.name}" does not exist in "{missing.parent}"{nearest(missing.name, siblings)}'


# --- patterns -------------------------------------------------------------------------------------------------------


def _open_pattern(pattern: Path) -> PhotoSource:
    """Opens what a pattern finds: images (folders stand for the images in them), Parquet shards or one archive.

    A photo's label is the folder that it is in, as far as the pattern leaves that open.
    """
    fixed = 0
    while not _WILD.search(pattern.parts[fixed]):
        fixed += 1
    root = Path(*pattern.parts[:fixed])
    if not root.is_dir():
        raise UserError(f'no photos at "{pattern}": {what_is_missing(root)}')
    known = extensions()
    found = _Matches(root, known).find(pattern.parts[fixed:])
    if found.images:
        photos = [Photo(name, labels_of(PurePosixPath(name).parent.name)) for name in found.images]
        return source_of_files(root, photos, [*found.left_out, *others_left_out(found.others)])
    tables = [name for name in found.others if is_parquet(name)]
    archives = [name for name in found.others if is_archive(name)]
    if tables:
        return open_shards(root, [root / name for name in tables])
    if len(archives) == 1:
        return open_archive(root / archives[0])
    if archives:
        raise UserError(f'"{pattern}" finds {len(archives)} archives; give one, say "{root / archives[0]}"')
    what = f'only other files, say "{found.others[0]}"' if found.others else "nothing"
    raise UserError(
        f'no photos at "{pattern}": the pattern finds {what} in "{root}" (looked for {listed_extensions()})'
    )


class _Matches:
    """Finds what a pattern stands for: `*`, `?` and `[...]` within a name, `**` for any folders; hidden names left out."""

    def __init__(self, root: Path, known: frozenset[str]) -> None:
        self._root = root
        self._known = known
        self._listings: dict[str, Listing] = {}
        self._seen: set[tuple[str, int]] = set()
        self._images: set[str] = set()
        self._others: set[str] = set()
        self._left_out: dict[str, Skipped] = {}

    def find(self, parts: tuple[str, ...]) -> Listing:
        """Finds the images and other files of a pattern, by their paths below the root."""
        self._enter("", parts, (os.path.realpath(self._root),))
        left_out = [self._left_out[name] for name in sorted(self._left_out)]
        return Listing(images=sorted(self._images), others=sorted(self._others), left_out=left_out)

    def _listing(self, folder: str) -> Listing:
        if folder not in self._listings:
            below = scan_below(self._root, folder, self._known) if folder else scan(self._root, self._known)
            self._listings[folder] = below
        return self._listings[folder]

    def _enter(self, folder: str, parts: tuple[str, ...], holders: tuple[str, ...]) -> None:
        if (folder, len(parts)) in self._seen:
            return
        self._seen.add((folder, len(parts)))
        listing, prefix = self._listing(folder), f"{folder}/" if folder else ""
        first, rest = parts[0], parts[1:]
        self._left_out |= {one.name: one for one in listing.left_out if one.name == folder}  # cannot be listed
        if first == "**" and rest:
            self._enter(folder, rest, holders)
        if not rest:
            self._take(listing, prefix, first)
        for name in listing.folders:
            if first == "**" or fnmatch.fnmatchcase(name, first):
                inside = os.path.realpath(self._root / (prefix + name))
                if inside in holders:
                    self._left_out[prefix + name] = Skipped(prefix + name, "is a link to a folder that holds it")
                elif first == "**" or rest:
                    self._enter(prefix + name, parts if first == "**" else rest, (*holders, inside))
                else:  # a folder stands for the images in it
                    self._take(self._listing(prefix + name), f"{prefix}{name}/", "*", others=False)

    def _take(self, listing: Listing, prefix: str, part: str, others: bool = True) -> None:
        """Takes the files of a folder that the last part of the pattern fits."""

        def fits(name: str) -> bool:
            return part == "**" or fnmatch.fnmatchcase(name, part)

        self._images |= {prefix + name for name in listing.images if fits(name)}
        if others:
            self._others |= {prefix + name for name in listing.others if fits(name)}
        for one in listing.left_out:
            if one.name == prefix.rstrip("/") or fits(one.name.removeprefix(prefix)):
                self._left_out[one.name] = one
