"""Real photos with optional labels: folders, Parquet files, Hugging Face datasets and lists of files.

`Photos` lists what there is when it is opened and reads pixels only when asked. One bad file never stops
a pass: it is left out and named in `Photos.skipped`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from entoptic.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
LABEL_COLUMNS = ("class_index", "wnid", "name", "label")

_CACHED_ROW_GROUP_BYTES = 256 * 2**20
_THUMBNAILS = 8
_THUMBNAIL_PIXELS = 96

# EXIF orientation (tag 0x0112) -> the flip or turn that makes the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# ---------------------------------------------------------------------------------------------- decoding


def decode(data: bytes) -> Image.Image:
    """One encoded image file as an upright 8-bit RGB picture (the first frame of an animation).

    Transparent pixels are laid on white. 16-bit grey is divided by 257 (65535 becomes 255). Float pixels
    have no declared range: a largest value up to 1, 255 or 65535 is read as that full scale.

    Raises `ValueError` with a short reason: empty, not an image, truncated or broken, more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS`, or pixel values without a known range.
    """
    if not data:
        raise ValueError("empty file (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError
        image.load()
    except UnidentifiedImageError:
        raise ValueError("not an image in a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS} pixels (a decompression bomb?)") from None
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        raise ValueError(f"damaged image: {_short(error)}") from None
    return _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> Image.Image:
    """`image` turned by its EXIF orientation and converted to RGB; `ValueError` where that is impossible."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF beside sound pixels: the photo is still worth having
        orientation = 1
    try:
        rgb = _rgb(image)
    except Exception as error:
        raise ValueError(f"{image.mode} pixels not convertible: {_short(error)}") from None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    # A palette, grey or RGB picture may also name one colour as transparent.
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")  # CMYK JPEGs: Pillow has already undone Adobe's inversion


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip at 255."""
    values_HW = np.asarray(image).astype(np.float64)
    if not np.isfinite(values_HW).all():
        raise ValueError("values that are not finite")
    low, high = float(values_HW.min()), float(values_HW.max())
    if low < 0 or high > 65535:
        raise ValueError(f"values from {low:g} to {high:g}, expected 0 to 65535")
    scale = 65535.0  # Pillow hands 16-bit files over in mode I;16 or I, whatever values they hold
    if image.mode == "F":
        scale = next(full for full in (1.0, 255.0, 65535.0) if high <= full)
    return Image.fromarray(np.rint(values_HW * (255.0 / scale)).astype(np.uint8))


def _short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


# ------------------------------------------------------------------------------------------------- nouns


@dataclass(frozen=True)
class Photo:
    """One photo of a set.

    `name`: path relative to the opened folder, or "file.parquet#17"; unique within the set and stable.
    `labels`: every label string known for it: wnid, name, label, then their synonyms (split at commas).
    `class_index`: an index into the model's classes; only from a column that is called class_index.
    """

    name: str
    labels: tuple[str, ...] = ()
    class_index: int | None = None


@dataclass(frozen=True)
class Skipped:
    """A photo that could not be read, and why in a few words."""

    name: str
    reason: str


class _Store(Protocol):
    def encoded(self, row: int) -> bytes:
        """The file bytes of one photo; `OSError` or `ValueError` where there are none. Thread-safe."""

    def stamp(self, row: int) -> tuple[int, int] | None:
        """Bytes and time of change (ns) of the file that holds one photo; None where there is no file."""


@dataclass
class _Shared:
    """What a set and its subsets have in common; rows count through all photos of the source."""

    store: _Store
    photos: list[Photo]
    skipped: list[Skipped] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)
    skipped_names: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def skip(self, skipped: Skipped) -> None:
        with self.lock:
            if skipped.name not in self.skipped_names:
                self.skipped_names.add(skipped.name)
                self.skipped.append(skipped)


class Photos:
    """Real images with optional labels; made by `Photos.open`. Nothing is decoded before it is asked for."""

    def __init__(self, source: str, shared: _Shared, rows: Sequence[int]) -> None:
        self.source = source
        self._shared = shared
        self._rows = list(rows)

    @classmethod
    def open(cls, source: Any) -> Photos:
        """Photos from whatever holds them.

        source: one of
          * a folder of class folders (`DIR/CLASS/*.jpg`; the folder's name is the label),
          * a flat folder, with or without `labels.csv` (column `file` and any of class_index, wnid, name,
            label; images it does not name are kept, without a label; folders count only where it names them),
          * a Parquet file in Hugging Face image layout (column image = struct{bytes, path}; optional
            columns label, wnid, name, class_index), read a row group at a time,
          * a `datasets.Dataset` with an image column,
          * an image file, or an iterable of image files (a file given twice counts once).

        Files are in the order of their names, rows in the order of the table.

        Raises `UserError` where the source is missing, holds no photos or has another layout.
        """
        if isinstance(source, Photos):
            return source
        if isinstance(source, (str, os.PathLike)):
            return cls._from(*_open_path(source))
        if hasattr(source, "column_names") or hasattr(source, "features"):
            return cls._from(*_open_dataset(source))
        if isinstance(source, Mapping):
            splits = ", ".join(f'"{key}"' for key in source)
            raise UserError(f"photos were given as a mapping with the keys {splits}; give one of its values")
        if isinstance(source, Iterable) and not isinstance(source, bytes):
            return cls._from(*_open_list(source))
        raise UserError(
            f"photos were given as {type(source).__name__}; expected a folder, a Parquet file, "
            "a Hugging Face dataset or a list of files"
        )

    @classmethod
    def _from(cls, source: str, shared: _Shared) -> Photos:
        return cls(source, shared, range(len(shared.photos)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Photo:
        return self._shared.photos[self._rows[index]]

    def __iter__(self) -> Iterator[Photo]:
        return (self._shared.photos[row] for row in self._rows)

    def __repr__(self) -> str:
        return f"Photos({self.source!r}: {len(self)} photos, {len(self.classes())} classes)"

    @property
    def skipped(self) -> list[Skipped]:
        """Photos that could not be read so far, each once; shared with every subset."""
        return self._shared.skipped

    def read(self, index: int) -> Image.Image | None:
        """The photo as upright 8-bit RGB, or None where it cannot be read (then named in `skipped`)."""
        image = self._try(index)
        if isinstance(image, Skipped):
            self._shared.skip(image)
            return None
        return image

    def _try(self, index: int) -> Image.Image | Skipped:
        row = self._rows[index]
        try:
            return decode(self._shared.store.encoded(row))
        except (OSError, ValueError) as error:
            return Skipped(self._shared.photos[row].name, _short(error))

    def sha256(self, index: int) -> str:
        """Hex SHA-256 of the encoded bytes, kept in memory once known.

        Where the bytes cannot be had the photo is named in `skipped` and counts as an empty file. Rows of a
        dataset that hands out decoded pictures only are hashed as upright RGB pixels (in BMP form).
        """
        row = self._rows[index]
        known = self._shared.hashes.get(row)
        if known is None:
            try:
                data = self._shared.store.encoded(row)
            except (OSError, ValueError) as error:
                self._shared.skip(Skipped(self._shared.photos[row].name, _short(error)))
                data = b""
            known = self._shared.hashes[row] = hashlib.sha256(data).hexdigest()
        return known

    def stamp(self, index: int) -> str | None:
        """Name of a photo, size and time of change of the file (or table) that holds it; None where there is no file.

        Nothing is read for it. As long as it is the same the photo is taken to be; where it is another the photo may
        still be the same, in a copy of its folder for instance: `sha256` tells.
        """
        row = self._rows[index]
        stamp = self._shared.store.stamp(row)
        return None if stamp is None else f"{self._shared.photos[row].name}|{stamp[0]}|{stamp[1]}"

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """Hex SHA-256 over the content hashes of these photos (or all), whatever their order and names."""
        chosen = range(len(self)) if indices is None else sorted(indices)  # by row: a row group is read once
        hashes = sorted(self.sha256(index) for index in chosen)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def classes(self) -> dict[str, int]:
        """First label -> number of photos, in the order of first appearance; unlabelled photos left out."""
        return dict(Counter(photo.labels[0] for photo in self if photo.labels))

    def of_class(self, identifiers: Sequence[str], class_index: int | None = None) -> list[int]:
        """Indices of the photos of one class, in order; empty where none is found.

        identifiers: WordNet id and names of the class, the surest first. The first that finds photos
        decides: as a whole label, then as one synonym of a label, then by its own synonyms (split at
        commas). Case does not matter and "_" counts as a space. Last comes `class_index`.
        """
        if isinstance(identifiers, str):
            identifiers = [identifiers]
        wholes, parts, by_class_index = self._by_label
        for identifier in identifiers:
            for word in dict.fromkeys([identifier, *_split(identifier)]):
                found = wholes.get(_key(word)) or parts.get(_key(word))
                if found:
                    return list(found)
        return list(by_class_index.get(class_index, [])) if class_index is not None else []

    @cached_property
    def _by_label(self) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[int, list[int]]]:
        # Whole labels and synonyms apart: "maillot" is a class, and a synonym in "maillot, tank suit".
        wholes: dict[str, list[int]] = {}
        parts: dict[str, list[int]] = {}
        by_class_index: dict[int, list[int]] = {}
        for index, photo in enumerate(self):
            synonyms = {_key(part) for label in photo.labels if "," in label for part in _split(label)}
            for key in dict.fromkeys(_key(label) for label in photo.labels):
                (parts if key in synonyms else wholes).setdefault(key, []).append(index)
            if photo.class_index is not None:
                by_class_index.setdefault(photo.class_index, []).append(index)
        return wholes, parts, by_class_index

    def batches(
        self,
        prepare: Callable[[Image.Image], torch.Tensor],
        batch_size: int,
        indices: Sequence[int] | None = None,
        workers: int = 2,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """The photos as batches, in order, decoded in `workers` threads at most one batch ahead.

        prepare: an RGB picture to CHW float32 in [0, 1], the same shape for each; called in the threads.
        indices: which photos and in which order; None = all.

        Yields the indices that were read and their images, NCHW. Unreadable photos are left out (and named
        in `skipped`), so a batch is full except for the last. What `prepare` raises is passed on.

        Raises `UserError` for a batch size or worker count below 1, an index out of range and, at the end
        of the pass, where there were photos and not one could be read.
        """
        if batch_size < 1 or workers < 1:
            raise UserError(f"batch size {batch_size} and {workers} workers given; both must be 1 or more")
        chosen = list(range(len(self)) if indices is None else indices)
        for index in chosen:
            if not 0 <= index < len(self):
                raise UserError(f"no photo {index} in {self.source}: it has 0 to {len(self) - 1}")
        return self._batches(prepare, batch_size, chosen, workers)

    def _batches(
        self, prepare: Callable[[Image.Image], torch.Tensor], batch_size: int, chosen: list[int], workers: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        import torch

        def load(index: int) -> torch.Tensor | Skipped:
            image = self._try(index)
            return image if isinstance(image, Skipped) else prepare(image)

        pool = ThreadPoolExecutor(workers, thread_name_prefix="entoptic-photos")
        pending: deque[tuple[int, Future[torch.Tensor | Skipped]]] = deque()
        todo = iter(chosen)
        kept: list[int] = []
        images: list[torch.Tensor] = []
        read = 0
        last_skipped: Skipped | None = None
        try:
            while True:
                while len(pending) < batch_size + workers and (index := next(todo, None)) is not None:
                    pending.append((index, pool.submit(load, index)))
                if not pending:
                    break
                index, future = pending.popleft()
                loaded = future.result()
                if isinstance(loaded, Skipped):
                    self._shared.skip(loaded)
                    last_skipped = loaded
                    continue
                kept.append(index)
                images.append(loaded)
                read += 1
                if len(kept) == batch_size:
                    images_NCHW = torch.stack(images)
                    batch, kept, images = kept, [], []
                    yield batch, images_NCHW
            if kept:
                yield kept, torch.stack(images)
        finally:  # also where the caller stops early
            pool.shutdown(wait=True, cancel_futures=True)
        if last_skipped is not None and not read:
            raise UserError(
                f"none of {len(chosen)} photos from {self.source} could be read "
                f"({last_skipped.name}: {last_skipped.reason})"
            )

    def subset(self, indices: Iterable[int]) -> Photos:
        """These photos, in this order; `skipped` and known content hashes are shared with this set."""
        rows = [self._rows[index] for index in indices]
        name = self.source if len(rows) == len(self) else f"{self.source} ({len(rows)} of {len(self)})"
        return Photos(name, self._shared, rows)

    def _repr_html_(self) -> str:
        """A few thumbnails spread over the set, with counts; for notebooks."""
        shown = sorted({len(self) * step // _THUMBNAILS for step in range(_THUMBNAILS)}) if len(self) else []
        pictures = []
        for index in shown:
            image = self.read(index)
            if image is not None:
                image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=80)
                uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
                title = html.escape(": ".join([self[index].name, *self[index].labels[:2]]), quote=True)
                pictures.append(f'<img src="{uri}" alt="{title}" title="{title}" style="margin:2px">')
        mine = {photo.name for photo in self}
        skipped = sum(skipped.name in mine for skipped in self.skipped)
        return (
            f"<div><p><b>{html.escape(self.source)}</b>: {len(self)} photos, {len(self.classes())} classes, "
            f"{skipped} could not be read so far</p>{''.join(pictures)}</div>"
        )


# ------------------------------------------------------------------------------------------------ labels


def _split(label: str) -> list[str]:
    return [part.strip() for part in label.split(",") if part.strip()]


def _key(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def _labels(*known: object) -> tuple[str, ...]:
    """The label strings among `known`, then the synonyms inside them; each once."""
    wholes = [text for value in known if isinstance(value, (str, int, float)) and (text := str(value).strip())]
    return tuple(dict.fromkeys([*wholes, *(part for label in wholes for part in _split(label))]))


def _photo_from_row(name: str, row: Mapping[str, Any], label_names: Sequence[str] | None) -> Photo:
    """The photo that a table's row describes; integer labels by their names where these are known."""
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
        _labels(row.get("wnid"), row.get("name"), label),
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


# ------------------------------------------------------------------------------------- files and folders


class _Files:
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


def _files(root: Path, photos: Iterable[Photo]) -> _Shared:
    ordered = sorted(photos, key=lambda photo: photo.name)
    return _Shared(_Files(root, [photo.name for photo in ordered]), ordered)


def _open_path(source: str | os.PathLike[str]) -> tuple[str, _Shared]:
    if not os.fspath(source):
        raise UserError("photos were given as an empty path; expected a folder or a Parquet file")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return str(path), _open_folder(path)
        if not path.exists():
            raise UserError(f'no photos at "{path}": {_what_is_missing(path)}')
    except OSError as error:
        raise UserError(f'photos at "{path}" cannot be opened: {_short(error)}') from None
    if path.suffix.lower() in (".parquet", ".pq"):
        return str(path), _open_parquet(path)
    if path.suffix.lower() in EXTENSIONS:
        return str(path), _files(path.parent, [Photo(path.name)])
    raise UserError(f'"{path}" is neither a folder, a Parquet file (.parquet) nor an image ({" ".join(EXTENSIONS)})')


def _what_is_missing(path: Path) -> str:
    """Which part of the path is not there, and what its folder holds that is spelt nearly so."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        siblings = sorted(os.listdir(missing.parent))
    except OSError:
        siblings = []
    return f'"{missing.name}" does not exist in "{missing.parent}"{nearest(missing.name, siblings)}'


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders directly inside; hidden ones left out; sorted."""
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


def _open_folder(root: Path) -> _Shared:
    images, folders = _scan(root)
    if (root / "labels.csv").is_file():
        return _open_labelled(root, images)
    photos = [Photo(name) for name in images]
    deeper = []
    for folder in folders:
        inside, below = _scan(root / folder)
        photos += [Photo(f"{folder}/{name}", _labels(folder)) for name in inside]
        if not inside and any(_scan(root / folder / name)[0] for name in below):
            deeper.append(folder)
    if photos:
        return _files(root, photos)
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


def _open_labelled(root: Path, images: list[str]) -> _Shared:
    """A folder with labels.csv: the files that it names, and the images beside it without a label."""
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
            described = _photo_from_row(where, {key: value or None for key, value in row.items()}, None)
            before = photos.get(name, Photo(name))  # a file may have several rows, one for each label
            class_index = described.class_index if before.class_index is None else before.class_index
            photos[name] = Photo(name, tuple(dict.fromkeys(before.labels + described.labels)), class_index)
    if rows and len(missing) == len(rows):
        name = missing[0].name
        hint = nearest(name, images)
        raise UserError(f'none of the {len(rows)} files that "{root / "labels.csv"}" names exist, say "{name}"{hint}')
    if not photos:
        raise UserError(f'no photos in "{root}": its labels.csv has no rows')
    shared = _files(root, photos.values())
    for skipped in missing:
        shared.skip(skipped)
    return shared


def _read_labels(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of each row; column names in lower case."""
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
        raise UserError(f'"{path}" is not a readable table: {_short(error)}') from None


def _open_list(source: Iterable[Any]) -> tuple[str, _Shared]:
    paths = list(source)
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise UserError(f"a list of photos must hold file paths; it holds {type(path).__name__}")
    if not paths:
        raise UserError("photos were given as an empty list; expected at least one file")
    names = dict.fromkeys(Path(path).expanduser().as_posix() for path in paths)
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
    shared = _files(Path(), [Photo(name) for name in names if name not in gone])
    for skipped in missing:
        shared.skip(skipped)
    return f"{len(names)} files", shared


# ------------------------------------------------------------------------------------------------ tables


def _cell_bytes(cell: object, folder: Path) -> bytes:
    """The encoded image in a table's cell: bytes, struct{bytes, path} or a decoded picture."""
    if isinstance(cell, Image.Image):
        # Pictures that arrive decoded have no file; BMP stores RGB as it is, the same in every version.
        buffer = io.BytesIO()
        _upright_rgb(cell).save(buffer, "BMP")
        return buffer.getvalue()
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path"):
            return (folder / str(cell["path"])).read_bytes()
    raise ValueError("no image in this row")


class _Parquet:
    """Image cells of a Parquet file; keeps the row groups used last, up to 256 MiB but at least two."""

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
                raise ValueError(f"row group {group} is damaged: {_short(error)}") from None
        self._cache[group] = cells
        return cells

    def _cached_bytes(self) -> int:
        return sum(int(cells.nbytes) for cells in self._cache.values())

    def _group_bytes(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).total_byte_size)


def _open_parquet(path: Path) -> _Shared:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f'"{path}" is not a readable Parquet file: {_short(error)}') from None
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
        raise UserError(f'the label columns of "{path}" are damaged: {_short(error)}') from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    photos = _photos_of_rows(path.name, file.metadata.num_rows, columns, _parquet_label_names(schema.metadata))
    return _Shared(_Parquet(path, file, column), photos)


def _parquet_label_names(metadata: Mapping[bytes, bytes] | None) -> list[str] | None:
    """Class names from the schema's `huggingface` JSON; None where it has none."""
    try:
        parsed = json.loads((metadata or {})[b"huggingface"])
        names = parsed.get("info", parsed)["features"]["label"]["names"]
        return [str(name) for name in names] if isinstance(names, list) else None
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _image_column(source: str, columns: Sequence[str], candidates: Sequence[str]) -> str:
    """The column "image", or the only one that holds images (CIFAR calls it "img")."""
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
        _photo_from_row(f"{prefix}#{row}", {name: cells[row] for name, cells in columns.items()}, label_names)
        for row in range(count)
    ]


class _Rows:
    """Image cells of a `datasets.Dataset`."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset = dataset
        self._column = column

    def encoded(self, row: int) -> bytes:
        try:
            cell = self._dataset[row][self._column]
        except Exception as error:  # a dataset that decodes by itself raises what its decoder raises
            raise ValueError(f"row not readable: {_short(error)}") from None
        return _cell_bytes(cell, Path())

    def stamp(self, row: int) -> tuple[int, int] | None:
        return None


def _open_dataset(dataset: Any) -> tuple[str, _Shared]:
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
    return f"dataset ({split}, {len(dataset)} rows)", _Shared(_Rows(dataset, column), photos)
