"""`Photo`, and what every kind of photo source gives: its photos, their labels and their encoded bytes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from entoptic.errors import UserError


@dataclass(frozen=True)
class Photo:
    """One photo of a set.

    Attributes:
        name: path relative to the opened folder, or "file.parquet#17"; unique within the set and stable.
        labels: every label string known for it: wnid, name, label, then their synonyms (split at commas).
        class_index: an index into the model's classes; only from a column that is called class_index.
    """

    name: str
    labels: tuple[str, ...] = ()
    class_index: int | None = None


@dataclass(frozen=True)
class Skipped:
    """What was left out, and why in a few words.

    Attributes:
        name: of the photo, the folder or the file; of files of other formats, how many there are.
        reason: why it was left out.
        is_photo: it looks like a photo or is named as one, so that a photo is missing.
    """

    name: str
    reason: str
    is_photo: bool = True


class ImageStore(Protocol):
    """Where the encoded images of a source are."""

    def encoded(self, row: int) -> bytes:
        """Returns the file bytes of one photo. Thread-safe.

        Raises:
            OSError: the file cannot be read.
            ValueError: there are no bytes.
        """

    def stamp(self, row: int) -> tuple[int, int] | None:
        """Returns size in bytes and time of change (ns) of the file that holds one photo; None where there is no file."""

    def path(self, row: int) -> Path | None:
        """Returns the image file of one photo; None where it is in a table, an archive or memory."""


@dataclass
class PhotoSource:
    """What a set and its subsets share; rows count through all photos of the source.

    Attributes:
        store: where the encoded images are.
        photos: all photos.
        skipped: what was left out so far.
        hashes: content hashes known so far, by row.
        skipped_names: names of `skipped`.
        lock: guards `skipped`.
        path: that it was opened by, "" for photos that were given in memory.
        name: of the source, for people; subsets have names of their own.
    """

    store: ImageStore
    photos: list[Photo]
    skipped: list[Skipped] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)
    skipped_names: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    path: str = ""
    name: str = ""

    def skip(self, skipped: Skipped) -> bool:
        """Records what was left out, once; returns whether it is new."""
        with self.lock:
            if new := skipped.name not in self.skipped_names:
                self.skipped_names.add(skipped.name)
                self.skipped.append(skipped)
        return new


# --- labels ---------------------------------------------------------------------------------------------------------


def split_synonyms(label: str) -> list[str]:
    """Splits a label at its commas."""
    return [part.strip() for part in label.split(",") if part.strip()]


def comparable(label: str) -> str:
    """Returns a label in the form in which labels are compared: without case, "_" as a space."""
    return " ".join(label.replace("_", " ").casefold().split())


def labels_of(*known: object) -> tuple[str, ...]:
    """Lists the label strings among `known`, then the synonyms inside them; each once."""
    wholes = [text for value in known if isinstance(value, (str, int, float)) and (text := str(value).strip())]
    return tuple(dict.fromkeys([*wholes, *(part for label in wholes for part in split_synonyms(label))]))


def photo_of_row(name: str, row: Mapping[str, Any], label_names: Sequence[str] | None) -> Photo:
    """Builds the photo that a table's row describes.

    Args:
        name: of the photo.
        row: cells by column.
        label_names: names of integer labels, where these are known.

    Raises:
        UserError: a class_index that is no whole number.
    """
    label, class_index = row.get("label"), row.get("class_index")
    if isinstance(label, int) and not isinstance(label, bool):
        if label < 0:  # datasets write -1 where a label is withheld
            label = None
        elif label_names is not None and label < len(label_names):
            label = label_names[label]
        elif row.get("wnid") or row.get("name"):  # a bare number adds nothing to a real name
            label = None
    return Photo(
        name,
        labels_of(row.get("wnid"), row.get("name"), label),
        None if class_index is None else _whole_number(class_index, name),
    )


def _whole_number(value: object, where: str) -> int:
    try:
        number = float(str(value))
        if number == int(number) and number >= 0:
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise UserError(f'class_index "{value}" of {where} is not a whole number from 0 up')
