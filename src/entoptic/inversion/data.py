"""Photos and their feature maps, read once and kept in a folder: what an inverter is trained on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.base.cache import content_key
from entoptic.base.files import allocate, lock_folder, write_atomically
from entoptic.base.pixels import centre_square
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.card import Card

Progress = Callable[[str, int, int], None]
Encode = tuple[Callable[[Tensor], Tensor], str]
_BATCH = 32
_WORKERS = 4
_FLUSH = 32
"""Batches between two points from which an interrupted pass goes on."""
LOCK = ".pairs.lock"
"""Of its own: a training may keep its pairs in the very folder that it holds."""


@dataclass(frozen=True)
class Pairs:
    """N photos and their maps, on disk, with the moments of the maps.

    Attributes:
        pictures: N×3×S×S uint8, or with `encoded` the prior's latents N×c×s×s float16. maps: N×C×h×w float16.
        mean_C, sd_C: of the maps over photos and positions, float32.
        key: hash of all they depend on. skipped: photos that could not be read.
    """

    pictures: np.ndarray
    maps: np.ndarray
    mean_C: Tensor
    sd_C: Tensor
    key: str
    skipped: int
    encoded: bool = False

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pictures B×3×S×S in [0, 1] (or latents) and maps B×C×h×w, float32."""
        places = np.asarray(rows)
        pictures = torch.from_numpy(self.pictures[places]).float()
        return pictures if self.encoded else pictures / 255, torch.from_numpy(self.maps[places]).float()


def preprocessing(card: Card) -> dict[str, Any]:
    """What of a card changes the map of a photo's central square, JSON-able."""
    return {name: list(getattr(card, name)) for name in ("size", "mean", "std")}


def open_photos(photos: Any) -> list[Photos]:
    """One or several photo sets, as `Photos.open` takes them."""
    return [Photos.open(one) for one in (photos if isinstance(photos, (list, tuple)) else [photos])]


def make_pairs(
    maps: FeatureMaps,
    photos: Any,
    size: int,
    folder: str | Path,
    *,
    limit: int = 0,
    encode: Encode | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Pairs:
    """Reads photos and their maps into `folder`, or opens what is there; interrupted, the same call goes on.

    Both are of the photo's central square: what the network sees, resized to its input without a further crop, and
    the picture of `size` pixels that is to be recovered.

    Args:
        photos: anything `Photos.open` takes, or a list of them. limit: most photos taken, at random; 0 takes all.
        encode: (what makes latents of pictures B×3×S×S in [0, 1], the identity of that) where encoding is dear: the
            latents are kept in place of the pictures.

    Raises:
        UserError: no photo can be read, the folder holds other pairs, has no room, or another job is filling it.
    """
    where, asked = Path(folder), _Asked.of(maps, photos, size, limit, encode)
    record = _record(where, asked, progress)
    if record["seen"] < len(asked.places):
        with lock_folder(where, name=LOCK, instead="give the trainings folders of their own (--pairs)"):
            record = _record(where, asked, progress)  # another job may have gone on with it in between
            _read(where, asked, record, progress)
    elif not _noted(where, record):
        with contextlib.suppress(OSError):  # a folder that can only be read costs the check again
            _note(where, record)
    return _opened(where, asked, record)


# --- which photos ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """Pairs that are asked for. places: (set, photo) of each, in the order in which they are read."""

    maps: FeatureMaps
    sets: list[Photos]
    places: list[tuple[int, int]]
    size: int
    encode: Encode | None

    @classmethod
    def of(cls, maps: FeatureMaps, photos: Any, size: int, limit: int, encode: Encode | None) -> _Asked:
        sets = open_photos(photos)
        places = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]
        # A random order: every first part of the pairs is a fair sample of the photos.
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
        return cls(maps, sets, [places[k] for k in order[: limit or None]], size, encode)

    @property
    def options(self) -> dict[str, Any]:
        """All that pairs depend on beside their photos."""
        card, encoded = self.maps.model.card, {"encoded": self.encode[1]} if self.encode else {}
        return {
            "model": card.weights_sha256, "seen": preprocessing(card), "layer": self.maps.layer, "size": self.size,
            "count": len(self.places), **encoded,
        }  # fmt: skip

    @cached_property
    def request(self) -> str:
        """Hash of the options."""
        return content_key(self.options)

    @cached_property
    def stamp(self) -> str:
        """Hash of the photos' names, sizes and times of change, in their order; "" where some are in no file."""
        total = hashlib.sha256()
        for i, j in self.places:
            stamp = self.sets[i].stamp(j)
            if stamp is None:
                return ""
            total.update(f"{i}|{stamp}\n".encode())
        return total.hexdigest()

    def contents(self, count: int, progress: Progress) -> str:
        """Hash of the bytes of the first `count` photos, in their order, as `_then` makes it."""
        # Sorted, so that each part of a table is read once; what is known is kept by the sets.
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos") as pool:
            hashes = pool.map(lambda place: self.sets[place[0]].sha256(place[1]), sorted(self.places[:count]))
            for done, _ in enumerate(hashes, 1):
                progress("looking whether the photos are the same", done, count)
        content = ""
        for i, j in self.places[:count]:
            content = _then(content, self.sets[i].sha256(j))
        return content

    def former_key(self) -> str:
        """The key of pairs before they had a `request`: of all photos' contents in any order."""
        return content_key(self.options | {"photos": [one.fingerprint() for one in self.sets]})


def _then(content: str, sha256: str) -> str:
    """The hash of photos and one more."""
    return hashlib.sha256((content + sha256).encode()).hexdigest()


