"""`Photos`: a set of real photos with optional labels.

`Photos` lists what there is when it is opened and reads pixels only when asked. One bad file never stops
a pass: it is left out and named in `Photos.skipped`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from entoptic.base.unread import UnreadPhotos, hear
from entoptic.errors import NoneReadable, Unreadable, UserError, counted, printable
from entoptic.images.decode import decode, decode_pixels, open_image, room_for, short_reason
from entoptic.images.photo_lists import open_list
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, comparable, split_synonyms
from entoptic.images.photo_sources import open_path
from entoptic.images.photo_tables import open_dataset

if TYPE_CHECKING:
    import torch

_THUMBNAILS = 8
_THUMBNAIL_PIXELS = 96
_NAMED = 4


class Photos:
    """Real images with optional labels; made by `Photos.open`. Nothing is decoded before it is asked for."""

    def __init__(self, source: str, shared: PhotoSource, rows: Sequence[int]) -> None:
        self.source = source
        self._shared = shared
        self._rows = list(rows)

    @classmethod
    def open(cls, source: Any) -> Photos:
        """Opens photos; files are in the order of their names, rows in the order of the table.

        What is no photo, or cannot be one, is left out: a warning counts it, and `skipped` names it.

        Args:
            source: one of

                - a folder of class folders (`DIR/CLASS/*.jpg`; the folder's name is the label), in any format that Pillow reads,
                - a flat folder, with or without `labels.csv` (column `file`, `filename`, `file_name` or `path`, and any of
                  class_index, wnid, name, label; images it does not name are kept, without a label; folders count only
                  where it names them),
                - a Hugging Face imagefolder: either of these with `metadata.csv` or `metadata.jsonl`, whose labels are added,
                - a Parquet file in Hugging Face image layout (column image = struct{bytes, path}; optional
                  columns label, wnid, name, class_index), read a row group at a time, or a folder of its shards,
                - an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), read member by member; a photo's folder is its label,
                - a pattern such as `photos/**/*.jpg`; a photo's folder is its label, as far as the pattern leaves it open,
                - a `datasets.Dataset` with an image column,
                - an image file, or an iterable of image files (a file given twice counts once),
                - a PIL image or an array (height x width x 3, uint8), or a list of these, files among them or not.

        Raises:
            UserError: the source is missing, holds no photos or has another layout.
        """
        if isinstance(source, Photos):
            return source
        if isinstance(source, (str, os.PathLike)):
            opened = cls._from(*open_path(source))
            opened._shared.path = os.fspath(source)
            return opened
        if hasattr(source, "column_names") or hasattr(source, "features"):
            return cls._from(*open_dataset(source))
        if isinstance(source, Image.Image) or (isinstance(source, np.ndarray) and source.ndim == 3):
            return cls._from(*open_list([source]))
        if isinstance(source, Mapping):
            splits = ", ".join(f'"{key}"' for key in source)
            raise UserError(f"photos were given as a mapping with the keys {splits}; give one of its values")
        if isinstance(source, Iterable) and not isinstance(source, bytes):
            return cls._from(*open_list(source))
        raise UserError(
            f"photos were given as {type(source).__name__}; expected a folder, a Parquet file, "
            "an archive, a pattern, a Hugging Face dataset, or a list of files, PIL images or arrays"
        )

    @classmethod
    def _from(cls, source: str, shared: PhotoSource) -> Photos:
        if shared.skipped:
            warnings.warn(_left_out(source, shared.skipped), stacklevel=1)
        shared.name = source
        return cls(source, shared, range(len(shared.photos)))

    def __reduce__(self) -> Any:
        """Photos in files are opened again by another process, which must find the same names there."""
        if not self._shared.path:
            return object.__reduce__(self)
        return _opened_again, (self._shared.path, self.source, self._rows, _listing(self._shared))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Photo:
        return self._shared.photos[self._rows[index]]

    def __iter__(self) -> Iterator[Photo]:
        return (self._shared.photos[row] for row in self._rows)

    def __repr__(self) -> str:
        return f"Photos({self.source!r}: {counted(len(self), 'photo')}, {counted(len(self.classes()), 'class', 'classes')})"

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out so far, each once: photos that could not be read, what else there is; shared with every subset."""
        return self._shared.skipped

    @property
    def found(self) -> int:
        """How many photos the source seems to hold: those that it lists, and those left out when it was opened."""
        listed = {photo.name for photo in self._shared.photos}
        return len(listed) + sum(one.is_photo and one.name not in listed for one in self.skipped)

    def read(self, index: int) -> Image.Image | None:
        """Reads a photo as upright 8-bit RGB, or None where it cannot be read (then named in `skipped`).

        Args:
            index: position of the photo.
        """
        image = self._try(index)
        if isinstance(image, Skipped):
            self.leave_out(image)
            return None
        return image

    def leave_out(self, unread: Skipped) -> bool:
        """Notes a photo that could not be read, for `skipped` and for what the job under way says at its end.

        Args:
            unread: the photo.

        Returns:
            Whether somebody has still to say it: it is news, and no job is under way.
        """
        new = self._shared.skip(unread)
        return (
            not hear(self._shared.name or self.source, len(self._shared.photos), {unread.name: unread.reason}) and new
        )

    def _try(self, index: int) -> Image.Image | Skipped:
        row = self._rows[index]
        try:
            return decode(self._shared.store.encoded(row))
        except (OSError, ValueError) as error:
            return Skipped(self._shared.photos[row].name, short_reason(error))

    def leave_out_by_name(self, reasons: Mapping[str, str]) -> None:
        """Notes photos of this set that an earlier pass could not read; see `leave_out`.

        Args:
            reasons: why, by the name of the photo; other names are passed over.
        """
        mine = {photo.name for photo in self} if reasons else set()
        for name in [name for name in reasons if name in mine]:
            self.leave_out(Skipped(name, reasons[name]))

    def path(self, index: int) -> Path | None:
        """Returns the image file of a photo; None where it is in a table, an archive or memory.

        Args:
            index: position of the photo.
        """
        return self._shared.store.path(self._rows[index])

    def sha256(self, index: int) -> str:
        """Hashes the encoded bytes of a photo (hex SHA-256); kept in memory once known.

        Where the bytes cannot be read the photo is named in `skipped` and counts as an empty file. Rows of a dataset that hands
        out decoded pictures only are hashed as upright RGB pixels (in BMP form).

        Args:
            index: position of the photo.
        """
        row = self._rows[index]
        known = self._shared.hashes.get(row)
        if known is None:
            try:
                data = self._shared.store.encoded(row)
            except (OSError, ValueError) as error:
                self.leave_out(Skipped(self._shared.photos[row].name, short_reason(error)))
                data = b""
            known = self._shared.hashes[row] = hashlib.sha256(data).hexdigest()
        return known

    def stamp(self, index: int) -> str | None:
        """Returns a photo's name with size and time of change of the file (or table) that holds it; None where there is no file.

        Nothing is read for it. While the stamp is the same the photo is taken to be the same. Where it differs the photo may
        still be the same, in a copy of its folder for instance: compare `sha256`.

        Args:
            index: position of the photo.
        """
        row = self._rows[index]
        stamp = self._shared.store.stamp(row)
        return None if stamp is None else f"{self._shared.photos[row].name}|{stamp[0]}|{stamp[1]}"

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """Hashes the content hashes of photos (hex SHA-256), whatever their order and names.

        Args:
            indices: the photos; None for all.
        """
        chosen = range(len(self)) if indices is None else sorted(indices)  # by row: a row group is read once
        hashes = sorted(self.sha256(index) for index in chosen)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def order(self) -> str:
        """Hashes the content hashes of all photos in their order (hex SHA-256), which follows from their names."""
        return hashlib.sha256("\n".join(self.sha256(index) for index in range(len(self))).encode()).hexdigest()

    def classes(self) -> dict[str, int]:
        """Counts photos by first label, in the order of first appearance; unlabelled photos left out."""
        return dict(Counter(photo.labels[0] for photo in self if photo.labels))

    def of_class(self, identifiers: Sequence[str], class_index: int | None = None) -> list[int]:
        """Finds the photos of one class.

        The first identifier that finds photos decides: as a whole label, then as one synonym of a label, then by its own
        synonyms (split at commas). Case does not matter and "_" counts as a space. Last comes `class_index`.

        Args:
            identifiers: WordNet id and names of the class, the surest first.
            class_index: index of the class in the model.

        Returns:
            Indices in order; empty where none is found.
        """
        if isinstance(identifiers, str):
            identifiers = [identifiers]
        wholes, parts, by_class_index = self._by_label
        for identifier in identifiers:
            for word in dict.fromkeys([identifier, *split_synonyms(identifier)]):
                found = wholes.get(comparable(word)) or parts.get(comparable(word))
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
            synonyms = {comparable(part) for label in photo.labels if "," in label for part in split_synonyms(label)}
            for key in dict.fromkeys(comparable(label) for label in photo.labels):
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
        """Iterates over photos in batches, in order, decoded in threads at most one batch ahead.

        Args:
            prepare: converts an RGB picture to C×H×W float32 in [0, 1], the same shape for each; called in the threads.
            batch_size: photos per batch.
            indices: which photos and in which order; None for all.
            workers: number of threads.

        Returns:
            Batches of the indices that were read and their images, N×C×H×W. Unreadable photos are left out (and named in
            `skipped`), so a batch is full except for the last. So are photos for which `prepare` raises `Unreadable`; what
            else it raises is passed on.

        Raises:
            UserError: a batch size or worker count below 1, or an index out of range.
            NoneReadable: at the end of the pass, where there were photos and not one could be read.
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
            name = self[index].name
            try:
                image = open_image(self._shared.store.encoded(self._rows[index]))
            except (OSError, ValueError) as error:
                return Skipped(name, short_reason(error))
            with room_for(image):
                try:
                    image = decode_pixels(image)
                except (OSError, ValueError) as error:
                    return Skipped(name, short_reason(error))
                try:
                    return prepare(image)
                except Unreadable as error:  # what else it raises is passed on
                    return Skipped(name, str(error))

        pool = ThreadPoolExecutor(workers, thread_name_prefix="entoptic-photos")
        pending: deque[tuple[int, Future[torch.Tensor | Skipped]]] = deque()
        todo = iter(chosen)
        kept: list[int] = []
        images: list[torch.Tensor] = []
        read = 0
        last_skipped: Skipped | None = None
        unsaid: dict[str, str] = {}
        try:
            while True:
                while len(pending) < batch_size + workers and (index := next(todo, None)) is not None:
                    pending.append((index, pool.submit(load, index)))
                if not pending:
                    break
                index, future = pending.popleft()
                loaded = future.result()
                if isinstance(loaded, Skipped):
                    unsaid |= {loaded.name: loaded.reason} if self.leave_out(loaded) else {}
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
            if unsaid and read:
                warnings.warn(UnreadPhotos(self.source, len(self._shared.photos), unsaid), stacklevel=2)
        if last_skipped is not None and not read:
            told = f"{counted(len(chosen), 'photo')} tried; {last_skipped.name}: {last_skipped.reason}"
            raise NoneReadable(f"no photo from {self.source} could be read ({told})", [last_skipped.name])

    def subset(self, indices: Iterable[int]) -> Photos:
        """Selects photos, in this order; `skipped` and known content hashes are shared with this set.

        Args:
            indices: positions of the photos.
        """
        rows = [self._rows[index] for index in indices]
        name = self.source if len(rows) == len(self) else f"{self.source} ({len(rows)} of {len(self)})"
        return Photos(name, self._shared, rows)

    def _repr_html_(self) -> str:
        """Shows a few thumbnails spread over the set, with counts; for notebooks."""
        chosen = sorted({len(self) * step // _THUMBNAILS for step in range(_THUMBNAILS)}) if len(self) else []
        pictures = []
        for index in chosen:
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
        return printable(
            f"<div><p><b>{html.escape(self.source)}</b>: {counted(len(self), 'photo')}, "
            f"{counted(len(self.classes()), 'class', 'classes')}, {skipped} could not be read so far</p>{''.join(pictures)}</div>"
        )


def _left_out(source: str, skipped: Sequence[Skipped]) -> str:
    """Says in one sentence what was left out when a source was opened."""
    named = "; ".join(f"{one.name} ({one.reason})" for one in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return printable(f"left out of the photos in {source}: {named}{more}")


def _listing(shared: PhotoSource) -> str:
    """A hash of the names of all photos of a source."""
    return hashlib.sha256(
        "\n".join(photo.name for photo in shared.photos).encode(errors="backslashreplace")
    ).hexdigest()


def _opened_again(path: str, source: str, rows: list[int], listing: str) -> Photos:
    """Photos that another process had opened.

    Raises:
        UserError: they are not here, or others are.
    """
    found = Photos.open(path)
    if _listing(found._shared) != listing:
        raise UserError(f"the photos at {path} are not those that were opened before")
    return Photos(source, found._shared, rows)
