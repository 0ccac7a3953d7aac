"""Small image files for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Pixel = tuple[int, int, int]


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(colour: Pixel, size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(Image.new("RGB", size, colour))


def noisy(seed: int = 0, size: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def to_chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((4, 4))).copy()).permute(2, 0, 1).float() / 255


def pixel(image: Image.Image, x: int, y: int) -> Pixel:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    assert len(value) == 3
    return value[0], value[1], value[2]


def corners() -> Image.Image:
    """16 x 8: red, green above blue, white."""
    image = Image.new("RGB", (16, 8))
    for colour, box in zip(
        (RED, GREEN, BLUE, WHITE), ((0, 0, 8, 4), (8, 0, 16, 4), (0, 4, 8, 8), (8, 4, 16, 8)), strict=True
    ):
        image.paste(colour, box)
    return image


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path: Path, cells: list[dict[str, Any]], metadata: Any = None, rows: int = 2, **columns: Any) -> Path:
    table = pa.table({"image": pa.array(cells, IMAGE), **columns})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=rows)
    return path


def cells_of(*colours: Pixel) -> list[dict[str, Any]]:
    return [{"bytes": plain(colour), "path": f"{n}.png"} for n, colour in enumerate(colours)]
