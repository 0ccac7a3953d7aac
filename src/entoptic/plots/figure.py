"""A figure for a paper: pictures with small labels on white, as PDF or SVG with text that stays text, or as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from entoptic.base.files import folder_exists, user_path, write_atomically, writing_to
from entoptic.errors import UserError, nearest
from entoptic.plots.drawing import Box, Line, Text, font, in_ascii, xml_text
from entoptic.plots.pdf import Page

FORMATS = (".pdf", ".png", ".svg")
COLOURS = {"ink": "#000000", "muted": "#5a5a5a", "line": "#c4c4c4"}
"""Roles of texts and lines in a figure, on white."""
_POINTS = 72  # in an inch
_FAMILY = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"


@dataclass(frozen=True)
class Tile:
    """A picture in a figure.

    Attributes:
        box: where it lies, in points.
        pixels: H×W×3 uint8; it is shown whole and undistorted.
    """

    box: Box
    pixels: np.ndarray = field(repr=False)

    @property
    def inner(self) -> Box:
        """The part of the box that the picture takes, whose shape is that of the picture."""
        left, top, right, bottom = self.box
        height, width = self.pixels.shape[:2]
        scale = min((right - left) / width, (bottom - top) / height)
        x, y = (left + right - scale * width) / 2, (top + bottom - scale * height) / 2
        return x, y, x + scale * width, y + scale * height


@dataclass
class Figure:
    """Pictures and labels on a sheet of width × height points (1/72 inch).

    Attributes:
        width: of the sheet.
        height: of the sheet.
        title: for readers who cannot see it, and in the file's properties.
        description: the same, longer.
        marks: pictures, lines and texts; roles are those of `COLOURS`.
    """

    width: float
    height: float
    title: str
    description: str = ""
    marks: Sequence[Tile | Line | Text] = ()

    def save(self, path: str | Path, *, dpi: int = 300) -> Path:
        """Writes the figure to a file, whose ending says the format: `.pdf`, `.svg` or `.png`.

        Args:
            path: of the file; an existing one is replaced.
            dpi: pixels to the inch of a PNG file; others keep the pictures' own pixels.

        Returns:
            The path.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        file = user_path(path)
        ending = file.suffix.lower()
        if ending not in FORMATS:
            raise UserError(
                f'a figure is written as {", ".join(FORMATS)}, not as "{file.name}"{nearest(ending, FORMATS)}'
            )
        if folder_exists(file):
            raise UserError(f"{file} is a folder; give the name of a file, for instance {file / 'grid.pdf'}")
        data = self.pdf() if ending == ".pdf" else self.png(dpi) if ending == ".png" else self.svg().encode()
        with writing_to(file.parent, "nothing was changed"):
            write_atomically(file, data)
        return file

    def pdf(self) -> bytes:
        """Returns the figure as a PDF file of one page. Its font is embedded."""
        page = Page(self.width, self.height, self.title)
        for mark in self.marks:
            if isinstance(mark, Tile):
                page.picture(mark.inner, mark.pixels)
            elif isinstance(mark, Line):
                page.line(mark.points, mark.width, COLOURS[mark.role])
            else:
                left = mark.at[0] - _before(mark) * _length(mark)
                page.text(left, mark.at[1], mark.text, mark.size, COLOURS[mark.role], bold=mark.bold)
        return page.file()

    def svg(self) -> str:
        """Returns the figure as an SVG file. All texts are escaped."""
        parts = [_svg(mark) for mark in self.marks]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.2f} {self.height:.2f}" '
            f'width="{self.width:.2f}pt" height="{self.height:.2f}pt" role="img" font-family="{_FAMILY}">'
            f"<title>{xml_text(self.title)}</title><desc>{xml_text(self.description)}</desc>"
            f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
        )

    def png(self, dpi: int = 300) -> bytes:
        """Returns the figure as a PNG file.

        Args:
            dpi: pixels to the inch.

        Raises:
            UserError: dpi is not between 30 and 1200, or the file would be too large.
        """
        if not 30 <= dpi <= 1200:
            raise UserError(f"dpi must be between 30 and 1200, got {dpi}")
        scale = dpi / _POINTS
        width, height = round(self.width * scale), round(self.height * scale)
        if width * height > _MOST_PIXELS:
            raise UserError(
                f"a figure of {width}×{height} pixels is too large; give a smaller dpi, fewer pictures, or .pdf in place of .png"
            )
        image = Image.new("RGB", (width, height), "#ffffff")
        pen = ImageDraw.Draw(image)
        for mark in self.marks:
            _paint(image, pen, mark, scale)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", dpi=(dpi, dpi), optimize=True)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png(144)).decode()
        size = f"width:{self.width * 4 / 3:.0f}px;max-width:100%"
        return f'<img style="{size}" src="data:image/png;base64,{data}" alt="{escape(in_ascii(self.title))}">'


_MOST_PIXELS = 200_000_000


def _before(text: Text) -> float:
    """The share of a text that lies before the point where it is placed."""
    return {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor]


def _length(text: Text) -> float:
    return float(font(100).getlength(in_ascii(text.text))) * text.size / 100


def _svg(mark: Tile | Line | Text) -> str:
    if isinstance(mark, Tile):
        left, top, right, bottom = mark.inner
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(mark.pixels)).save(buffer, "PNG", optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        return (
            f'<image x="{left:.3f}" y="{top:.3f}" width="{right - left:.3f}" height="{bottom - top:.3f}" '
            f'href="data:image/png;base64,{data}"/>'
        )
    colour = COLOURS[mark.role]
    if isinstance(mark, Line):
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in mark.points)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{mark.width:g}"/>'
    weight = ' font-weight="600"' if mark.bold else ""
    return (
        f'<text x="{mark.at[0]:.2f}" y="{mark.at[1]:.2f}" font-size="{mark.size:g}" fill="{colour}" '
        f'text-anchor="{mark.anchor}"{weight}>{xml_text(mark.text)}</text>'
    )


def _paint(image: Image.Image, pen: ImageDraw.ImageDraw, mark: Tile | Line | Text, scale: float) -> None:
    if isinstance(mark, Tile):
        left, top, right, bottom = (round(edge * scale) for edge in mark.inner)
        size = (max(1, right - left), max(1, bottom - top))
        image.paste(Image.fromarray(mark.pixels).resize(size, Image.Resampling.LANCZOS), (left, top))
        return
    colour = COLOURS[mark.role]
    if isinstance(mark, Line):
        pen.line([(x * scale, y * scale) for x, y in mark.points], fill=colour, width=max(1, round(mark.width * scale)))
        return
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
    bold = 0.015 * mark.size * scale if mark.bold else 0
    pen.text(
        (mark.at[0] * scale, mark.at[1] * scale), in_ascii(mark.text), fill=colour, font=font(mark.size * scale),
        anchor=anchor, stroke_width=bold, stroke_fill=colour,
    )  # fmt: skip
