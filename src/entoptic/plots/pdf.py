"""A small writer of PDF files of one page: text in an embedded font, lines and pictures.

Text stays text, so that it can be searched and is sharp at any size, and pictures are stored without loss. The file holds no
date, so the same page gives the same bytes.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFont

from entoptic.plots.drawing import font, in_ascii

_FIRST, _LAST = 32, 126  # characters of the embedded font


@dataclass
class Page:
    """One page, in points (1/72 inch) from its top left.

    Attributes:
        width: of the page.
        height: of the page.
        title: of the document.
    """

    width: float
    height: float
    title: str
    _commands: list[str] = field(default_factory=list)
    _images: list[bytes] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, size: float, colour: str, *, bold: bool = False) -> None:
        """Adds a line of text; characters beyond ASCII become the nearest of it.

        Args:
            x: left end of the baseline.
            y: of the baseline.
            text: what it says.
            size: of the font.
            colour: as "#rrggbb".
            bold: whether its outline is drawn too, which makes it bold.
        """
        shown = in_ascii(text).replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        weight = f"2 Tr {0.03 * size:.3f} w {_rgb(colour)} RG " if bold else "0 Tr "
        place = f"{x:.2f} {self.height - y:.2f} Td"
        self._commands.append(f"BT {weight}{_rgb(colour)} rg /F1 {size:g} Tf {place} ({shown}) Tj ET")

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: str) -> None:
        """Adds a line through points.

        Args:
            points: at least two.
            width: of the line.
            colour: as "#rrggbb".
        """
        path = " ".join(f"{x:.2f} {self.height - y:.2f} {'l' if i else 'm'}" for i, (x, y) in enumerate(points))
        self._commands.append(f"{width:g} w {_rgb(colour)} RG {path} S")

    def picture(self, box: tuple[float, float, float, float], pixels: np.ndarray) -> None:
        """Adds a picture.

        Args:
            box: left, top, right, bottom.
            pixels: H×W×3 uint8.
        """
        left, top, right, bottom = box
        self._images.append(_image(pixels))
        placed = f"{right - left:.3f} 0 0 {bottom - top:.3f} {left:.3f} {self.height - bottom:.3f} cm"
        self._commands.append(f"q {placed} /I{len(self._images)} Do Q")

    def file(self) -> bytes:
        """Returns the page as a PDF file."""
        fonts = _font_objects()
        first = 5 + len(fonts)  # number of the first image
        names = " ".join(f"/I{i + 1} {first + i} 0 R" for i in range(len(self._images)))
        title = "".join(f"{ord(c):04X}" for c in self.title if ord(c) < 0x10000 and not 0xD800 <= ord(c) < 0xE000)
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {self.width:.2f} {self.height:.2f}] /Contents 4 0 R "
                f"/Resources << /Font << /F1 5 0 R >> /XObject << {names} >> >> >>"
            ).encode(),
            _stream(zlib.compress("\n".join(self._commands).encode("ascii"), 9), "/Filter /FlateDecode"),
            *fonts,
            *self._images,
            f"<< /Title <FEFF{title}> /Creator (Entoptic) >>".encode(),
        ]
        return _file(objects)


def _rgb(colour: str) -> str:
    return " ".join(f"{int(colour[i : i + 2], 16) / 255:.3g}" for i in (1, 3, 5))


def _stream(data: bytes, entries: str) -> bytes:
    return f"<< {entries} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"


def _image(pixels: np.ndarray) -> bytes:
    """A picture as an object: the rows of a PNG file, which PDF reads as they are."""
    height, width = pixels.shape[:2]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, :3])).save(buffer, "PNG", optimize=True)
    png, rows, at = buffer.getvalue(), b"", 8
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        rows += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    entries = (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB /BitsPerComponent 8 "
        f"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Colors 3 /BitsPerComponent 8 /Columns {width} >>"
    )
    return _stream(rows, entries)


def _font_objects() -> list[bytes]:
    """The font of texts as objects, the first of number 5: Pillow's own, embedded, or Helvetica where Pillow has none."""
    drawn = font(1000)
    data = getattr(drawn, "font_bytes", None)
    if not isinstance(drawn, ImageFont.FreeTypeFont) or not data:
        return [b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    widths = " ".join(f"{drawn.getlength(chr(code)):.0f}" for code in range(_FIRST, _LAST + 1))
    ascent, descent = drawn.getmetrics()
    name = "-".join(part for part in drawn.getname() if part)
    return [
        (
            f"<< /Type /Font /Subtype /TrueType /BaseFont /{name} /FirstChar {_FIRST} /LastChar {_LAST} "
            f"/Widths [{widths}] /Encoding /WinAnsiEncoding /FontDescriptor 6 0 R >>"
        ).encode(),
        (
            f"<< /Type /FontDescriptor /FontName /{name} /Flags 32 /FontBBox [-150 -210 945 800] /ItalicAngle 0 "
            f"/Ascent {ascent} /Descent {-descent} /CapHeight 700 /StemV 80 /FontFile2 7 0 R >>"
        ).encode(),
        _stream(zlib.compress(data, 9), f"/Filter /FlateDecode /Length1 {len(data)}"),
    ]


def _file(objects: Sequence[bytes]) -> bytes:
    """Objects with the table of where they begin; the last of them is about the document."""
    parts = [b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"]
    starts, at = [], len(parts[0])
    for number, content in enumerate(objects, 1):
        starts.append(at)
        parts.append(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
        at += len(parts[-1])
    size = len(objects) + 1
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    parts.append(
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\n"
        f"startxref\n{at}\n%%EOF\n".encode()
    )
    return b"".join(parts)
