"""Photos in tables: Parquet files and Hugging Face datasets."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from entoptic.errors import UserError, nearest
from entoptic.images.decode import short_reason, upright_rgb
from entoptic.images.photo_records import Photo, PhotoSource, photo_of_row

LABEL_COLUMNS = ("class_index", "wnid", "name", "label")

_CACHED_ROW_GROUP_BYTES = 256 * 2**20


def _cell_bytes(cell: object, folder: Path) -> bytes:
    """Returns the encoded image in a table's cell: bytes, struct{bytes, path} or a decoded picture."""
    if isinstance(cell, Image.Image):
        # Pictures that arrive decoded have no file; BMP stores RGB as it is, the same in every version.
        buffer = io.BytesIO()
        upright_rgb(cell).save(buffer, "BMP")
        return buffer.getvalue()
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path"):
            return (folder / str(cell["path"])).read_bytes()
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

    def _cached_bytes(self) -> int:
        return sum(int(cells.nbytes) for cells in self._cache.values())

    def _group_bytes(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).total_byte_size)


def open_parquet(path: Path) -> PhotoSource:
    """Opens the photos of a Parquet file.

    Raises:
        UserError: it cannot be read, or has no image column or no rows.
    """
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
    photos = _photos_of_rows(path.name, file.metadata.num_rows, columns, _parquet_label_names(schema.metadata))
    return PhotoSource(ParquetCells(path, file, column), photos)


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
