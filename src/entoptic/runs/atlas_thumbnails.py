"""Small pictures of the points of an atlas, many in one file, so that a page of 50,000 points opens at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from entoptic.base.progress import Progress
from entoptic.errors import Unreadable
from entoptic.images.photos import Photos
from entoptic.runs.pictures import Picture

SIDE = 2048
"""Of a sheet, in pixels."""
LARGE, SMALL = 64, 32
"""Of a picture, in pixels: large up to `MANY` points, small beyond."""
MANY = 4096
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """The small pictures of all points, row by row on sheets.

    Attributes:
        cell: side of one, in pixels.
        sheets: files in WebP.
        colours: mean RGB of each, N×3 in [0, 1].
        missing: points without one; their place is grey.
    """

    cell: int
    sheets: tuple[bytes, ...]
    colours: np.ndarray
    missing: int

    @property
    def on_row(self) -> int:
        """Pictures in a row of a sheet."""
        return SIDE // self.cell

    @property
    def on_sheet(self) -> int:
        """Pictures on a sheet."""
        return self.on_row**2


def make_thumbnails(
    photos: Photos, numbers: Sequence[int], pictures: Sequence[Picture | None], progress: Progress
) -> Thumbnails:
    """Draws the small pictures of points.

    Args:
        photos: that stand for points.
        numbers: of each point, the number of its photo; -1 for none.
        pictures: of each point, a picture that takes the photo's place, or None.
        progress: is called with (what, done, total).
    """
    cell = LARGE if len(numbers) <= MANY else SMALL
    on_row = SIDE // cell
    colours = np.full((len(numbers), 3), 0.5)
    sheets: list[bytes] = []
    missing, done = 0, 0
    for first in range(0, len(numbers), on_row**2):
        count = min(on_row**2, len(numbers) - first)
        sheet = Image.new(
            "RGB", (SIDE if count > on_row else count * cell, -(-count // on_row) * cell), (128, 128, 128)
        )
        for place, small in enumerate(_small(photos, numbers, pictures, range(first, first + count), cell)):
            if small is None:
                missing += 1
            else:
                sheet.paste(small, (place % on_row * cell, place // on_row * cell))
                colours[first + place] = np.asarray(small, np.float64).mean((0, 1)) / 255
            done += 1
            if done % 64 == 0 or done == len(numbers):
                progress("drawing thumbnails", done, len(numbers))
        file = io.BytesIO()
        sheet.save(file, "WEBP", quality=_QUALITY, method=4)
        sheets.append(file.getvalue())
    return Thumbnails(cell=cell, sheets=tuple(sheets), colours=colours, missing=missing)


def _small(
    photos: Photos, numbers: Sequence[int], pictures: Sequence[Picture | None], points: range, cell: int
) -> Iterator[Image.Image | None]:
    """The small pictures of some points, in order, read in two threads. A photo that several points share is read once."""

    def read(point: int) -> Image.Image | None:
        picture, number = pictures[point], int(numbers[point])
        try:
            image = picture.image if picture is not None else photos.read(number) if number >= 0 else None
        except Unreadable:
            return None
        return None if image is None else _square(image, cell)

    with ThreadPoolExecutor(2) as pool:
        for start in range(points.start, points.stop, 64):  # so that few wait in memory
            yield from pool.map(read, range(start, min(start + 64, points.stop)))


def _square(image: Image.Image, cell: int) -> Image.Image:
    """The middle of a picture."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        (cell, cell), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=3
    )
