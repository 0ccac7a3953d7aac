"""The photos that are inverted: which they are, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from entoptic.errors import UserError, nearest
from entoptic.images.photos import Photos, decode
from entoptic.units.grammar import parse


@dataclass(frozen=True)
class Source:
    """A photo file: its path as given, and the sha256 of its bytes."""

    path: str
    sha256: str


def unit_of(layer: str, source: Source) -> str:
    """The unit string of a photo's whole map."""
    return f"fmap({layer})<{source.path}>"


def sources_of(photos: str | Path | Sequence[str | Path], layer: str) -> tuple[list[Source], list[str]]:
    """Photo files in order, folders unfolded, doubles dropped; and why some cannot be read."""
    given = [photos] if isinstance(photos, (str, Path)) else list(photos)
    paths: list[Path] = []
    failures = []
    for one in map(Path, given):
        try:
            paths += [one / photo.name for photo in Photos.open(one)] if one.is_dir() else [one]
        except UserError as error:
            failures.append(f"{one}: {error}")
    found: dict[str, Source] = {}
    for path in paths:
        try:
            source = source_of(path)
            parse(unit_of(layer, source))
            found.setdefault(source.path, source)
        except UserError as error:
            failures.append(str(error))
    if not found:
        raise UserError(failures[0] if failures else "no photo was named; give image files or a folder of them")
    return list(found.values()), failures


def source_of(path: str | Path) -> Source:
    """The file at a path.

    Raises:
        UserError: it cannot be read, with the nearest name beside it.
    """
    try:
        return Source(str(Path(path)), hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except OSError as error:
        siblings = [p.name for p in Path(path).parent.glob("*")] if Path(path).parent.is_dir() else []
        raise UserError(f"{path} cannot be read ({error.strerror}){nearest(Path(path).name, siblings)}") from None


def readable(path: str | Path) -> Source:
    """The file at a path, which a picture could be made of.

    Raises:
        UserError: it cannot be read, or is no picture.
    """
    source = source_of(path)
    picture_of(source.path)
    return source


def picture_of(path: str) -> Image.Image:
    """A photo as upright 8-bit RGB.

    Raises:
        UserError: it cannot be read, or is no picture.
    """
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error})") from None
