"""Photos and their feature maps, read once and kept in a folder: what an inverter is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.images.cache import content_key
from entoptic.images.lock import hold
from entoptic.images.photos import Photos
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.card import Card
from entoptic.priors.learn import reserve, square

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
    sets, where = open_photos(photos), Path(folder)
    places = [(i, j) for i, one in enumerate(sets) for j in range(len(one))]
    # A random order: every first part of the pairs is a fair sample of the photos.
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    places = [places[k] for k in order[: limit or None]]
    key = content_key({
        "model": maps.model.card.weights_sha256, "seen": preprocessing(maps.model.card), "layer": maps.layer, "size": size,
        "photos": [one.fingerprint() for one in sets], "count": len(places), **({"encoded": encode[1]} if encode else {}),
    })  # fmt: skip
    record = _record(where, key, maps.channels)
    if record["seen"] < len(places):
        with hold(where, name=LOCK, instead="give the trainings folders of their own (--pairs)"):
            record = _record(where, key, maps.channels)  # another job may have gone on with it in between
            _read(maps, sets, places, size, where, record, encode, progress)
    return _opened(where, record, maps, [one.source for one in sets], encode is not None)


def _record(where: Path, key: str, channels: int) -> dict[str, Any]:
    """How far the pass over the photos has come."""
    about = where / "pairs.json"
    if not about.is_file():
        return {"key": key, "seen": 0, "kept": 0, "sum": [0.0] * channels, "squares": [0.0] * channels}
    record = json.loads(about.read_text())
    if record["key"] != key:
        raise UserError(f"{where} holds the maps of other photos, another layer or size; choose another folder")
    return record


def _opened(where: Path, record: dict[str, Any], maps: FeatureMaps, sources: list[str], encoded: bool) -> Pairs:
    """Pairs that are all there: any number of jobs may read them."""
    kept = record["kept"]
    if not kept:
        raise UserError(f"none of the {record['seen']} photos in {', '.join(sources)} can be read")
    count = kept * maps.grid[0] * maps.grid[1]
    mean = np.array(record["sum"]) / count
    variance = np.maximum(np.array(record["squares"]) / count - mean**2, 0)
    pictures, values = (np.load(where / name, mmap_mode="r") for name in ("pictures.npy", "maps.npy"))
    return Pairs(
        pictures[:kept], values[:kept], torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float(),
        record["key"], record["seen"] - kept, encoded,
    )  # fmt: skip


def _files(
    maps: FeatureMaps, size: int, where: Path, fresh: bool, count: int, encode: Encode | None
) -> dict[str, np.memmap]:  # fmt: skip
    """The arrays of `count` pairs, to be written."""
    pixels: Any = (np.uint8, (3, size, size))
    if encode:
        with torch.no_grad():
            pixels = (np.float16, tuple(encode[0](torch.zeros(1, 3, size, size, device=maps.model.device)).shape[1:]))
    files: dict[str, np.memmap] = {}
    for name, (dtype, shape) in {"pictures.npy": pixels, "maps.npy": (np.float16, (maps.channels, *maps.grid))}.items():
        if fresh:
            files[name] = np.lib.format.open_memmap(where / name, "w+", dtype, (count, *shape))
            reserve(where / name)
        else:
            files[name] = np.load(where / name, mmap_mode="r+")
    return files


def _read(
    maps: FeatureMaps, sets: list[Photos], places: list[tuple[int, int]], size: int, where: Path, record: dict[str, Any],
    encode: Encode | None, progress: Progress,
) -> None:  # fmt: skip
    """Reads what `record` lacks, and keeps the record up to date."""
    files = _files(maps, size, where, record["seen"] == 0, len(places), encode)
    total, squares, before = np.array(record["sum"]), np.array(record["squares"]), record["seen"]

    def decode(place: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        photo = sets[place[0]].read(place[1])
        return None if photo is None else (square(photo, maps.model.card.size[0]), square(photo, size))

    def keep() -> None:
        for file in files.values():
            file.flush()
        (where / "pairs.json.part").write_text(json.dumps(record))
        (where / "pairs.json.part").replace(where / "pairs.json")

    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos")
    try:
        while record["seen"] < len(places):
            chunk = places[record["seen"] : record["seen"] + _BATCH]
            read = [both for both in pool.map(decode, chunk) if both is not None]
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
                "sum": total.tolist(), "squares": squares.tolist(),
            }  # fmt: skip
            if record["seen"] % (_FLUSH * _BATCH) == 0:
                keep()
            progress("reading photos and their maps", record["seen"], len(places))
    finally:  # also on Ctrl-C: whole batches are not read again
        pool.shutdown()
        if record["seen"] > before:
            keep()
