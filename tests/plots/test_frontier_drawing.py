"""The drawing and the table of a frontier."""

from __future__ import annotations

from typing import Any

import pytest

from entoptic.plots.drawing import Dot, Drawing, Line, Text
from entoptic.plots.frontier import HEADINGS, draw, row


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
