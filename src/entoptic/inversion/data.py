"""Photos and their feature maps, read once and stored in a folder: the training data of an inverter."""

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
from entoptic.base.files import (
    allocate,
    check_inside,
    delete_unfinished,
    lock_folder,
    path_exists,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.pixels import centre_square
from entoptic.base.progress import Progress
from entoptic.base.records import check_fields, list_of, read_array, read_json
from entoptic.errors import Unreadable, UserError, counted
from entoptic.images.photos import Photos
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.card import Card

Encode = tuple[Callable[[Tensor], Tensor], str]
"""A function from pictures to latents, and its identity."""
_BATCH = 32
_WORKERS = 4
_FLUSH = 32
"""Batches between two records of the progress; an interrupted pass resumes at the last one."""
_NAMED = 100
"""Photos that could not be read and that the record names."""
LOCK = ".pairs.lock"
"""A name of its own, since a training may store its pairs in the folder that it has locked."""


@dataclass(frozen=True)
class Pairs:
    """N photos and their maps, on disk, with the moments of the maps.

    Attributes:
        pictures: N×3×S×S uint8; with `encoded` the prior's latents N×c×s×s float16.
        maps: N×C×h×w float16.
        mean_C: mean of the maps over photos and positions, float32.
        sd_C: standard deviation, float32.
        key: hash of everything they depend on.
        skipped: number of photos that could not be read.
        encoded: whether `pictures` are latents.
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
        """Returns pictures B×3×S×S in [0, 1] (or latents) and maps B×C×h×w, float32, of the pairs `rows`."""
        members = np.asarray(rows)
        pictures = torch.from_numpy(self.pictures[members]).float()
        return pictures if self.encoded else pictures / 255, torch.from_numpy(self.maps[members]).float()


def preprocessing(card: Card) -> dict[str, Any]:
    """Returns what of a card determines the map of a photo's central square, as a JSON object."""
    return {name: list(getattr(card, name)) for name in ("size", "mean", "std")}


def open_photos(photos: Any) -> list[Photos]:
    """Opens one or several photo sets, as `Photos.open` takes them."""
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
    """Reads photos and their maps into `folder`, or opens the pairs that are there. The same call resumes an interrupted one.

    Both are of the photo's central square: the map is that of the square at the network's input size, without a further
    crop; the picture is the square at `size` pixels.

    Args:
        maps: the layer to read.
        photos: anything `Photos.open` takes, or a list of them.
        size: side of the pictures in pixels.
        folder: where the pairs are stored.
        limit: maximum number of photos, taken at random; 0 for all.
        encode: a function from pictures B×3×S×S in [0, 1] to latents, and its identity, where encoding is slow. The latents
            are stored instead of the pictures.
        progress: called with (what, done, total).

    Raises:
        UserError: no photo can be read, the folder holds other pairs, the disk is full, or another job is writing there.
    """
    where, request = user_path(folder), _PairsRequest.of(maps, photos, size, limit, encode)
    record = _read_record(where, request, progress)
    if record["seen"] < len(request.members):
        with lock_folder(where, name=LOCK, instead="give the trainings folders of their own (--pairs)"):
            delete_unfinished(where, "")
            record = _read_record(where, request, progress)  # another job may have continued meanwhile
            _fill(where, request, record, progress)
    elif not _is_recorded(where, record):
        with contextlib.suppress(OSError):  # in a read-only folder the check is repeated each time
            _write_record(where, record)
    _name_unread(request, record)
    return _open_pairs(where, request, record)


def _name_unread(request: _PairsRequest, record: dict[str, Any]) -> None:
    """Says which photos could not be read, also where an earlier job tried; records of earlier versions do not name them."""
    noted = record.get("unread")
    for one in noted if isinstance(noted, list) else []:
        if list_of(one, str) and len(one) == 2:
            for photos in request.sets:
                photos.leave_out_by_name({one[0]: one[1]})


# --- which photos ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PairsRequest:
    """The pairs that are asked for.

    Attributes:
        maps: the layer.
        sets: photo sets.
        members: (number of the set, number of the photo) of each pair, in the order in which they are read.
        size: side of the pictures in pixels.
        encode: see `make_pairs`.
    """

    maps: FeatureMaps
    sets: list[Photos]
    members: list[tuple[int, int]]
    size: int
    encode: Encode | None

    @classmethod
    def of(cls, maps: FeatureMaps, photos: Any, size: int, limit: int, encode: Encode | None) -> _PairsRequest:
        """Opens the photo sets and draws the order of the photos."""
        sets = open_photos(photos)
        members = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]
        # In random order, so that the first pairs are a fair sample of the photos.
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
        return cls(maps, sets, [members[k] for k in order[: limit or None]], size, encode)

    @property
    def options(self) -> dict[str, Any]:
        """Everything that the pairs depend on besides the photos."""
        card, encoded = self.maps.model.card, {"encoded": self.encode[1]} if self.encode else {}
        return {
            "model": card.weights_sha256, "seen": preprocessing(card), "layer": self.maps.layer, "size": self.size,
            "count": len(self.members), **encoded,
        }  # fmt: skip

    @property
    def behaviour(self) -> dict[str, str]:
        """What the network computes, where no source names its code; records from before do not hold it."""
        found = self.maps.model.card.behaviour_sha256
        return {"behaviour": found} if found else {}

    @cached_property
    def options_key(self) -> str:
        """Hash of the options."""
        return content_key(self.options | self.behaviour)

    @cached_property
    def stamp(self) -> str:
        """Hash of the photos' names, sizes and modification times, in their order; "" where some photos are in no file."""
        total = hashlib.sha256()
        for i, j in self.members:
            stamp = self.sets[i].stamp(j)
            if stamp is None:
                return ""
            total.update(f"{i}|{stamp}\n".encode("utf-8", "backslashreplace"))
        return total.hexdigest()

    def contents(self, count: int, progress: Progress) -> str:
        """Returns the hash of the bytes of the first `count` photos, in their order, see `_chain_hash`."""
        # Sorted, so that each part of a table is read once. The sets cache the hashes.
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos") as pool:
            hashes = pool.map(lambda member: self.sets[member[0]].sha256(member[1]), sorted(self.members[:count]))
            for done, _ in enumerate(hashes, 1):
                progress("looking whether the photos are the same", done, count)
        content = ""
        for i, j in self.members[:count]:
            content = _chain_hash(content, self.sets[i].sha256(j))
        return content

    def former_key(self) -> str:
        """Returns the key of pairs written by the first version: a hash of the contents of all photos in any order."""
        return content_key(self.options | {"photos": [one.fingerprint() for one in self.sets]})


