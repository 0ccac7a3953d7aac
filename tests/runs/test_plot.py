"""Drawings: what they hold is what was put in, labels keep clear of each other, and both renderings open."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from entoptic.plots.drawing import ROLES, Area, Axis, Dot, Drawing, Labels, Line, Text, overlap
from entoptic.plots.frontier import HEADINGS, draw, row

NS = "{http://www.w3.org/2000/svg}"


def about(value: float, spread: float | None = None) -> dict[str, Any]:
    return {"value": value, "se": None, "interval": None if spread is None else [value - spread, value + spread]}


def record(*places: dict[str, Any], **more: Any) -> dict[str, Any]:
    points = [{"nats": about(8 * (i / 20) ** 2, 0), "mean": about(4 * i / 20, 0.2 * i / 20)} for i in range(21)]
    return {
        "unit": "logits:497", "label": "church", "model": {"name": "builtin:lite0"}, "prior": {"name": "toy"},
        "asked": {"nats": 8.0}, "frontier": {"points": points}, "places": list(places), **more,
    }  # fmt: skip


LAW = {"kind": "law", "title": "klsc", "nats": about(8, 0.3), "mean": about(4, 0.2), "excess": about(0)}
CHAIN = {
    "kind": "bounds",
    "title": "chain",
    "nats": about(3),
    "path_nats": about(5),
    "mean": about(2.4, 0.3),
    "excess": {},
}
MASS = {"kind": "point", "title": "vital", "nats": None, "mean": about(5), "excess": None}


def lines(drawing: Drawing, role: str) -> list[Line]:
    return [mark for mark in drawing.marks if isinstance(mark, Line) and mark.role == role]


def texts(drawing: Drawing) -> list[Text]:
    return [mark for mark in drawing.marks if isinstance(mark, Text)]


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
@given(st.lists(st.tuples(st.floats(60, 340), st.floats(60, 240)), min_size=1, max_size=6, unique=True))
def test_labels_neither_collide_nor_leave_the_sheet(spots: list[tuple[float, float]]) -> None:
    labels = Labels((0, 0, 400, 300), [(x - 5, y - 5, x + 5, y + 5) for x, y in spots])
    boxes = [next(m for m in labels.place(at, "some label") if isinstance(m, Text)).box for at in spots]
    for i, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 400
        assert all(overlap(box, other) == 0 for other in boxes[:i])


# --- the frontier -------------------------------------------------------------------------------------------------------


def test_a_law_stands_on_the_curve_and_a_bar_spans_its_bounds() -> None:
    drawing = draw(record(LAW, CHAIN))
    curve = max(lines(drawing, "frontier"), key=lambda line: len(line.points))
    dot = next(m for m in drawing.marks if isinstance(m, Dot) and m.role == "law")
    assert dot.at == pytest.approx(curve.points[-1])
    chain = next(m for m in drawing.marks if isinstance(m, Dot) and m.role == "bounds")
    bar = next(line for line in lines(drawing, "bounds") if line.points[0] == chain.at)
    unit = (curve.points[-1][0] - curve.points[0][0]) / 8  # pixels to a nat
    assert bar.points[1][0] - bar.points[0][0] == pytest.approx(2 * unit)
    assert bar.dash == 0
    assert {"klsc", "chain"} <= {t.text for t in texts(drawing)}


@pytest.mark.parametrize(
    ("most", "told"), [(None, "3 nats or more"), (about(900.0), "path 900 nats"), (about(1.0), "3 nats or more")]
)
def test_a_bar_without_an_end_says_so(most: Any, told: str) -> None:
    drawing = draw(record(CHAIN | {"path_nats": most}))
    assert any(told in t.text for t in texts(drawing))
    x = [line.points[1][0] for line in lines(drawing, "bounds")]
    assert max(x) <= drawing.width - 20


def test_point_masses_stand_apart_and_what_is_too_high_is_said() -> None:
    without, drawing = draw(record(LAW)), draw(record(LAW, MASS, MASS | {"title": "maco", "mean": about(300.0, 4.0)}))
    strip = [m for m in drawing.marks if isinstance(m, Dot) and m.role == "point"]
    assert len(strip) == 2
    rightmost = max(x for line in lines(drawing, "frontier") for x, _ in line.points)
    assert all(dot.at[0] > rightmost for dot in strip)
    assert all(0 < dot.at[1] < drawing.height for dot in strip)
    words = " ".join(t.text for t in texts(drawing))
    assert "nats unbounded" in words
    assert "maco, 300 sd" in words
    assert "nats unbounded" not in " ".join(t.text for t in texts(without))
    assert "a point mass" in drawing.description


def test_beyond_the_budget_the_curve_is_dashed() -> None:
    drawing = draw(record(LAW, asked={"nats": 4.0}))
    solid, dashed = (next(line for line in lines(drawing, "frontier") if bool(line.dash) is d) for d in (False, True))
    assert solid.points[-1] == dashed.points[0]


@pytest.mark.parametrize(
    "place", [LAW, CHAIN, MASS, {"kind": "level", "title": "photos", "nats": None, "mean": about(1)}]
)
def test_rows_have_a_cell_for_each_heading(place: dict[str, Any]) -> None:
    cells = row(place)
    assert len(cells) == len(HEADINGS)
    assert cells[0] == place["title"]
    expected = {"law": "8 (7.7 to 8.3)", "bounds": "at least 3", "point": "unbounded", "level": "another prior"}
    assert cells[2].startswith(expected[place["kind"]])
