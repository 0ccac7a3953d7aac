"""Lays pictures out for a paper: rows by columns with headings, or one after the other with a label below each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from entoptic.plots.drawing import Line, Text, font, in_ascii
from entoptic.plots.figure import Figure, Tile

LABEL, SMALL = 7.5, 6.0
"""Sizes of names and of what stands below them, in points."""
_TITLE = 9.0
_LEADING = 1.22  # height of a line over the size of its font
_MOST, _LEAST = 130.0, 20.0  # sides of a picture, in points
_GAP, _ROW_GAP, _GROUP_GAP = 2.5, 7.0, 8.0
_MARGIN = 1.5  # so that no edge or letter is cut off
_SMALLEST = 4.2  # font that can still be read
_LABEL_SHARE = 0.2  # of the width, at most, for the names of rows


@dataclass(frozen=True, kw_only=True)
class Number:
    """One measurement below a picture. None of its pieces is broken or cut.

    Attributes:
        title: what is measured.
        value: with its unit.
        about: its interval and n, lighter.
    """

    title: str
    value: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture with what stands below it.

    Attributes:
        pixels: H×W×3 uint8, or None for a picture that is not there.
        name: what it is of, "" where that is clear.
        about: smaller lines below the name.
        numbers: measurements below it.
    """

    pixels: np.ndarray | None = field(repr=False)
    name: str = ""
    about: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """The pictures of one unit.

    Attributes:
        name: of the unit.
        about: a smaller line below it, or "".
        groups: pictures for each heading; an empty group is shown as a picture that is not there.
    """

    name: str
    about: str = ""
    groups: Sequence[Sequence[Cell]]


class TooNarrow(ValueError):
    """Pictures would be too small to be seen, or what stands below them too small to be read."""


def draw_rows(
    rows: Sequence[Row], headings: Sequence[str], *, width: float, title: str = "", description: str = ""
) -> Figure:
    """Draws a figure whose rows are units and whose columns are groups of pictures.

    Args:
        rows: at least one, each with a group for each heading.
        headings: above the groups; "" for none.
        width: of the figure, in points.
        title: above the pictures, or "".
        description: for readers who cannot see it.

    Raises:
        TooNarrow: there are too many pictures beside each other.
    """
    width -= 2 * _MARGIN
    counts = [max(1, *(len(row.groups[g]) for row in rows)) for g in range(len(headings))]
    most = _LABEL_SHARE * width
    names = [_lines(row.name, LABEL, most, 3) + _lines(row.about, SMALL, most, 2) for row in rows]
    label = max((_width(text, size) for lines in names for text, size in lines), default=0.0)
    left = label + 6 if label else 0.0
    group_gap = _GROUP_GAP if max(counts) > 1 else _GAP
    total = sum(counts)
    side = _side((width - left - _GAP * (total - len(counts)) - group_gap * (len(counts) - 1)) / total, total)
    place = _Sheet(title, _size_of_numbers([cell for row in rows for group in row.groups for cell in group], side))
    starts, x = [], left
    for count in counts:
        starts.append(x)
        x += count * side + (count - 1) * _GAP + group_gap
    right = x - group_gap
    place.heading(0.0)
    if any(headings):
        spans = [count * side + (count - 1) * _GAP for count in counts]
        size = min(_fitting(_pieces(heading), LABEL, span) for heading, span in zip(headings, spans))
        wrapped = [_lines(heading, size, span, 3) for heading, span in zip(headings, spans)]
        for lines, start, span in zip(wrapped, starts, spans):
            skipped = max(len(other) for other in wrapped) - len(lines)  # the last lines stand side by side
            place.column(lines, start + span / 2, place.y + skipped * size * _LEADING, "ink")
        place.y += max(len(lines) for lines in wrapped) * size * _LEADING + 2.5
    for lines, row in zip(names, rows):
        top, lowest = place.y, place.y + side
        height = sum(size * _LEADING for _, size in lines)
        at = top + max(0.0, (side - height) / 2)
        for text, size in lines:
            at = place.column([(text, size)], 0.0, at, "ink" if size == LABEL else "muted", start=True)
        for start, cells in zip(starts, row.groups):
            for i, cell in enumerate(cells or [Cell(pixels=None)]):
                x = start + i * (side + _GAP)
                place.tile(cell, x, top, side)
                lowest = max(lowest, place.below(cell, x, top + side, side))
        place.y = lowest + (_ROW_GAP if any(c.numbers or c.name for g in row.groups for c in g) else _GAP)
    return place.figure(max(right, place.title_width), description)