def _chain_hash(content: str, sha256: str) -> str:
    """Returns the hash of a sequence of photos and one more photo."""
    return hashlib.sha256((content + sha256).encode()).hexdigest()


def _read_record(where: Path, request: _PairsRequest, progress: Progress) -> dict[str, Any]:
    """Returns the record of how far the photos have been read.

    If the photos' names, sizes and times are the recorded ones, nothing is read. Otherwise (in a copied folder, for
    instance) the bytes of the photos that were read before are compared.

    Raises:
        UserError: the folder holds other pairs.
    """
    about, none = where / "pairs.json", [0.0] * request.maps.channels
    current = {"request": request.options_key, "stamp": request.stamp}
    if not path_exists(about):
        return current | {"content": "", "seen": 0, "kept": 0, "sum": none, "squares": none}
    record = read_json(about)
    check_fields(record, {"seen": int, "kept": int, "sum": list, "squares": list}, about)
    check_fields(record, {"request": str, "stamp": str, "content": str} if "request" in record else {"key": str}, about)
    if record["request"] == request.options_key if "request" in record else record["key"] == request.former_key():
        sums = all(list_of(record[name], float) and len(record[name]) == len(none) for name in ("sum", "squares"))
        if not sums or not 0 <= record["kept"] <= record["seen"] <= len(request.members):
            raise Unreadable(f"{about} is damaged: its sums or counts are not those of a pass over photos")
        if "request" not in record:
            return record | current | {"content": request.contents(record["seen"], progress)}
        same_files = request.stamp and record["stamp"] == request.stamp
        if same_files or record["content"] == request.contents(record["seen"], progress):
            return record | current
    raise UserError(f"{where} holds the maps of other photos, another layer or size; choose another folder")


def _is_recorded(where: Path, record: dict[str, Any]) -> bool:
    """Returns whether the file holds this record."""
    return read_json(where / "pairs.json") == record


def _write_record(where: Path, record: dict[str, Any]) -> None:
    """Writes the record, atomically."""
    write_atomically(check_inside(where / "pairs.json", where), json.dumps(record).encode())


