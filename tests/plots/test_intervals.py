"""Estimates with intervals: all marks inside, texts escaped, chance shown."""

from __future__ import annotations

import re

import pytest

from entoptic.plots.drawing import Dot, Line, Text
from entoptic.plots.intervals import Row, draw_intervals

ROWS = [
    Row(label="real photos", value=0.92, interval=(0.85, 0.97), text="92.0 % (85.0 to 97.0 %)", shape="square"),
    Row(
        label="<b>vital</b> with a name that is far too long for the place that it has",
        value=0.4,
        interval=(0.3, 0.55),
        text="40 %",
    ),
]


def test_every_mark_lies_on_the_sheet_and_values_at_their_place() -> None:
    drawing = draw_intervals(
        ROWS, title="Shares", axis="right, %", reference=0.5, reference_text="chance", bounds=(0, 1), scale=100
    )
    for mark in drawing.marks:
        if isinstance(mark, Text):
            assert 0 <= mark.box[0] < mark.box[2] <= drawing.width
        points = mark.points if isinstance(mark, Line) else [mark.at] if isinstance(mark, Text | Dot) else []
        assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in points)
    first, second = (mark for mark in drawing.marks if isinstance(mark, Dot))
    assert first.at[0] > second.at[0]
    (chance,) = (mark for mark in drawing.marks if isinstance(mark, Line) and mark.role == "bounds")
    assert second.at[0] < chance.points[0][0] < first.at[0]


def test_texts_are_escaped_and_said_to_those_who_cannot_see() -> None:
    svg = draw_intervals(ROWS, title="Shares", axis="right, %").svg("plot")
    assert "<b>" not in svg
    assert "…" in svg
    assert re.search(r"<desc[^>]*>right, %: real photos 92.0 % \(85.0 to 97.0 %\)", svg)


def test_one_estimate_without_a_width_is_drawn_and_none_refused() -> None:
    row = Row(label="a", value=1.0, interval=(1.0, 1.0), text="1")
    assert draw_intervals([row], title="t", axis="a", bounds=(0, 1)).png()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_intervals([], title="t", axis="a")
