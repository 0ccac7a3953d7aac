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
    points: Sequence[Point]
    role: str
    width: float = 1.0
    dash: float = 0.0
    """length of dashes and gaps; 0 is a solid line"""


@dataclass(frozen=True)
class Area:
    points: Sequence[Point]
    role: str


@dataclass(frozen=True)
class Dot:
    at: Point
    role: str
    shape: Shape = "circle"
    radius: float = 5.0


@dataclass(frozen=True)
class Text:
    at: Point
    """left, middle or right end (see `anchor`) of the baseline"""
    text: str
    role: str = "ink"
    size: float = 13.0
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False

    @property
    def box(self) -> Box:
        width = text_width(self.text, self.size)
        left = self.at[0] - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.at[1] - 0.8 * self.size, left + width, self.at[1] + 0.25 * self.size


Mark = Line | Area | Dot | Text


@dataclass
class Drawing:
    """Marks on a sheet of width × height pixels. `title` and `description` are for those who cannot see it."""

    width: int
    height: int
    title: str
    description: str
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks.extend(marks)

    def svg(self, name: str = "plot", *, standalone: bool = True) -> str:
        """SVG text. name: prefix of its ids, unique in a page. standalone: for a file of its own, with its paper."""
        css = "".join(_rule(name, role) for role in ROLES)
        dark = "".join(f"--plot-{role}:{dark};" for role, (_, dark, _) in ROLES.items())
        light = "".join(f"--plot-{role}:{light};" for role, (light, _, _) in ROLES.items())
        # A page may have a theme of its own (the gallery's data-theme), which goes before the system's.
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
            f'<title id="{name}-title">{_escape(self.title)}</title>'
            f'<desc id="{name}-desc">{_escape(self.description)}</desc>'
            f"<style>{themes}{css}</style>{paper}{''.join(_svg(mark) for mark in self.marks)}</svg>\n"
        )

    def png(self, scale: int = 2) -> bytes:
        """PNG in the light colours, `scale` pixels to the pixel."""
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


def _escape(text: str) -> str:
    """Escaped, without the control characters that XML has no way to hold."""
    return escape("".join(c for c in text if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff"))


def _svg(mark: Mark) -> str:
    if isinstance(mark, Text):
        weight = ' font-weight="600"' if mark.bold else ""
        return (
            f'<text class="{mark.role}-fill" x="{mark.at[0]:.1f}" y="{mark.at[1]:.1f}" font-size="{mark.size:g}" '
            f'text-anchor="{mark.anchor}"{weight}>{_escape(mark.text)}</text>'
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
            (x, y), _plain(mark.text), fill=colour, font=_font(mark.size * scale), anchor=anchor, stroke_width=bold,
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
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow: the same picture on every machine, and no glyphs beyond ASCII."""
    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """Letters without their accents, and a question mark for what ASCII has nothing near to."""
    simple = unicodedata.normalize("NFKD", text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-"))
    return "".join(c if c < "\x7f" else "?" for c in simple if not unicodedata.combining(c))


def text_width(text: str, size: float) -> float:
    """Width in pixels, a little generous: pages show another font."""
    return 1.04 * float(_font(100).getlength(_plain(text))) * size / 100


# --- axes and labels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """From values low … high to pixels start … end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, -10.0), 10.0)

    def ticks(self, most: int = 7) -> list[float]:
        """At most `most` round values within the axis, 1, 2 or 5 times a power of ten apart."""
        magnitude = 10.0 ** math.floor(math.log10(self.high - self.low))
        for multiple in (0.1, 0.2, 0.5, 1, 2, 5, 10):
            step = magnitude * multiple
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [round(i * step, 12) for i in range(first, last + 1)]


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


class Labels:
    """Places labels beside their marks so that they cover neither marks nor each other.

    within: where labels may lie. taken: boxes that they keep clear of. paths: points that they rather do not cover.
    """

    def __init__(self, within: Box, taken: Sequence[Box] = (), paths: Sequence[Point] = ()) -> None:
        self.within, self.taken, self.paths = within, list(taken), list(paths)

    def place(self, at: Point, text: str, role: str = "ink", size: float = 13.0) -> list[Mark]:
        """The label, with a thin line to its mark where it had to move away."""
        candidates = []
        for distance in (10, 22, 38, 58, 82, 110):
            for step in range(16):
                angle = math.pi / 8 * step
                dx, dy = math.cos(angle), -math.sin(angle)
                anchor: Literal["start", "middle", "end"] = "start" if dx > 0.2 else "end" if dx < -0.2 else "middle"
                spot = (at[0] + distance * dx, at[1] + distance * dy + size * 0.35 * (1 - dy))
                label = Text(spot, text, role, size, anchor)
                leader = _leader(at, label.box) if distance > 22 else []
                candidates.append((self._cost(label.box, leader) + 0.5 * distance - 3 * dx, leader, label))
        _, leader, best = min(candidates, key=lambda c: c[0])
        box = best.box
        self.taken.append((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2))
        self.paths += leader
        return [Line([at, leader[-1]], "muted", 0.75), best] if leader else [best]

    def _cost(self, box: Box, leader: Sequence[Point]) -> float:
        left, top, right, bottom = self.within
        outside = max(0, left - box[0]) + max(0, top - box[1]) + max(0, box[2] - right) + max(0, box[3] - bottom)
        covered = sum(overlap(box, other) for other in self.taken)
        crossed = sum(box[0] - 3 <= x <= box[2] + 3 and box[1] - 3 <= y <= box[3] + 3 for x, y in self.paths)
        # The first points of a leader are on its own mark.
        struck = sum(b[0] <= x <= b[2] and b[1] <= y <= b[3] for x, y in leader[3:] for b in self.taken)
        return 100 * outside + 5 * covered + 8 * crossed + 8 * struck


def _leader(at: Point, box: Box) -> list[Point]:
    """Points 4 pixels apart from a mark to the nearest point of a box."""
    end = (min(max(at[0], box[0]), box[2]), min(max(at[1], box[1] - 1), box[3] + 1))
    count = max(1, int(math.hypot(end[0] - at[0], end[1] - at[1]) / 4))
    return [(at[0] + (end[0] - at[0]) * i / count, at[1] + (end[1] - at[1]) * i / count) for i in range(count + 1)]
