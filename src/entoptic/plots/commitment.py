"""The drawing of a commitment: success by the share of steps before the switch, for guidance switched on and off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entoptic.plots.drawing import Area, Axis, Dot, Drawing, Line, Mark, Shape, Text

WIDTH, HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 736, 96, 350
_ROLES = {"on": "law", "off": "bounds"}
_SHAPES: dict[str, Shape] = {"law": "circle", "bounds": "diamond"}
WORDS = {"on": "guidance on after the switch", "off": "guidance off after the switch"}


def draw(record: Mapping[str, Any]) -> Drawing:
    """Draws the success rates with their intervals, the isotonic curves, the level and the window.

    Args:
        record: content of `commitment.json`.
    """
    name = f"{record['unit']} ({record['label']})" if record.get("label") else str(record["unit"])
    drawing = Drawing(WIDTH, HEIGHT, f"Commitment of {name}", _description(record, name))
    x, y = Axis(0, 1, _LEFT, _RIGHT), Axis(0, 1, _BOTTOM, _TOP)
    drawing.add(
        Text((_LEFT, 28), str(record.get("label") or record["unit"]), size=18, bold=True),
        Text((_LEFT, 50), f"{record['unit']} of {record['model']['name']}, prior {record['prior']['name']}", "muted"),
    )
    if record["window"] is not None:
        start, end = record["window"]
        drawing.add(
            Area([(x(start), _TOP), (x(end), _TOP), (x(end), _BOTTOM), (x(start), _BOTTOM)], "band"),
            Text(((x(start) + x(end)) / 2, _TOP + 16), "window", "muted", 12, "middle"),
        )
    for value in (0, 0.25, 0.5, 0.75, 1):
        drawing.add(Line([(_LEFT, y(value)), (_RIGHT, y(value))], "line"))
        drawing.add(Text((_LEFT - 9, y(value) + 4.5), f"{value:.0%}", "muted", 12, "end"))
    level = record["asked"]["level"]
    drawing.add(Line([(_LEFT, y(level)), (_RIGHT, y(level))], "muted", 1, 4))
    for place in record["places"]:
        drawing.add(Line([(x(place), _BOTTOM), (x(place), _BOTTOM + 5)], "muted"))
        drawing.add(Text((x(place), _BOTTOM + 21), f"{place:.0%}", "muted", 12, "middle"))
    for side, curve in record["curves"].items():
        drawing.add(*_curve(curve, _ROLES[side], x, y))
    for at, (side, role) in zip((_LEFT, _LEFT + 250), _ROLES.items()):
        drawing.add(Dot((at + 6, 70), role, _SHAPES[role]), Text((at + 18, 74), WORDS[side], "ink", 13))
    drawing.add(
        Text((_LEFT, _BOTTOM + 46), f"success of {record['curves']['on']['n']} chains at each switch", "muted", 12),
        Text((_RIGHT, _BOTTOM + 46), "steps before the switch", "muted", 12, "end"),
    )
    return drawing


def _curve(curve: Mapping[str, Any], role: str, x: Axis, y: Axis) -> list[Mark]:
    shift = -2.5 if role == "law" else 2.5  # so that intervals of both sides do not hide one another
    marks: list[Mark] = [
        Line([(x(p) + shift, y(low)), (x(p) + shift, y(high))], role, 1)
        for p, (low, high) in zip(curve["places"], curve["intervals"])
    ]
    marks.append(Line([(x(p), y(rate)) for p, rate in zip(curve["places"], curve["isotonic"])], role, 2.5))
    return marks + [
        Dot((x(p) + shift, y(r)), role, _SHAPES[role], 3.5) for p, r in zip(curve["places"], curve["rates"])
    ]


def _description(record: Mapping[str, Any], name: str) -> str:
    parts = [f"Share of chains whose picture drives {name} more than the natural quantile."]
    for side, curve in record["curves"].items():
        points = ", ".join(f"{rate:.0%} at {place:.0%}" for place, rate in zip(curve["places"], curve["rates"]))
        parts.append(f"With {WORDS[side]}: {points} of the steps.")
    if record["window"] is not None:
        parts.append(f"The window is {record['window'][0]:.0%} to {record['window'][1]:.0%} of the steps.")
    return " ".join(parts)
