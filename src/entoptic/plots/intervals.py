"""A drawing of estimates with their intervals, one row each, beside a line for chance or no difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entoptic.plots.drawing import Axis, Dot, Drawing, Line, Shape, Text, text_width

WIDTH = 760
_ROW, _TOP, _BOTTOM, _RIGHT = 30, 26, 46, 120


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimate.

    Attributes:
        label: of the row.
        value: of the estimate.
        interval: of the estimate.
        text: of the value with its interval, at the right end.
        role: its colour, one of `drawing.ROLES`.
        shape: of its mark.
    """

    label: str
    value: float
    interval: tuple[float, float]
    text: str
    role: str = "frontier"
    shape: Shape = "circle"


def draw_intervals(
    rows: Sequence[Row], *, title: str, axis: str, reference: float | None = None, reference_text: str = "",
    bounds: tuple[float, float] | None = None, scale: float = 1.0,
) -> Drawing:  # fmt: skip
    """Draws estimates with their intervals.

    Args:
        rows: at least one, from the top.
        title: for readers who cannot see it; the page has a heading.
        axis: what is measured, below the ticks.
        reference: value of a vertical line, such as chance.
        reference_text: what the line is.
        bounds: smallest and largest value that is possible; the axis goes no further.
        scale: ticks show values times this, 100 for percent.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there is nothing to draw")
    left = 24 + min(260, max(text_width(row.label, 13) for row in rows))
    right = WIDTH - max(_RIGHT, 1.12 * max(text_width(row.text, 12) for row in rows) + 30)
    bottom = _TOP + _ROW * len(rows)
    low = min([row.interval[0] for row in rows] + ([] if reference is None else [reference]))
    high = max([row.interval[1] for row in rows] + ([] if reference is None else [reference]))
    room = 0.06 * (high - low) or 0.05
    low, high = low - room, high + room
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    x = Axis(scale * low, scale * high, left + 12, right)
    said = "; ".join(f"{row.label} {row.text}" for row in rows)
    drawing = Drawing(
        WIDTH, bottom + _BOTTOM, title, f"{axis}: {said}." + (f" Line: {reference_text}." if reference_text else "")
    )
    for tick in x.ticks(8):
        drawing.add(
            Line([(x(tick), _TOP), (x(tick), bottom)], "line"),
            Text((x(tick), bottom + 18), f"{tick:g}".replace("-", "\N{MINUS SIGN}"), "muted", 12, "middle"),
        )
    drawing.add(
        Line([(left + 12, bottom), (right, bottom)], "muted"), Text((right, bottom + 38), axis, "muted", 12, "end")
    )
    if reference is not None:
        at = x(scale * reference)
        drawing.add(Line([(at, _TOP - 4), (at, bottom)], "bounds", 1.5, 4))
        if reference_text:
            start = text_width(reference_text, 12) / 2
            place = min(max(at, left + 12 + start), WIDTH - 16 - start)
            drawing.add(Text((place, _TOP - 8), reference_text, "bounds", 12, "middle"))
    for k, row in enumerate(rows):
        y = _TOP + _ROW * (k + 0.5)
        a, b = (x(scale * end) for end in row.interval)
        drawing.add(
            Text((left, y + 4.5), _fitting(row.label, left - 20, 13), size=13, anchor="end"),
            Line([(a, y), (b, y)], row.role, 2.0),
            Line([(a, y - 4), (a, y + 4)], row.role, 2.0),
            Line([(b, y - 4), (b, y + 4)], row.role, 2.0),
            Dot((x(scale * row.value), y), row.role, row.shape, 5.0),
            Text((right + 16, y + 4.5), row.text, "muted", 12),
        )
    return drawing


def _fitting(text: str, width: float, size: float) -> str:
    """A text cut to a width, with an ellipsis where it is."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
