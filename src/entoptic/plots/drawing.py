"""Small vector drawings: one list of marks, rendered as SVG for pages and as PNG for slides.

Coordinates are pixels from the top left. Colours are roles that have a light and a dark value; inside a page of the
gallery the SVG takes the page's own ink and paper.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, top, right, bottom"""

# (light, dark, the gallery's variable). Text roles keep 4.5:1 on their paper, marks 3:1, and the four hues differ in
# lightness as well, so that they are told apart without colour vision; shapes differ anyway.
ROLES: dict[str, tuple[str, str, str]] = {
    "paper": ("#fbfaf8", "#131315", "paper"),
    "ink": ("#1c1b19", "#ebe9e5", "ink"),
    "muted": ("#625e57", "#a5a19a", "muted"),
    "line": ("#e3dfd7", "#2d2d31", "line"),
    "frontier": ("#5144a8", "#b7acf6", "accent"),
    "band": ("#ddd8f0", "#2f2b47", ""),
    "law": ("#0b5f9e", "#69b7ef", ""),
    "bounds": ("#b4470b", "#f0995c", ""),
    "point": ("#7a2a63", "#e59bcb", ""),
    "photos": ("#1b6b50", "#72cba9", ""),
}

Shape = Literal["circle", "square", "diamond", "triangle"]


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        points: at least two.
        role: its colour, one of `ROLES`.
        width: in pixels.
        dash: length of dashes and gaps in pixels; 0 is a solid line.
    """

    points: Sequence[Point]
    role: str
    width: float = 1.0
    dash: float = 0.0


@dataclass(frozen=True)
class Area:
    """A filled polygon.

    Attributes:
        points: its corners.
        role: its colour, one of `ROLES`.
    """

    points: Sequence[Point]
    role: str


@dataclass(frozen=True)
class Dot:
    """A small filled shape.

    Attributes:
        at: its centre.
        role: its colour, one of `ROLES`.
        shape: what it looks like.
        radius: in pixels; other shapes than circles have about this size.
    """

    at: Point
    role: str
    shape: Shape = "circle"
    radius: float = 5.0


@dataclass(frozen=True)
class Text:
    """One line of text.

    Attributes:
        at: left end, middle or right end of the baseline, see `anchor`.
        text: what it says.
        role: its colour, one of `ROLES`.
        size: of the font, in pixels.
        anchor: which point of the baseline `at` is.
        bold: whether it is bold.
    """

    at: Point
    text: str
    role: str = "ink"
    size: float = 13.0
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False

    @property
    def box(self) -> Box:
        """What the text covers, a little generous."""
        width = text_width(self.text, self.size)
        left = self.at[0] - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.at[1] - 0.8 * self.size, left + width, self.at[1] + 0.25 * self.size


Mark = Line | Area | Dot | Text


@dataclass
class Drawing:
    """Marks on a sheet of width × height pixels.

    Attributes:
        width: of the sheet, in pixels.
        height: of the sheet, in pixels.
        title: a heading for readers who cannot see it.
        description: what it shows, for readers who cannot see it.
        marks: in the order in which they are drawn, later ones on top.
    """

    width: int
    height: int
    title: str
    description: str
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        """Adds marks on top of those that are there."""
        self.marks.extend(marks)

    def svg(self, name: str = "plot", *, standalone: bool = True) -> str:
        """Returns the drawing as SVG. All texts are escaped.

        Args:
            name: prefix of its ids, unique in a page.
            standalone: whether it is a file of its own, with a background, rather than part of a page.
        """
        css = "".join(_rule(name, role) for role in ROLES)
        dark = "".join(f"--plot-{role}:{dark};" for role, (_, dark, _) in ROLES.items())
        light = "".join(f"--plot-{role}:{light};" for role, (light, _, _) in ROLES.items())
        # The theme that a reader has chosen in the gallery (data-theme) goes before that of the system.
        themes = (
            f"#{name}{{{light}font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}}"
            f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]) #{name},svg:root#{name}{{{dark}}}}}"
            f"[data-theme=dark] #{name}{{{dark}}}"
        )
        paper = f'<rect class="paper-fill" width="{self.width}" height="{self.height}"/>' if standalone else ""
        namespace = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        return (
            f'<svg{namespace} id="{name}" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-labelledby="{name}-title {name}-desc">'
            f'<title id="{name}-title">{xml_text(self.title)}</title>'
            f'<desc id="{name}-desc">{xml_text(self.description)}</desc>'
            f"<style>{themes}{css}</style>{paper}{''.join(_svg(mark) for mark in self.marks)}</svg>\n"
        )

    def png(self, scale: int = 2) -> bytes:
        """Returns the drawing as a PNG file in the light colours.

        Args:
            scale: pixels of the file, along each axis, for one pixel of the drawing.
        """
        fine = 2 * scale  # drawn twice as large and reduced, which smooths its edges
        image = Image.new("RGB", (self.width * fine, self.height * fine), ROLES["paper"][0])
        pen = ImageDraw.Draw(image)
        for mark in self.marks:
            _paint(pen, mark, fine)
        buffer = io.BytesIO()
        small = image.resize((self.width * scale, self.height * scale), Image.Resampling.LANCZOS)
        small.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


# --- SVG ------------------------------------------------------------------------------------------------------------


def _rule(name: str, role: str) -> str:
    own = f"var(--plot-{role})"
    colour = f"var(--{ROLES[role][2]},{own})" if ROLES[role][2] else own
    return f"#{name} .{role}-fill{{fill:{colour}}}#{name} .{role}-line{{stroke:{colour};fill:none}}"


def xml_text(text: str) -> str:
    """Escapes a text for XML and drops the characters that XML cannot hold."""
    return escape("".join(c for c in text if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff"))


def _svg(mark: Mark) -> str:
    if isinstance(mark, Text):
        weight = ' font-weight="600"' if mark.bold else ""
        return (
            f'<text class="{mark.role}-fill" x="{mark.at[0]:.1f}" y="{mark.at[1]:.1f}" font-size="{mark.size:g}" '
            f'text-anchor="{mark.anchor}"{weight}>{xml_text(mark.text)}</text>'
        )
    if isinstance(mark, Line):
        dash = f' stroke-dasharray="{mark.dash:g}"' if mark.dash else ""
        return (
            f'<polyline class="{mark.role}-line" points="{_points(mark.points)}" stroke-width="{mark.width:g}" '
            f'stroke-linejoin="round"{dash}/>'
        )
    if isinstance(mark, Area):
        return f'<polygon class="{mark.role}-fill" points="{_points(mark.points)}"/>'
    if mark.shape == "circle":
        return f'<circle class="{mark.role}-fill" cx="{mark.at[0]:.1f}" cy="{mark.at[1]:.1f}" r="{mark.radius:g}"/>'
    return f'<polygon class="{mark.role}-fill" points="{_points(_outline(mark))}"/>'


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _outline(dot: Dot) -> list[Point]:
    (x, y), r = dot.at, dot.radius
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
    }[dot.shape]
    return [(x + r * dx, y + r * dy) for dx, dy in corners]


# --- PNG ------------------------------------------------------------------------------------------------------------


def _paint(pen: ImageDraw.ImageDraw, mark: Mark, scale: float) -> None:
    colour = ROLES[mark.role][0]
    if isinstance(mark, Text):
        x, y = mark.at[0] * scale, mark.at[1] * scale
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
        bold = 0.016 * mark.size * scale if mark.bold else 0
        pen.text(
            (x, y), in_ascii(mark.text), fill=colour, font=font(mark.size * scale), anchor=anchor, stroke_width=bold,
            stroke_fill=colour,
        )  # fmt: skip
    elif isinstance(mark, Line):
        width = max(1, round(mark.width * scale))
        for piece in _dashes(mark.points, mark.dash) if mark.dash else [mark.points]:
            pen.line([(x * scale, y * scale) for x, y in piece], fill=colour, width=width, joint="curve")
    elif isinstance(mark, Area):
        if len(mark.points) > 2:
            pen.polygon([(x * scale, y * scale) for x, y in mark.points], fill=colour)
    elif mark.shape == "circle":
        (x, y), r = mark.at, mark.radius
        pen.ellipse([(x - r) * scale, (y - r) * scale, (x + r) * scale, (y + r) * scale], fill=colour)
    else:
        pen.polygon([(x * scale, y * scale) for x, y in _outline(mark)], fill=colour)


def _dashes(points: Sequence[Point], length: float) -> list[list[Point]]:
    pieces = []
    for (x0, y0), (x1, y1) in pairwise(points):
        whole = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < whole:
            end = min(at + length, whole)
            pieces.append([(x0 + (x1 - x0) * t / whole, y0 + (y1 - y0) * t / whole) for t in (at, end)])
            at += 2 * length
    return pieces


@cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, which is the same on every machine. It has no glyphs beyond ASCII."""
    return ImageFont.load_default(size)


