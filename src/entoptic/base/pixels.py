"""Pixels: 8-bit and float, cropped, squared and made small. Knows no model."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_float(picture: np.ndarray) -> Tensor:
    """H×W×3 uint8 to 1×3×H×W float32 in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def quantise(image: Tensor) -> np.ndarray:
    """3×H×W in [0, 1] to H×W×3 uint8, rounded; the only place where a picture becomes 8-bit."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


SIDE = 160
"""Longer side of the stored photos in pixels: twice what the gallery shows, for screens of double density."""


def small_jpeg(image: Tensor) -> bytes:
    """A copy of a picture 3×H×W in [0, 1] whose longer side is `SIDE` pixels."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def opaque(pixels: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 as a map H×W×4 that takes the place of a picture."""
    return np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], 2)


def eight_bit(pictures: Tensor) -> Tensor:
    """Rounded to 8 bits; gradients pass straight through the rounding."""
    rounded: Tensor = _Rounded.apply(pictures.clamp(0, 1))
    return rounded


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor) -> Tensor:
        return (pictures * 255).round() / 255

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def centre_square(photo: Any, size: int) -> Tensor:
    """The central square of a PIL picture as 3×size×size uint8, resized with PIL's antialiased bicubic filter."""
    from PIL import Image

    side = min(photo.size)
    left, top = (photo.width - side) / 2, (photo.height - side) / 2
    box = (left, top, left + side, top + side)
    small = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
