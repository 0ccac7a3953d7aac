"""Photos in tables: Parquet files and Hugging Face datasets."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from entoptic.errors import UserError, nearest
from entoptic.images.decode import as_bmp, read_file, short_reason, why_no_file
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, photo_of_row

LABEL_COLUMNS = ("class_index", "wnid", "name", "label")

_CACHED_ROW_GROUP_BYTES = 256 * 2**20
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?\.(parquet|pq)", re.IGNORECASE)
_MOST_SHARDS = 100_000  # a count above it is no count


def _cell_bytes(cell: object, folder: Path) -> bytes:
    """Returns the encoded image in a table's cell: bytes, struct{bytes, path} or a decoded picture."""
    if isinstance(cell, Image.Image):
        return as_bmp(cell)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path"):
            return read_file(folder / str(cell["path"]))
    raise ValueError("no image in this row")


class ParquetCells:
    """Image cells of a Parquet file; keeps the row groups used last, up to 256 MiB but at least two. See `ImageStore`."""

    def __init__(self, path: Path, file: Any, column: str) -> None:
        self._folder = path.parent
        self._file = file
        self._column = column
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Any] = OrderedDict()
        metadata = file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts)
        state = path.stat()
        self._stamp = state.st_size, state.st_mtime_ns

    def stamp(self, row: int) -> tuple[int, int] | None:
        return self._stamp

    def path(self, row: int) -> Path | None:
        return None

    def encoded(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        with self._lock:
            cells = self._group(group)
        return _cell_bytes(cells[row - start].as_py(), self._folder)

    def _group(self, group: int) -> Any:
        cells = self._cache.pop(group, None)
        if cells is None:
            # Two at least: threads on both sides of a border would read each other's group again and again.
            room = _CACHED_ROW_GROUP_BYTES - self._group_bytes(group)
            while len(self._cache) > 1 and self._cached_bytes() > room:
                self._cache.popitem(last=False)
            try:
                cells = self._file.read_row_group(group, columns=[self._column]).column(0)
            except Exception as error:  # Arrow's errors share no base with Python's
                raise ValueError(f"row group {group} is damaged: {short_reason(error)}") from None
        self._cache[group] = cells
        return cells

    def release(self) -> None:
        """Let go of the row groups that are kept."""
        if self._cache:
            with self._lock:
                self._cache.clear()

    def _cached_bytes(self) -> int:
        return sum(int(cells.nbytes) for cells in self._cache.values())

    def _group_bytes(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).total_byte_size)


def open_parquet(path: Path) -> PhotoSource:
    """Opens the photos of a Parquet file.

    Raises:
        UserError: it cannot be read, or has no image column or no rows.
    """
    return PhotoSource(*_read_parquet(path, path.name))