def _record(where: Path, asked: _Asked, progress: Progress) -> dict[str, Any]:
    """How far the pass over the photos has come.

    Where their names, sizes and times are those that were noted, nothing is read. Else, in a copy of a folder for
    instance, the bytes of those that were read before tell whether they are the same.

    Raises:
        UserError: the folder holds other pairs.
    """
    about, none = where / "pairs.json", [0.0] * asked.maps.channels
    now = {"request": asked.request, "stamp": asked.stamp}
    if not about.is_file():
        return now | {"content": "", "seen": 0, "kept": 0, "sum": none, "squares": none}
    record = json.loads(about.read_text())
    if "request" not in record:
        if record["key"] == asked.former_key():
            return record | now | {"content": asked.contents(record["seen"], progress)}
    elif record["request"] == asked.request and (
        (asked.stamp and record["stamp"] == asked.stamp)
        or record["content"] == asked.contents(record["seen"], progress)
    ):
        return record | now
    raise UserError(f"{where} holds the maps of other photos, another layer or size; choose another folder")


def _noted(where: Path, record: dict[str, Any]) -> bool:
    return json.loads((where / "pairs.json").read_text()) == record


def _note(where: Path, record: dict[str, Any]) -> None:
    write_atomically(where / "pairs.json", json.dumps(record).encode())


# --- the arrays -----------------------------------------------------------------------------------------------------


def _opened(where: Path, asked: _Asked, record: dict[str, Any]) -> Pairs:
    """Pairs that are all there: any number of jobs may read them."""
    kept, grid = record["kept"], asked.maps.grid
    if not kept:
        sources = ", ".join(one.source for one in asked.sets)
        raise UserError(f"none of the {record['seen']} photos in {sources} can be read")
    count = kept * grid[0] * grid[1]
    mean = np.array(record["sum"]) / count
    variance = np.maximum(np.array(record["squares"]) / count - mean**2, 0)
    pictures, values = (np.load(where / name, mmap_mode="r") for name in ("pictures.npy", "maps.npy"))
    key = record.get("key") or content_key({"request": record["request"], "photos": record["content"]})
    return Pairs(
        pictures[:kept], values[:kept], torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float(),
        key, record["seen"] - kept, asked.encode is not None,
    )  # fmt: skip


def _files(where: Path, asked: _Asked, fresh: bool) -> dict[str, np.memmap]:
    """The arrays of the pairs, to be written."""
    maps, size, pixels = asked.maps, asked.size, (np.uint8, (3, asked.size, asked.size))
    shapes: dict[str, Any] = {"pictures.npy": pixels, "maps.npy": (np.float16, (maps.channels, *maps.grid))}
    if asked.encode:
        with torch.no_grad():
            latent = asked.encode[0](torch.zeros(1, 3, size, size, device=maps.model.device))
        shapes["pictures.npy"] = (np.float16, tuple(latent.shape[1:]))
    files: dict[str, np.memmap] = {}
    for name, (dtype, shape) in shapes.items():
        if fresh:
            files[name] = np.lib.format.open_memmap(where / name, "w+", dtype, (len(asked.places), *shape))
            allocate(where / name)
        else:
            files[name] = np.load(where / name, mmap_mode="r+")
    return files


def _read(where: Path, asked: _Asked, record: dict[str, Any], progress: Progress) -> None:
    """Reads what `record` lacks, and keeps the record up to date."""
    maps, places, encode = asked.maps, asked.places, asked.encode
    files = _files(where, asked, record["seen"] == 0)
    total, squares, before = np.array(record["sum"]), np.array(record["squares"]), record["seen"]

    def decode(place: tuple[int, int]) -> tuple[str, tuple[Tensor, Tensor] | None]:
        one, index = asked.sets[place[0]], place[1]
        photo = one.read(index)
        both = (
            None if photo is None else (centre_square(photo, maps.model.card.size[0]), centre_square(photo, asked.size))
        )
        return one.sha256(index), both  # the bytes are at hand in the system's cache now

    def keep() -> None:
        for file in files.values():
            file.flush()
        _note(where, record)

    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos")
    try:
        while record["seen"] < len(places):
            chunk = places[record["seen"] : record["seen"] + _BATCH]
            hashes, decoded = zip(*pool.map(decode, chunk), strict=True)
            read = [both for both in decoded if both is not None]
            if read:
                seen = torch.stack([large for large, _ in read]).float() / 255
                with torch.no_grad():
                    values = maps.read(seen).cpu().numpy()
                if not np.isfinite(values.astype(np.float16)).all():
                    raise UserError(f"the maps of {maps} reach {abs(values).max():.3g}, which float16 cannot hold")
                first = record["kept"]
                pictures = torch.stack([small for _, small in read])
                if encode:
                    with torch.no_grad():
                        pictures = encode[0](pictures.to(maps.model.device).float() / 255).cpu()
                files["pictures.npy"][first : first + len(read)] = pictures.numpy()
                files["maps.npy"][first : first + len(read)] = values
                total = total + values.astype(np.float64).sum((0, 2, 3))
                squares = squares + np.square(values.astype(np.float64)).sum((0, 2, 3))
            record |= {
                "seen": record["seen"] + len(chunk), "kept": record["kept"] + len(read),
                "sum": total.tolist(), "squares": squares.tolist(), "content": reduce(_then, hashes, record["content"]),
            }  # fmt: skip
            if record["seen"] % (_FLUSH * _BATCH) == 0:
                keep()
            progress("reading photos and their maps", record["seen"], len(places))
    finally:  # also on Ctrl-C: whole batches are not read again
        pool.shutdown()
        if record["seen"] > before:
            keep()
