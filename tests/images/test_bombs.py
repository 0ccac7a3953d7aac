"""Photos that claim or take more memory than a pass may have: left out before a pixel is decoded."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from conftest import tiny_card
from entoptic.errors import Unreadable
from entoptic.images import decode as decoding
from entoptic.images.decode import decode
from entoptic.images.photos import Photos
from entoptic.models import card as cards
from image_files import RED, encoded, noisy, plain, to_chw, write


def png(width: int, height: int, pixels: bytes | None = None) -> bytes:
    """An RGB PNG of any size, black; with `pixels` its data are these bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = zlib.compress(b"\0" * (1 + 3 * width) * height) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(side: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (16, 16)), "TIFF"))
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack("<H", data[place : place + 2])[0] in (256, 257):
            data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def gif(side: int) -> bytes:
    frame = struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"," + frame


def webp(side: int) -> bytes:
    whole = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    size = (side - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + size + whole[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ico(picture: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


BOMBS = {
    "wide.png": (png(60000, 1), "60000x1 pixels"),
    "tall.png": (png(1, 60000), "1x60000 pixels"),
    "long.jpg": (encoded(Image.new("L", (65500, 2)), "JPEG"), "65500x2 pixels"),
    "long.bmp": (encoded(Image.new("L", (60000, 1)), "BMP"), "60000x1 pixels"),
    "huge.png": (png(60000, 60000, b"x"), "decompression bomb"),
    "warned.png": (png(12000, 12000, b"x"), "decompression bomb"),  # where Pillow only warns
    "huge.tif": (tiff(200000), "decompression bomb"),
    "huge.gif": (gif(65535), "decompression bomb"),
    "huge.webp": (webp(16383), "decompression bomb"),
    "huge.ppm": (b"P6 100000 100000 255\n", "decompression bomb"),
    "long.ico": (ico(png(60000, 1)), "60000x1 pixels"),
    "huge.ico": (ico(png(12000, 12000, b"x")), "decompression bomb"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_left_out_by_name_and_never_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, reason = BOMBS[name]
    write(tmp_path / name, data)
    write(tmp_path / "z.png", plain(RED))
    loaded: list[tuple[int, int]] = []
    original = ImageFile.ImageFile.load

    def load(self: ImageFile.ImageFile) -> object:
        loaded.append(self.size)
        return original(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    photos = Photos.open(tmp_path)
    ((kept, images),) = photos.batches(tiny_card().prepare, 4)
    assert [photos[index].name for index in kept] == ["z.png"]
    assert images.shape == (1, 3, 32, 32)
    assert [skipped.name for skipped in photos.skipped] == [name]
    assert reason in photos.skipped[0].reason
    assert set(loaded) == {(8, 8)}
    assert photos.read(0 if name < "z.png" else 1) is None


def test_a_file_too_large_to_read_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.png", plain(RED))
    os.truncate(write(tmp_path / "b.jpg", b"\xff\xd8\xff"), 50 * 2**30)  # sparse: takes no room on the disk
    photos = Photos.open(tmp_path)
    assert [index for kept, _ in photos.batches(to_chw, 4) for index in kept] == [0]
    assert photos.skipped[0].name == "b.jpg"
    assert "51200 MiB, where a photo may take 512" in photos.skipped[0].reason


def test_the_resized_photo_is_bounded_too() -> None:
    card = tiny_card(size=(224, 224))
    with pytest.raises(Unreadable, match=r"60000x1 pixels, which would be resized to 15360000x256"):
        card.prepare(Image.new("RGB", (60000, 1)))
    assert tiny_card(squash=True).prepare(Image.new("RGB", (60000, 1))).shape == (3, 32, 32)


def test_photos_that_prepare_refuses_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png(900, 1))
    write(tmp_path / "b.png", plain(RED))
    photos = Photos.open(tmp_path)
    ((kept, _),) = photos.batches(tiny_card(size=(640, 640)).prepare, 4)
    assert kept == [1]
    assert [skipped.name for skipped in photos.skipped] == ["a.png"]


@pytest.mark.parametrize("interpolation", cards.INTERPOLATIONS)
@pytest.mark.parametrize(("width", "height"), [(300, 9), (9, 300), (40, 31), (31, 32)])
def test_a_long_photo_is_cut_by_parts_to_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, interpolation: str, width: int, height: int
) -> None:
    photo = noisy(0, 320).crop((0, 0, width, height))
    card = tiny_card(interpolation=interpolation)
    whole = card.prepare(photo)
    monkeypatch.setattr(cards, "_LARGE", 0)
    monkeypatch.setattr(cards, "_PART", 700)
    assert torch.equal(card.prepare(photo), whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "I;16", "I", "F", "1"])
def test_a_large_photo_is_converted_in_strips_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (96, 96))
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(values.astype(deep[mode])) if mode in deep else noisy().convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(noisy(1).convert("L"))
    data = encoded(image, "TIFF" if mode in (*deep, "CMYK") else "PNG")
    whole = decode(data)
    monkeypatch.setattr(decoding, "_LARGE", 1000)
    monkeypatch.setattr(decoding, "_STRIP", 700)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(whole))


_PASS = """
import resource, sys, warnings
import torch
from entoptic.images.photos import Photos
from entoptic.models.card import Card
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photos = Photos.open(sys.argv[1])
card = Card(name="x", size=(224, 224), mean=0.5, std=0.25)
kept = sum(len(kept) for kept, _ in photos.batches(card.prepare, 8))
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux only")
def test_a_pass_over_bombs_takes_little_memory(tmp_path: Path) -> None:
    for name, (data, _) in BOMBS.items():
        write(tmp_path / name, data)
    for n in range(3):
        write(tmp_path / f"z{n}.png", png(60000, 60))  # just within the bounds
    done = subprocess.run([sys.executable, "-c", _PASS, str(tmp_path)], capture_output=True, text=True, check=True)
    kept, megabytes = map(int, done.stdout.split())
    assert kept == 3
    assert megabytes < 400


def test_a_picture_in_memory_is_bounded_as_a_file_is() -> None:
    photos = Photos.open([Image.new("L", (60000, 1)), Image.new("L", (8, 8))])
    assert [photos.read(index) is not None for index in range(2)] == [False, True]
    assert photos.skipped[0].name == "image#0"
