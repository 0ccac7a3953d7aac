"""Tables that say what photos show: labels.csv, and metadata.csv and metadata.jsonl of a Hugging Face imagefolder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entoptic.errors import UserError, nearest
from entoptic.images.decode import short_reason
from entoptic.images.photo_records import Photo, Skipped, photo_of_row

LABELS = "labels.csv"
METADATA = ("metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "filename", "file_name", "path")
"""Names of the column that names the files; the first that is there counts."""


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of a table of labels.

    Attributes:
        name: of its file.
        where: its file's path, as a sentence shows it.
        rows: line number and cells by column, in lower case, the file's name under "file".
    """

    name: str
    where: str
    rows: list[tuple[int, dict[str, Any]]]

    @classmethod
    def read(cls, name: str, where: str, read: Callable[[], bytes]) -> LabelTable:
        """Reads a table.

        Args:
            name: of its file; .jsonl is told by its ending.
            where: its file's path, as a sentence shows it.
            read: returns its bytes.

        Raises:
            UserError: it cannot be read, or has no column of files.
        """
        try:
            text = read().decode("utf-8-sig")
            rows = _jsonl(text, where) if name.endswith(".jsonl") else _csv(text, where)
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f'"{where}" is not a readable table: {short_reason(error)}') from None
        return cls(name=name, where=where, rows=rows)

    def describe(self, photos: dict[str, Photo], why_missing: Callable[[str], str]) -> list[Skipped]:
        """Adds what the rows say to photos, and the photos that only the rows name.

        Args:
            photos: by name; changed in place.
            why_missing: says why there is no file of a name; an empty string where there is one.

        Returns:
            What the rows name and is not there.

        Raises:
            UserError: a class_index that is no whole number.
        """
        missing: list[Skipped] = []
        for line, row in self.rows:
            where = f"{self.name} line {line}"
            file = row.get("file")
            if not isinstance(file, str) or not file:
                missing.append(Skipped(where, "names no file"))
                continue
            name = Path(file).as_posix()
            if name not in photos and (why := why_missing(name)):
                missing.append(Skipped(name, f"named in {self.name} but {why}"))
                continue
            described = photo_of_row(where, {key: None if value == "" else value for key, value in row.items()}, None)
            before = photos.get(name, Photo(name))  # a file may have several rows, one for each label
            class_index = described.class_index if before.class_index is None else before.class_index
            photos[name] = Photo(name, tuple(dict.fromkeys(before.labels + described.labels)), class_index)
        return missing

    def check_some_exist(self, missing: Collection[Skipped], names: Collection[str]) -> None:
        """Refuses a table of which no file exists.

        Args:
            missing: what `describe` returned.
            names: of files that are there.

        Raises:
            UserError: no file that it names exists.
        """
        if self.rows and len(missing) == len(self.rows):
            name = next(iter(missing)).name
            hint = nearest(name, names)
            if len(self.rows) == 1:
                raise UserError(f'the only file that "{self.where}" names, "{name}", does not exist{hint}')
            raise UserError(f'none of the {len(self.rows)} files that "{self.where}" names exist, say "{name}"{hint}')


def _csv(text: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = [cell.strip().lower() for cell in next(reader, [])]
    place = columns.index(_file_column(columns, where))
    rows: list[tuple[int, dict[str, Any]]] = []
    for cells in reader:
        if len(cells) > len(columns):
            raise UserError(
                f'"{where}" line {reader.line_num} has {len(cells)} cells for {len(columns)} columns; '
                "put names that contain commas in double quotes"
            )
        if cells:
            padded = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
            rows.append((reader.line_num, dict(zip(columns, padded, strict=True)) | {"file": padded[place]}))
    return rows


def _jsonl(text: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for line, part in enumerate(text.split("\n"), 1):
        if part.strip():
            try:
                row = json.loads(part)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, Mapping):
                raise UserError(f'"{where}" line {line} is not a JSON object')
            rows.append((line, {key.strip().lower(): value for key, value in row.items()}))
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    column = _file_column(columns, where)
    return [(line, row | {"file": row.get(column)}) for line, row in rows]


def _file_column(columns: list[str], where: str) -> str:
    for column in FILE_COLUMNS:
        if column in columns:
            return column
    listed = ", ".join(columns) if columns else "none"
    raise UserError(
        f'"{where}" has no column "file" (columns: {listed}){nearest("file", columns)}'
        f" (also taken: {', '.join(FILE_COLUMNS[1:])})"
    )
