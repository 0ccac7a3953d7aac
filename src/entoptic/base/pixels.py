"""Pixels: between 8 bits and floats, crops and small copies."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_float(picture: np.ndarray) -> Tensor:
    """Returns a picture as floats, 1×3×H×W float32 in [0, 1].

    Args:
        picture: H×W×3 uint8.
    """
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def quantise(image: Tensor) -> np.ndarray:
    """Returns a picture rounded to 8 bits, H×W×3 uint8. Every stored picture is quantised here, once.

    Args:
        image: 3×H×W; values outside of [0, 1] are clamped.
    """
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


SIDE = 160
"""Longer side of the stored photos in pixels: twice what the gallery shows, for screens of double density."""


def small_jpeg(image: Tensor) -> bytes:
    """Returns a JPEG file of a picture whose longer side is `SIDE` pixels.

    Args:
        image: 3×H×W; values outside of [0, 1] are clamped.
    """
    picture = Image.fromarray(quantise(image))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def opaque(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture with an alpha channel of 255, H×W×4 uint8.

    Args:
        pixels: H×W×3 uint8.
    """
    return np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], 2)


def eight_bit(pictures: Tensor) -> Tensor:
    """Returns pictures rounded to 8 bits as floats in [0, 1]. The gradient ignores the rounding (straight-through).

    Args:
        pictures: floats; values outside of [0, 1] are clamped.
    """
    rounded: Tensor = _Rounded.apply(pictures.clamp(0, 1))
    return rounded


class _Rounded(torch.autograd.Function):
    """Rounds to multiples of 1/255; its gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor) -> Tensor:
        return (pictures * 255).round() / 255

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def centre_square(photo: Any, size: int) -> Tensor:
    """Returns the central square of a photo, 3×size×size uint8, resized with PIL's antialiased bicubic filter.

    Args:
        photo: a PIL picture in RGB.
        size: in pixels.
    """

    side = min(photo.size)
    left, top = (photo.width - side) / 2, (photo.height - side) / 2
    box = (left, top, left + side, top + side)
    small = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