# --- the arrays -----------------------------------------------------------------------------------------------------


def _open_pairs(where: Path, request: _PairsRequest, record: dict[str, Any]) -> Pairs:
    """Opens complete pairs. Any number of jobs may read them.

    Raises:
        UserError: none of the photos could be read.
    """
    kept, grid = record["kept"], request.maps.grid
    if not kept:
        sources = ", ".join(one.source for one in request.sets)
        raise UserError(f"no photo in {sources} can be read ({counted(record['seen'], 'photo')} tried)")
    count = kept * grid[0] * grid[1]
    mean = np.array(record["sum"]) / count
    variance = np.maximum(np.array(record["squares"]) / count - mean**2, 0)
    pictures, values = (
        read_array(where / name, kind, (None, *shape)) for name, (kind, shape) in _shapes(request).items()
    )
    if min(len(pictures), len(values)) < kept:
        raise Unreadable(f"the arrays in {where} hold fewer photos than its pairs.json says; choose another folder")
    key = record.get("key") or content_key({"request": record["request"], "photos": record["content"]})
    return Pairs(
        pictures[:kept], values[:kept], torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float(),
        key, record["seen"] - kept, request.encode is not None,
    )  # fmt: skip


def _open_arrays(where: Path, request: _PairsRequest, fresh: bool) -> dict[str, np.memmap]:
    """Returns the arrays of the pairs for writing, new ones if `fresh`."""
    files: dict[str, Any] = {}
    for name, (dtype, shape) in _shapes(request).items():
        file = check_inside(where / name, where)
        if fresh:
            with writing_to(where):
                files[name] = np.lib.format.open_memmap(file, "w+", dtype, (len(request.members), *shape))
            allocate(file)
        else:
            files[name] = read_array(file, dtype, (len(request.members), *shape), mode="r+")
    return files


def _shapes(request: _PairsRequest) -> dict[str, Any]:
    """Returns (dtype, shape of one entry) of the arrays of the pairs, by file."""
    maps, size = request.maps, request.size
    pictures: Any = (np.uint8, (3, size, size))
    if request.encode:
        with torch.no_grad():
            latent = request.encode[0](torch.zeros(1, 3, size, size, device=maps.model.device))
        pictures = (np.float16, tuple(latent.shape[1:]))
    return {"pictures.npy": pictures, "maps.npy": (np.float16, (maps.channels, *maps.grid))}


def _fill(where: Path, request: _PairsRequest, record: dict[str, Any], progress: Progress) -> None:
    """Reads the photos that `record` lacks, and keeps the record up to date."""
    maps, members, encode = request.maps, request.members, request.encode
    files = _open_arrays(where, request, record["seen"] == 0)
    total, squares, before = np.array(record["sum"]), np.array(record["squares"]), record["seen"]

    def decode(member: tuple[int, int]) -> tuple[str, tuple[Tensor, Tensor] | None]:
        one, index = request.sets[member[0]], member[1]
        photo = one.read(index)
        both = (
            None
            if photo is None
            else (centre_square(photo, maps.model.card.size[0]), centre_square(photo, request.size))
        )
        return one.sha256(index), both  # the file is in the system's cache now

    def keep() -> None:
        with writing_to(where, "the photos read before are kept"):
            for file in files.values():
                file.flush()
            _write_record(where, record)

    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos")
    try:
        while record["seen"] < len(members):
            chunk = members[record["seen"] : record["seen"] + _BATCH]
            hashes, decoded = zip(*pool.map(decode, chunk), strict=True)
            read = [both for both in decoded if both is not None]
            lost = [request.sets[i][j].name for (i, j), both in zip(chunk, decoded) if both is None]
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
                "sum": total.tolist(), "squares": squares.tolist(), "content": reduce(_chain_hash, hashes, record["content"]),
            }  # fmt: skip
            if lost:
                reasons = {one.name: one.reason for photos in request.sets for one in photos.skipped}
                noted = [*record.get("unread", []), *([name, reasons.get(name, "")] for name in lost)]
                record["unread"] = noted[:_NAMED]
            if record["seen"] % (_FLUSH * _BATCH) == 0:
                keep()
            progress("reading photos and their maps", record["seen"], len(members))
    finally:  # also on Ctrl-C: complete batches are not read again
        pool.shutdown()
        if record["seen"] > before:
            keep()