def draw_flow(cells: Sequence[Cell], columns: int, *, width: float, title: str = "", description: str = "") -> Figure:
    """Draws a figure of pictures one after the other, each with its label below.

    Args:
        cells: the pictures, at least one.
        columns: pictures beside each other.
        width: of the figure, in points.
        title: above the pictures, or "".
        description: for readers who cannot see it.

    Raises:
        TooNarrow: there are too many pictures beside each other.
    """
    width -= 2 * _MARGIN
    columns = min(columns, len(cells))
    gap = 6.0 if any(cell.name or cell.numbers for cell in cells) else _GAP
    side = _side((width - gap * (columns - 1)) / columns, columns)
    place = _Sheet(title, _size_of_numbers(cells, side))
    place.heading(0.0)
    for first in range(0, len(cells), columns):
        top, lowest = place.y, place.y + side
        for i, cell in enumerate(cells[first : first + columns]):
            x = i * (side + gap)
            place.tile(cell, x, top, side)
            lowest = max(lowest, place.below(cell, x, top + side, side))
        place.y = lowest + (_ROW_GAP if gap > _GAP else _GAP)
    return place.figure(max(columns * (side + gap) - gap, place.title_width), description)


@dataclass
class _Sheet:
    """Marks so far, and the height that they take."""

    title: str
    number_size: float
    y: float = 0.0
    marks: list[Tile | Line | Text] = field(default_factory=list)

    @property
    def title_width(self) -> float:
        return _width(self.title, _TITLE)

    def heading(self, x: float) -> None:
        if self.title:
            self.marks.append(Text((x, self.y + 0.8 * _TITLE), self.title, "ink", _TITLE, bold=True))
            self.y += _TITLE * _LEADING + 5

    def column(
        self, lines: Sequence[tuple[str, float]], x: float, top: float, role: str, *, start: bool = False
    ) -> float:
        """Lines of text below each other, centred at x or starting there; returns where they end."""
        for text, size in lines:
            self.marks.append(Text((x, top + 0.8 * size), text, role, size, "start" if start else "middle"))
            top += size * _LEADING
        return top

    def tile(self, cell: Cell, x: float, top: float, side: float) -> None:
        box = (x, top, x + side, top + side)
        if cell.pixels is not None:
            self.marks.append(Tile(box, cell.pixels))
            return
        edge = 0.4
        corners = [(x + edge, top + edge), (x + side - edge, top + edge), (x + side - edge, top + side - edge),
                   (x + edge, top + side - edge), (x + edge, top + edge)]  # fmt: skip
        self.marks += [
            Line(corners, "line", 0.5),
            Text((x + side / 2, top + side / 2 + 2), "no picture", "muted", min(SMALL, side / 6), "middle"),
        ]

    def below(self, cell: Cell, x: float, top: float, side: float) -> float:
        """Name and numbers below a picture; returns where they end."""
        middle, at = x + side / 2, top + 2.5
        at = self.column(_lines(cell.name, LABEL, side, 2), middle, at, "ink")
        for text in cell.about:
            at = self.column(_lines(text, SMALL, side, 2), middle, at, "muted")
        size = self.number_size
        for number in cell.numbers:
            said = (f"{number.title}:" if number.value else number.title, number.value)
            for pieces, between, role in ((said, " ", "ink"), (number.about, ", ", "muted")):
                lines = [(line, size) for line in _packed(pieces, between, size, side)]
                at = self.column(lines, middle, at, role)
            at += 1
        return at if cell.name or cell.about or cell.numbers else top

    def figure(self, width: float, description: str) -> Figure:
        ends = [mark.box[3] for mark in self.marks if isinstance(mark, Tile)]
        ends += [mark.at[1] + 0.25 * mark.size for mark in self.marks if isinstance(mark, Text)]
        ends += [y for mark in self.marks if isinstance(mark, Line) for _, y in mark.points]
        margin = _MARGIN
        moved: list[Tile | Line | Text] = []
        for mark in self.marks:
            if isinstance(mark, Tile):
                moved.append(Tile(tuple(edge + margin for edge in mark.box), mark.pixels))  # type: ignore[arg-type]
            elif isinstance(mark, Line):
                moved.append(Line([(x + margin, y + margin) for x, y in mark.points], mark.role, mark.width))
            else:
                at = (mark.at[0] + margin, mark.at[1] + margin)
                moved.append(Text(at, mark.text, mark.role, mark.size, mark.anchor, mark.bold))
        title = self.title or description.partition("\n")[0]
        return Figure(width + 2 * margin, max(ends) + 2 * margin, title, description, moved)


