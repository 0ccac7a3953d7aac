"""Drawings: what they hold is what was put in, labels keep clear of each other, and both renderings open."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from entoptic.plots.drawing import ROLES, Area, Axis, Dot, Drawing, Labels, Line, Text, overlap

NS = "{http://www.w3.org/2000/svg}"


# --- rendering --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.text())
def test_any_text_makes_well_formed_svg_that_reads_back(text: str) -> None:
    drawing = Drawing(60, 40, text, text)
    drawing.add(Text((5, 20), text))
    root = ElementTree.fromstring(drawing.svg())
    held = "".join(c for c in text if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff")
    for name in ("text", "title", "desc"):
        found = root.find(f"{NS}{name}")
        assert found is not None
        assert (found.text or "") == held
    with Image.open(io.BytesIO(drawing.png())) as image:
        assert image.size == (120, 80)


def test_marks_show_where_they_were_put() -> None:
    drawing = Drawing(100, 100, "t", "d")
    drawing.add(
        Area([(0, 0), (40, 0), (40, 40), (0, 40)], "band"), Dot((70, 20), "law", radius=8),
        Dot((70, 60), "point", "square", 8), Line([(10, 90), (90, 90)], "ink", 4), Line([(10, 70), (50, 70)], "photos", 4, 5),
    )  # fmt: skip
    with Image.open(io.BytesIO(drawing.png(scale=1))) as image:
        for at, role in (
            ((20, 20), "band"),
            ((70, 20), "law"),
            ((70, 60), "point"),
            ((50, 90), "ink"),
            ((90, 30), "paper"),
        ):
            wanted = [int(ROLES[role][0][i : i + 2], 16) for i in (1, 3, 5)]
            assert all(abs(a - b) < 16 for a, b in zip(image.getpixel(at), wanted)), role
        dashed = [image.getpixel((x, 70)) for x in range(10, 50)]
        assert max(dashed)[0] - min(dashed)[0] > 100
    root = ElementTree.fromstring(drawing.svg())
    assert root.find(f"{NS}circle").get("cx") == "70.0"  # type: ignore[union-attr]
    assert root.get("aria-labelledby") == "plot-title plot-desc"
    assert "xmlns=" not in drawing.svg(standalone=False)


def test_colours_are_legible_on_both_papers_and_differ_without_hue() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (0, 1):
        paper = luminance(ROLES["paper"][theme])
        for role in ("ink", "muted", "frontier", "law", "bounds", "point", "photos"):
            low, high = sorted((paper, luminance(ROLES[role][theme])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (role, theme)


# --- axes and labels ----------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(3, 12))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    axis = Axis(low, low + span, 0, 100)
    ticks = axis.ticks(most)
    assert 1 <= len(ticks) <= most
    slack = 1e-6 * (span + abs(low))
    assert all(low - slack <= t <= low + span + slack for t in ticks)
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    for step in steps:
        digits = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-3


@settings(max_examples=25)
@example([(327.5, 60.0)])  # the best label by cost alone ended a hundredth of a pixel beyond the sheet
@given(st.lists(st.tuples(st.floats(60, 340), st.floats(60, 240)), min_size=1, max_size=6, unique=True))
def test_labels_neither_collide_nor_leave_the_sheet(spots: list[tuple[float, float]]) -> None:
    labels = Labels((0, 0, 400, 300), [(x - 5, y - 5, x + 5, y + 5) for x, y in spots])
    boxes = [next(m for m in labels.attach(at, "some label") if isinstance(m, Text)).box for at in spots]
    for i, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 400
        assert all(overlap(box, other) == 0 for other in boxes[:i])
