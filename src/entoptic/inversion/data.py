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
        UserError: no photo can be read, the folder holds other pairs, or has no room.
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
    where.mkdir(parents=True, exist_ok=True)
    about = where / "pairs.json"
    record: dict[str, Any] = {
        "key": key,
        "seen": 0,
        "kept": 0,
        "sum": [0.0] * maps.channels,
        "squares": [0.0] * maps.channels,
    }
    if about.is_file():
        record = json.loads(about.read_text())
        if record["key"] != key:
            raise UserError(f"{where} holds the maps of other photos, another layer or size; choose another folder")
    pixels: Any = (np.uint8, (3, size, size))
    if encode:
        with torch.no_grad():
            pixels = (np.float16, tuple(encode[0](torch.zeros(1, 3, size, size, device=maps.model.device)).shape[1:]))
    shapes = {"pictures.npy": pixels, "maps.npy": (np.float16, (maps.channels, *maps.grid))}
    files: dict[str, Any] = {}
    for name, (dtype, shape) in shapes.items():
        if record["seen"] == 0:
            files[name] = np.lib.format.open_memmap(where / name, "w+", dtype, (len(places), *shape))
            reserve(where / name)
        else:
            files[name] = np.load(where / name, mmap_mode="r+" if record["seen"] < len(places) else "r")
    total, squares = np.array(record["sum"]), np.array(record["squares"])

    def decode(place: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        photo = sets[place[0]].read(place[1])
        return None if photo is None else (square(photo, maps.model.card.size[0]), square(photo, size))

    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="entoptic-photos")

    before = record["seen"]

    def keep() -> None:
        for file in files.values():
            if isinstance(file, np.memmap) and file.mode != "r":
                file.flush()
        (where / "pairs.json.part").write_text(json.dumps(record))
        (where / "pairs.json.part").replace(about)

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
    if not record["kept"]:
        raise UserError(f"none of the {len(places)} photos in {', '.join(one.source for one in sets)} can be read")
    count = record["kept"] * maps.grid[0] * maps.grid[1]
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    return Pairs(
        files["pictures.npy"][: record["kept"]],
        files["maps.npy"][: record["kept"]],
        torch.from_numpy(mean).float(),
        torch.from_numpy(np.sqrt(variance)).float(),
        key,
        len(places) - record["kept"],
        encode is not None,
    )
