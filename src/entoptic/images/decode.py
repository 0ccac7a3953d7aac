"""Encoded image files to upright 8-bit RGB pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def decode(data: bytes) -> Image.Image:
    """Decodes one image file to upright 8-bit RGB (the first frame of an animation).

    Transparent pixels are laid on white. 16-bit grey is divided by 257 (65535 becomes 255). Float pixels have no declared
    range: a largest value up to 1, 255 or 65535 is read as that full scale.

    Args:
        data: the bytes of the file.

    Raises:
        ValueError: with a short reason: empty, not an image, truncated or broken, more pixels than
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
        raise ValueError(f"damaged image: {short_reason(error)}") from None
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turns a picture by its EXIF orientation and converts it to RGB.

    Raises:
        ValueError: its pixels cannot be converted.
    """
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF beside sound pixels: the photo is still worth having
        orientation = 1
    try:
        rgb = _rgb(image)
    except Exception as error:
        raise ValueError(f"{image.mode} pixels not convertible: {short_reason(error)}") from None
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
    """Converts 16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip at 255."""
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


def short_reason(error: Exception) -> str:
    """Describes an error in at most 120 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