def _side(side: float, beside: int) -> float:
    if side < _LEAST:
        raise TooNarrow(f"{beside} pictures beside each other would be {max(side, 0) / 72:.2f} inches wide")
    return min(side, _MOST)


def _fitting(pieces: Sequence[str], size: float, width: float) -> float:
    """The size, at most `size` and not below the smallest, at which the longest of some pieces takes a width."""
    longest = max((_width(piece, size) for piece in pieces), default=0.0)
    return max(_SMALLEST, size * min(1.0, width / longest)) if longest else size


def _size_of_numbers(cells: Sequence[Cell], side: float) -> float:
    """The size of all numbers below pictures: the same for all, so that the longest is not wider than its picture."""
    pieces = [piece for cell in cells for n in cell.numbers for piece in (*_pieces(n.title), n.value, *n.about)]
    size = _fitting(pieces, SMALL, side)
    if pieces and max(_width(piece, size) for piece in pieces) > side + 0.5:
        raise TooNarrow(f"below pictures that are {side / 72:.2f} inches wide, numbers would be too small to be read")
    return size


def _packed(pieces: Sequence[str], between: str, size: float, width: float) -> list[str]:
    """Pieces in lines; none is broken, but for a long title at its spaces."""
    lines: list[str] = []
    for piece in filter(None, pieces):
        parts = [piece] if _width(piece, size) <= width else [text for text, _ in _lines(piece, size, width, 9)]
        for part in parts:
            joined = f"{lines[-1]}{between}{part}" if lines else part
            if lines and _width(joined, size) <= width:
                lines[-1] = joined
            else:
                lines.append(part)
    return lines


def _pieces(text: str) -> list[str]:
    """Words, and pieces of names that may be parted."""
    return [piece for piece in re.findall(r"\S+?[-_.:/,](?=\S)|\S+|\s+", text) if piece.strip()]


def _width(text: str, size: float) -> float:
    return float(font(100).getlength(in_ascii(text))) * size / 100


def _lines(text: str, size: float, width: float, most: int) -> list[tuple[str, float]]:
    """A text in at most `most` lines of a width, each with its size; what does not fit ends in dots."""
    if not text:
        return []
    lines, line = [], ""
    for piece in re.findall(r"\S+?[-_.:/,](?=\S)|\S+|\s+", text):  # words, and pieces of names that may be parted
        if line and _width((line + piece).rstrip(), size) > width:
            lines.append(line.strip())
            line = ""
        line = (line + piece).lstrip()
        while _width(line.rstrip(), size) > width and len(line) > 1:  # a word that is longer than the line
            cut = max(k for k in range(1, len(line)) if k == 1 or _width(line[:k], size) <= width)
            lines.append(line[:cut])
            line = line[cut:]
    lines.append(line.strip())
    lines = [line for line in lines if line]
    if len(lines) > most:
        last = lines[most - 1]
        while last and _width(f"{last}...", size) > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last.rstrip()}..."]
    return [(line, size) for line in lines]