def _read_parquet(path: Path, name: str) -> tuple[ParquetCells, list[Photo]]:
    """Opens a Parquet file; the names of its photos start with `name`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f'"{path}" is not a readable Parquet file: {short_reason(error)}') from None
    schema = file.schema_arrow

    def holds_images(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            kind = next((kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == "bytes"), None)
        return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    column = _image_column(f'"{path}"', schema.names, [one.name for one in schema if holds_images(one.type)])
    if not file.metadata.num_rows:
        raise UserError(f'no photos in "{path}": the table has no rows')
    nested = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    simple = [one.name for one in schema if not any(test(one.type) for test in nested)]
    try:
        table = file.read(columns=[name for name in LABEL_COLUMNS if name in simple])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f'the label columns of "{path}" are damaged: {short_reason(error)}') from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    photos = _photos_of_rows(name, file.metadata.num_rows, columns, _parquet_label_names(schema.metadata))
    return ParquetCells(path, file, column), photos


def open_shards(root: Path, paths: Sequence[Path]) -> PhotoSource:
    """Opens the photos of several Parquet files as one set, in the order of the files; a damaged one is left out.

    Args:
        root: the folder that they are in.
        paths: of the files; names of photos are relative to `root`.

    Raises:
        UserError: none can be read, or they are shards of several splits.
    """
    splits: dict[str, list[Path]] = {}
    for path in paths:
        shard = _SHARD.fullmatch(path.name)
        if shard:
            splits.setdefault(shard["split"], []).append(path)
    if len(splits) > 1:
        listed = ", ".join(f'"{split}"' for split in splits)
        example = paths[0].parent / f"{next(iter(splits))}-*.parquet"
        raise UserError(f'"{root}" holds Parquet files of several splits ({listed}); open one of them, say "{example}"')
    cells: list[ParquetCells] = []
    photos: list[list[Photo]] = []
    left_out: list[Skipped] = []
    for path in sorted(paths):
        name = path.relative_to(root).as_posix()
        if why := why_no_file(path):
            left_out.append(Skipped(name, why))
            continue
        try:
            opened = _read_parquet(path, name)
        except UserError as error:
            if len(paths) == 1:
                raise
            left_out.append(Skipped(name, str(error)))
        else:
            cells.append(opened[0])
            photos.append(opened[1])
    if not cells:
        raise UserError(f'none of the {len(paths)} Parquet files in "{root}" can be used: {left_out[0].reason}')
    source = PhotoSource(Shards(cells, [len(one) for one in photos]), [photo for one in photos for photo in one])
    for skipped in [*left_out, *_missing_shards([path.name for path in paths])]:
        source.skip(skipped)
    return source


def _missing_shards(names: Sequence[str]) -> list[Skipped]:
    """Names the shards that their count says there are and that are not there."""
    shards = [shard for name in names if (shard := _SHARD.fullmatch(name))]
    there = {int(shard["number"]) for shard in shards}
    counts = {shard["count"] for shard in shards}
    if len(counts) != 1 or (count := int(counts.copy().pop())) > _MOST_SHARDS:
        return []
    split, width = shards[0]["split"], len(shards[0]["number"])
    return [
        Skipped(f"{split}-{number:0{width}}-of-{shards[0]['count']}.parquet", "is missing among the shards")
        for number in range(count)
        if number not in there
    ]


class Shards:
    """Image cells of several Parquet files; the two files used last keep row groups. See `ImageStore`."""

    def __init__(self, stores: Sequence[ParquetCells], counts: Sequence[int]) -> None:
        self._stores = stores
        self._ends = np.cumsum(counts)
        self._lock = threading.Lock()
        self._recent: list[ParquetCells] = []

    def _find(self, row: int) -> tuple[ParquetCells, int]:
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return self._stores[shard], row - (int(self._ends[shard - 1]) if shard else 0)

    def encoded(self, row: int) -> bytes:
        store, inside = self._find(row)
        with self._lock:
            if store not in self._recent:
                for one in self._recent[:-1]:
                    one.release()
                self._recent = [*self._recent[-1:], store]
        found = store.encoded(inside)
        if store not in self._recent:  # other threads went on to later files meanwhile
            store.release()
        return found

    def stamp(self, row: int) -> tuple[int, int] | None:
        store, inside = self._find(row)
        return store.stamp(inside)

    def path(self, row: int) -> Path | None:
        return None


def _parquet_label_names(metadata: Mapping[bytes, bytes] | None) -> list[str] | None:
    """Returns class names from the schema's `huggingface` JSON; None where it has none."""
    try:
        parsed = json.loads((metadata or {})[b"huggingface"])
        names = parsed.get("info", parsed)["features"]["label"]["names"]
        return [str(name) for name in names] if isinstance(names, list) else None
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _image_column(source: str, columns: Sequence[str], candidates: Sequence[str]) -> str:
    """Chooses the column "image", or the only one that holds images (CIFAR calls it "img")."""
    if "image" in candidates:
        return "image"
    if len(candidates) == 1:
        return candidates[0]
    held = ", ".join(columns) if columns else "none"
    if candidates:
        raise UserError(f'{source} has several image columns ({", ".join(candidates)}); rename one to "image"')
    wrong = "its column is not struct{bytes, path}" if "image" in columns else f"columns: {held}"
    hint = "" if "image" in columns else nearest("image", columns)
    raise UserError(f'{source} has no image column "image" ({wrong}){hint}')


def _photos_of_rows(
    prefix: str, count: int, columns: Mapping[str, Sequence[Any]], label_names: Sequence[str] | None
) -> list[Photo]:
    return [
        photo_of_row(f"{prefix}#{row}", {name: cells[row] for name, cells in columns.items()}, label_names)
        for row in range(count)
    ]


class DatasetCells:
    """Image cells of a `datasets.Dataset`; see `ImageStore`."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset = dataset
        self._column = column

    def encoded(self, row: int) -> bytes:
        try:
            cell = self._dataset[row][self._column]
        except Exception as error:  # a dataset that decodes by itself raises what its decoder raises
            raise ValueError(f"row not readable: {short_reason(error)}") from None
        return _cell_bytes(cell, Path())

    def stamp(self, row: int) -> tuple[int, int] | None:
        return None

    def path(self, row: int) -> Path | None:
        return None


def open_dataset(dataset: Any) -> tuple[str, PhotoSource]:
    """Opens the photos of a Hugging Face dataset.

    Returns:
        A description of the source, and the source.

    Raises:
        UserError: several splits, a streaming dataset, or one without an image column or rows.
    """
    if isinstance(dataset, Mapping):  # datasets.DatasetDict
        splits = list(dataset)
        raise UserError(f'the dataset has splits ({", ".join(map(str, splits))}); give one, say dataset["{splits[0]}"]')
    if not hasattr(dataset, "__len__"):
        raise UserError("photos were given as a streaming dataset; expected one that is loaded (streaming=False)")
    names = list(dataset.column_names)
    features = cast("dict[str, Any]", dict(getattr(dataset, "features", None) or {}))

    def holds_images(name: str) -> bool:
        kind = features.get(name)
        if isinstance(kind, Mapping):  # struct{bytes, path} written without the Image feature
            return "bytes" in kind
        return type(kind).__name__ == "Image" or (not features and name == "image")

    column = _image_column("the dataset", names, [name for name in names if holds_images(name)])
    if not len(dataset):
        raise UserError("no photos in the dataset: it has no rows")
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)
    # Undecoded, the cells keep their file bytes: one decoder for all sources, and hashes of true contents.
    if type(features.get(column)).__name__ == "Image" and hasattr(dataset, "cast_column"):
        dataset = dataset.cast_column(column, type(features[column])(decode=False))
    columns = {name: list(dataset[name]) for name in LABEL_COLUMNS if name in names}
    split = str(getattr(dataset, "split", None) or "row")
    label_names = getattr(features.get("label"), "names", None)
    photos = _photos_of_rows(split, len(dataset), columns, label_names)
    return f"dataset ({split}, {len(dataset)} rows)", PhotoSource(DatasetCells(dataset, column), photos)
