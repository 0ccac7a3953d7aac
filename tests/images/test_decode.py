"""Encoded images: every kind of pixel, every kind of damage."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from entoptic.images.decode import decode
from image_files import BLUE, GREEN, RED, WHITE, Pixel, corners, encoded, noisy, pixel, plain


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "clockwise_from_top_left"),
    [
        (1, (RED, GREEN, WHITE, BLUE)),
        (2, (GREEN, RED, BLUE, WHITE)),
        (3, (WHITE, BLUE, RED, GREEN)),
        (4, (BLUE, WHITE, GREEN, RED)),
        (5, (RED, BLUE, WHITE, GREEN)),  # mirrored along the main diagonal
        (6, (BLUE, RED, GREEN, WHITE)),  # a quarter turn clockwise makes it upright
        (7, (WHITE, GREEN, RED, BLUE)),  # mirrored along the other diagonal
        (8, (GREEN, WHITE, BLUE, RED)),
        (99, (RED, GREEN, WHITE, BLUE)),  # not an orientation: left as stored
    ],
)
def test_exif_orientation(format: str, orientation: int, clockwise_from_top_left: tuple[Pixel, ...]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    image = decode(encoded(corners(), format, exif=exif, **options))
    assert image.size == ((8, 16) if 5 <= orientation <= 8 else (16, 8))
    right, bottom = image.width - 2, image.height - 2
    found = [pixel(image, x, y) for x, y in ((1, 1), (right, 1), (right, bottom), (1, bottom))]
    assert np.abs(np.subtract(found, clockwise_from_top_left)).max() <= (4 if format == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_photo() -> None:
    data = encoded(Image.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage")
    assert pixel(decode(data), 0, 0) == RED


def grey(values: list[int], dtype: type) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def palette(transparent: int | None) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return encoded(image, "PNG", **({} if transparent is None else {"transparency": transparent}))


def from_pixels(mode: str, values: list[Any], format: str = "PNG", **options: Any) -> bytes:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return encoded(image, format, **options)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(from_pixels("L", [0, 7, 255]), [(0,) * 3, (7,) * 3, WHITE], id="L"),
        pytest.param(from_pixels("1", [0, 255]), [(0,) * 3, WHITE], id="1"),
        pytest.param(from_pixels("RGB", [RED, (1, 2, 3)]), [RED, (1, 2, 3)], id="RGB"),
        pytest.param(
            encoded(grey([0, 257, 25700, 25900, 65535], np.uint16)),
            [(0,) * 3, (1,) * 3, (100,) * 3, (101,) * 3, WHITE],
            id="16-bit PNG",
        ),
        pytest.param(encoded(grey([257, 65535], np.uint16), "TIFF"), [(1,) * 3, WHITE], id="16-bit TIFF"),
        pytest.param(b"P5 2 1 65535\n\x01\x01\xff\xff", [(1,) * 3, WHITE], id="16-bit PGM (mode I)"),
        pytest.param(encoded(grey([0, 51400], np.int32), "TIFF"), [(0,) * 3, (200,) * 3], id="I"),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 0.2, 1]], np.float32)), "TIFF"),
            [(0,) * 3, (51,) * 3, WHITE],
            id="F to 1",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[3, 200]], np.float32)), "TIFF"),
            [(3,) * 3, (200,) * 3],
            id="F to 255",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[257, 51400]], np.float32)), "TIFF"),
            [(1,) * 3, (200,) * 3],
            id="F to 65535",
        ),
        pytest.param(palette(None), [RED, BLUE], id="P"),
        pytest.param(palette(1), [RED, WHITE], id="P with transparency"),
        pytest.param(from_pixels("RGB", [RED, BLUE], transparency=BLUE), [RED, WHITE], id="RGB with transparency"),
        pytest.param(from_pixels("L", [9, 7], transparency=7), [(9,) * 3, WHITE], id="L with transparency"),
        pytest.param(
            from_pixels("RGBA", [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]),
            [RED, WHITE, (204,) * 3],
            id="RGBA",
        ),
        pytest.param(from_pixels("LA", [(7, 255), (7, 0), (0, 51)]), [(7,) * 3, WHITE, (204,) * 3], id="LA"),
        pytest.param(
            from_pixels("CMYK", [(0, 255, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)], "TIFF"),
            [RED, WHITE, (0,) * 3],
            id="CMYK TIFF",
        ),
    ],
)
def test_every_kind_of_pixel(data: bytes, expected: list[Pixel]) -> None:
    image = decode(data)
    assert image.mode == "RGB"
    assert [pixel(image, x, 0) for x in range(image.width)] == expected


def test_cmyk_jpeg_with_adobes_inversion() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    data = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in data  # the file holds inverted values and says so
    assert np.abs(np.subtract(pixel(decode(data), 8, 8), RED)).max() <= 3


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
        assert pixel(decode(data), 4, 4) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(format: str, kept: float) -> None:
    data = encoded(noisy(), format)
    assert decode(data).size == (96, 96)
    with pytest.raises(ValueError, match=r"damaged image|not an image"):
        decode(data[: int(len(data) * kept)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"just some text, called a photo", "not an image"),
        (b"<html><body>404</body></html>", "not an image"),
        (encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), "not finite"),
        (encoded(Image.fromarray(np.array([[0, 1e9]], np.float32)), "TIFF"), "0 to 65535"),
        (encoded(grey([0, -4], np.int32), "TIFF"), "0 to 65535"),
    ],
)
def test_unusable_bytes_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        decode(data)
    assert len(str(caught.value)) < 160
    assert "0x" not in str(caught.value)  # no object addresses


def test_a_flipped_byte_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(noisy()))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match="damaged image"):
        decode(bytes(data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [1000, 500, 10])  # Pillow itself only warns up to twice the limit
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    data = plain(RED, (32, 32))
    assert decode(data).size == (32, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"more than {limit} pixels"):
        decode(data)
