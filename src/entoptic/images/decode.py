"""Encoded image files to upright 8-bit RGB pictures."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from entoptic.images.formats import load_plugins

MOST_BYTES = 512 * 2**20
"""Largest encoded photo that is read."""
MOST_ASPECT = 1000
"""Largest ratio of a photo's longer side to its shorter one."""
_ICONS = (b"\0\0\1\0", b"icns")
_LARGE = 2**24  # pixels: decoded one photo at a time, and converted in strips
_LONG = 64
_STRIP = 2**22
_one_large = threading.RLock()

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
        ValueError: with a short reason: empty, not an image, truncated or broken, a size that `check_size` refuses,
            or pixel values without a known range.
    """
    image = open_image(data)
    with room_for(image):
        return decode_pixels(image)


def open_image(data: bytes) -> Image.Image:
    """Reads the header of an image file; no pixel is decoded.

    Args:
        data: the bytes of the file.

    Raises:
        ValueError: as `decode` says, for what the header tells.
    """
    if not data:
        raise ValueError("empty file (0 bytes)")
    load_plugins()
    try:
        if data[:4] in _ICONS:
            _check_pictures_in_icon(data)
        image = Image.open(io.BytesIO(data))
        check_size(image.size)
    except UnidentifiedImageError:
        raise ValueError("not an image in a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_too_many()) from None
    except _Unusable:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        raise ValueError(f"damaged image: {short_reason(error)}") from None
    return image


def decode_pixels(image: Image.Image) -> Image.Image:
    """Decodes the pixels of an image that `open_image` gave, to upright 8-bit RGB.

    Raises:
        ValueError: as `decode` says.
    """
    try:
        image.load()
        check_size(image.size)  # some formats learn their size only now
    except _Unusable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_too_many()) from None
    except Exception as error:
        raise ValueError(f"damaged image: {short_reason(error)}") from None
    return upright_rgb(image)


class _Unusable(ValueError):
    """A size that is not decoded."""


def check_size(size: tuple[int, int]) -> None:
    """Refuses sizes that would take too much memory, before a pixel is decoded.

    Raises:
        ValueError: no pixels, more than `PIL.Image.MAX_IMAGE_PIXELS`, or one side more than `MOST_ASPECT` times the other.
    """
    width, height = size
    if min(size) < 1:
        raise _Unusable(f"a size of {width}x{height} pixels")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise _Unusable(_too_many())
    if max(size) > MOST_ASPECT * min(size):
        raise _Unusable(f"{width}x{height} pixels, one side more than {MOST_ASPECT} times the other")


def _check_pictures_in_icon(data: bytes) -> None:
    """Refuses icons with a picture of another size than their directory says: Pillow decodes it when it opens the file."""
    for start, behind in (
        (b"\x89PNG\r\n\x1a\n", 16),
        (b"\xff\x4f\xff\x51", 8),
    ):  # PNG, and JPEG 2000 with its SIZ marker
        place = data.find(start)
        while place >= 0:
            if len(size := data[place + behind : place + behind + 8]) == 8:
                width, height = struct.unpack(">II", size)
                check_size((width, height))
            place = data.find(start, place + 1)


def _too_many() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS} pixels (a decompression bomb?)"


def room_for(image: Image.Image) -> contextlib.AbstractContextManager[object]:
    """Holds the room that a very large or very long photo takes: threads decode and resize one such photo at a time."""
    width, height = image.size
    large = width * height > _LARGE or max(width, height) > _LONG * min(width, height)
    return _one_large if large else contextlib.nullcontext()


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turns a picture by its EXIF orientation and convert it to RGB.

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
    deep = image.mode.startswith("I;16") or image.mode in ("I", "F")
    parts = list(_strips(image.size))
    if len(parts) == 1:
        return _deep_grey(image, _full_scale([image])).convert("RGB") if deep else _shallow(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # a copy would take as much again
    convert: Callable[[Image.Image], Image.Image] = _shallow
    if deep:
        scale = _full_scale(image.crop(part) for part in parts)
        convert = lambda part: _deep_grey(part, scale).convert("RGB")  # noqa: E731
    rgb = Image.new("RGB", image.size)
    for part in parts:
        rgb.paste(convert(image.crop(part)), part)
    return rgb


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Splits a picture into boxes of whole rows; one that is not large stays whole."""
    width, height = size
    rows = height if width * height <= _LARGE else max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _shallow(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    # A palette, grey or RGB picture may also name one colour as transparent.
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")  # CMYK JPEGs: Pillow has already undone Adobe's inversion


def _full_scale(parts: Iterable[Image.Image]) -> float:
    """Finds the value of white in 16-bit, 32-bit or float grey."""
    low, high, mode = float("inf"), float("-inf"), ""
    for part in parts:
        values_HW = np.asarray(part)
        if not np.isfinite(values_HW).all():
            raise ValueError("values that are not finite")
        low, high, mode = min(low, float(values_HW.min())), max(high, float(values_HW.max())), part.mode
    if low < 0 or high > 65535:
        raise ValueError(f"values from {low:g} to {high:g}, expected 0 to 65535")
    # Pillow hands 16-bit files over in mode I;16 or I, whatever values they hold.
    return 65535.0 if mode != "F" else next(full for full in (1.0, 255.0, 65535.0) if high <= full)


def _deep_grey(image: Image.Image, scale: float) -> Image.Image:
    """Converts 16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip at 255."""
    values_HW = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values_HW * (255.0 / scale)).astype(np.uint8))


def as_bmp(image: Image.Image) -> bytes:
    """Encode a picture that has no file: upright RGB in BMP form, which is the same in every version of Pillow.

    Raises:
        ValueError: its size is one that `check_size` refuses, or its pixels cannot be converted.
    """
    check_size(image.size)
    buffer = io.BytesIO()
    upright_rgb(image).save(buffer, "BMP")
    return buffer.getvalue()


# --- files ----------------------------------------------------------------------------------------------------------


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads an image file; what is no regular file is not opened.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a folder, a pipe or a device, or larger than `MOST_BYTES`.
    """
    state = os.stat(path)
    if (kind := kind_of(state.st_mode)) != "file":
        raise ValueError(f"is {kind}, not a file")
    check_bytes(state.st_size)
    with open(path, "rb") as file:
        return file.read()


def check_bytes(size: int) -> None:
    """Refuses a file or a member of an archive that is too large, before it is read.

    Raises:
        ValueError: it is larger than `MOST_BYTES`.
    """
    if size > MOST_BYTES:
        raise ValueError(f"{size / 2**20:.0f} MiB, where a photo may take {MOST_BYTES / 2**20:.0f}")


def kind_of(mode: int) -> str:
    """Names the kind of a file by its mode: "file", or what else it is with its article."""
    kinds = {
        stat.S_IFREG: "file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "a special file")


def why_no_file(path: str | os.PathLike[str]) -> str:
    """Says why there is no regular file at a path; an empty string where there is one."""
    try:
        kind = kind_of(os.stat(path).st_mode)
    except FileNotFoundError:
        return "is a link to nothing" if os.path.islink(path) else "does not exist"
    except OSError as error:
        return short_reason(error)
    except ValueError:  # a NUL in the name
        return "does not exist"
    return "" if kind == "file" else f"is {kind}, not a file"


def short_reason(error: Exception) -> str:
    """Describes an error in at most 120 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
