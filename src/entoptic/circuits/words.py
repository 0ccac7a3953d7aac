"""Words written on photos: the attack that a circuit of a written word is found on."""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from entoptic.errors import UserError, instead

PLACINGS = {
    "big": "one line across the lower half",
    "small": "four small lines, one in each quarter",
    "bezel": "a frame of lines along all four sides",
}
"""Where a word is written, with what each looks like."""
_EDGE = 0.14
"""Thickness of the frame, and height of small lines, as a share of a photo's side."""


def written_on(photos: Tensor, word: str, placing: str = "big") -> Tensor:
    """Writes a word in black on white plates over photos.

    Args:
        photos: N×3×H×W in [0, 1].
        word: what is written.
        placing: one of `PLACINGS`.

    Raises:
        UserError: nothing to write, or no such placing.
    """
    if placing not in PLACINGS:
        raise UserError(f'no placing of a word "{placing[:80]}"{instead(placing, PLACINGS)}')
    if not word.strip():
        raise UserError("there is no word to write; give one (--word)")
    plates_HW, inside_HW = _plates(word.strip(), placing, photos.shape[2], photos.shape[3])
    return torch.where(inside_HW.to(photos.device), plates_HW.to(photos), photos)


@cache
def _plates(word: str, placing: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The grey values of the plates, H×W, and where they lie."""
    page, inside = torch.zeros(height, width), torch.zeros(height, width, dtype=torch.bool)
    for top, left, rows, columns, turned in _places(placing, height, width):
        line = _line(word, columns, rows).T if turned else _line(word, rows, columns)
        page[top : top + line.shape[0], left : left + line.shape[1]] = line
        inside[top : top + line.shape[0], left : left + line.shape[1]] = True
    return page, inside


def _places(placing: str, height: int, width: int) -> list[tuple[int, int, int, int, bool]]:
    """Top, left, rows and columns of each plate, and whether it is turned."""
    edge = max(5, round(_EDGE * min(height, width)))
    if placing == "big":
        rows = max(6, height // 4)
        return [(height - rows - height // 8, 0, rows, width, False)]
    if placing == "small":
        half_h, half_w = height // 2, width // 2
        columns = max(4, round(0.8 * half_w))
        return [
            (half_h // 2 - edge // 2 + half_h * i, (half_w - columns) // 2 + half_w * j, edge, columns, False)
            for i in range(2) for j in range(2)
        ]  # fmt: skip
    sides = [(0, 0, edge, width, False), (height - edge, 0, edge, width, False)]
    inner = height - 2 * edge
    return [*sides, (edge, 0, inner, edge, True), (edge, width - edge, inner, edge, True)]


def _line(word: str, rows: int, columns: int) -> Tensor:
    """The word in black on white, as large as fits."""
    size = float(rows)
    while size > 4 and (_box(word, size)[2] > columns - 2 or _box(word, size)[3] > rows - 2):
        size *= 0.95
    x, y, wide, high = _box(word, size)
    image = Image.new("L", (columns, rows), 255)
    ImageDraw.Draw(image).text(((columns - wide) / 2 - x, (rows - high) / 2 - y), word, fill=0, font=_font(size))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(rows, columns).float() / 255


def _box(word: str, size: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = _font(size).getbbox(word)
    return left, top, right - left, bottom - top


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
