"""Banks that come with the package: samples of a shipped prior, which nobody has to draw again.

A bank is a lossless WebP mosaic beside the prior's weights, `bank-KEY.webp`. The key is that of the cache, a hash of the
prior, its steps and the seed, so a bank of anything else is never taken for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.priors import sources

_ACROSS = 64
"""Pictures beside each other in a mosaic."""


def shipped_bank(key: str) -> Tensor | None:
    """Returns the square samples of a shipped bank, M×3×h×h uint8, or None where none is shipped under this key.

    Args:
        key: as in `make_bank`.
    """
    found = list(_folder().glob(f"*/bank-{key[:24]}.webp"))
    if not found:
        return None
    with Image.open(found[0]) as picture:
        pixels = np.array(picture.convert("RGB"))
    side = pixels.shape[1] // _ACROSS
    tiles = pixels.reshape(-1, side, _ACROSS, side, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(tiles)).flatten(0, 1)


def write_bank(pictures: Tensor, key: str, folder: Path) -> Path:
    """Writes a bank to be shipped; returns its file.

    Args:
        pictures: M×3×h×h uint8; M is a multiple of 64.
        key: as in `make_bank`.
        folder: of the prior's weights.
    """
    count, _, height, width = pictures.shape
    rows = pictures.reshape(count // _ACROSS, _ACROSS, 3, height, width).permute(0, 3, 1, 4, 2)
    file = folder / f"bank-{key[:24]}.webp"
    mosaic = Image.fromarray(rows.reshape(-1, _ACROSS * width, 3).numpy())
    mosaic.save(file, "WEBP", lossless=True, quality=100, method=6)
    return file


def _folder() -> Path:
    return Path(sources.__file__).parent / "shipped"