def in_ascii(text: str) -> str:
    """Returns a text in ASCII: letters without accents, a question mark for any other character."""
    simple = unicodedata.normalize("NFKD", text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-"))
    return "".join(c if c < "\x7f" else "?" for c in simple if not unicodedata.combining(c))


def text_width(text: str, size: float) -> float:
    """Returns the width of a text in pixels, a little generous, because pages use another font.

    Args:
        text: one line.
        size: of the font, in pixels.
    """
    return 1.04 * float(font(100).getlength(in_ascii(text))) * size / 100


# --- axes and labels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A linear map from values low … high to pixels start … end.

    Values far outside are placed at most ten lengths of the axis away.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, -10.0), 10.0)

    def ticks(self, most: int = 7) -> list[float]:
        """Returns round values within the axis, 1, 2 or 5 times a power of ten apart.

        Args:
            most: how many values there may be.
        """
        magnitude = 10.0 ** math.floor(math.log10(self.high - self.low))
        for multiple in (0.1, 0.2, 0.5, 1, 2, 5, 10):
            step = magnitude * multiple
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [round(i * step, 12) for i in range(first, last + 1)]


def overlap(a: Box, b: Box) -> float:
    """Returns the area that two boxes share, in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


class Labels:
    """Finds a position for each label beside its mark, where it covers neither marks nor other labels.

    No label leaves `within` where any of its candidate positions lies inside.

    Args:
        within: where labels may lie.
        taken: boxes that labels keep clear of.
        paths: points of curves that labels rather do not cover.
    """

    def __init__(self, within: Box, taken: Sequence[Box] = (), paths: Sequence[Point] = ()) -> None:
        self.within, self.taken, self.paths = within, list(taken), list(paths)

    def attach(self, at: Point, text: str, role: str = "ink", size: float = 13.0) -> list[Mark]:
        """Returns the marks of a label: its text, before it a thin line to its mark where it had to move away.

        Args:
            at: of the mark.
            text: of the label.
            role: of the text, one of `ROLES`.
            size: of the font, in pixels.
        """
        candidates: list[tuple[bool, float, list[Point], Text]] = []
        for distance in (10, 22, 38, 58, 82, 110):
            for direction in range(16):
                angle = math.pi / 8 * direction
                dx, dy = math.cos(angle), -math.sin(angle)
                anchor: Literal["start", "middle", "end"] = "start" if dx > 0.2 else "end" if dx < -0.2 else "middle"
                spot = (at[0] + distance * dx, at[1] + distance * dy + size * 0.35 * (1 - dy))
                label = Text(spot, text, role, size, anchor)
                leader = _leader(at, label.box) if distance > 22 else []
                outside = self._outside(label.box)
                cost = 100 * outside + self._cost(label.box, leader) + 0.5 * distance - 3 * dx
                # The edge is no cost to be weighed against others: text beyond it is cut off, by however little.
                candidates.append((outside > 0, cost, leader, label))
        _, _, leader, best = min(candidates, key=lambda candidate: candidate[:2])
        box = best.box
        self.taken.append((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2))
        self.paths += leader
        return [Line([at, leader[-1]], "muted", 0.75), best] if leader else [best]

    def _outside(self, box: Box) -> float:
        """By how many pixels a box leaves `within`, summed over the four sides."""
        left, top, right, bottom = self.within
        return max(0, left - box[0]) + max(0, top - box[1]) + max(0, box[2] - right) + max(0, box[3] - bottom)

    def _cost(self, box: Box, leader: Sequence[Point]) -> float:
        """How bad it is what a label and its leader cover."""
        covered = sum(overlap(box, other) for other in self.taken)
        crossed = sum(box[0] - 3 <= x <= box[2] + 3 and box[1] - 3 <= y <= box[3] + 3 for x, y in self.paths)
        # The first points of a leader are on its own mark.
        struck = sum(b[0] <= x <= b[2] and b[1] <= y <= b[3] for x, y in leader[3:] for b in self.taken)
        return 5 * covered + 8 * crossed + 8 * struck


def _leader(at: Point, box: Box) -> list[Point]:
    """Points 4 pixels apart from a mark to the nearest point of a box."""
    end = (min(max(at[0], box[0]), box[2]), min(max(at[1], box[1] - 1), box[3] + 1))
    count = max(1, int(math.hypot(end[0] - at[0], end[1] - at[1]) / 4))
    return [(at[0] + (end[0] - at[0]) * i / count, at[1] + (end[1] - at[1]) * i / count) for i in range(count + 1)]
