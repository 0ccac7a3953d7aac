"""The drawing and the table of a frontier and of the methods' places on it, from the record that `runs.frontier` stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from entoptic.plots.drawing import Area, Axis, Box, Dot, Drawing, Labels, Line, Mark, Point, Shape, Text, overlap

WIDTH, HEIGHT = 820, 480
_LEFT, _TOP, _BOTTOM = 56, 84, 420
_STRIP = 158  # width of the strip of point masses
# Axes reach at most these multiples of the frontier's end; what lies beyond is drawn at the edge, with its value.
_MOST_NATS, _MOST_MEAN = 1.5, 1.75
_SHAPES: dict[str, Shape] = {"law": "circle", "bounds": "diamond", "point": "triangle"}

# A "place" is one entry of the record's "places": a method (kind law, bounds or point) or a level of real photos.

HEADINGS = ("method", "mean score, sd", "nats", "above the frontier", "other networks")


def draw(record: Mapping[str, Any]) -> Drawing:
    """Draws the mean score E[s] against the KL divergence from the prior, in nats.

    It shows the frontier with its interval, the methods (distributions of known KL divergence, those with bounds, point
    masses) and the levels of real photos.

    Args:
        record: that `runs.frontier` stores.

    Raises:
        KeyError: not such a record.
        TypeError: not such a record.
        ValueError: not such a record.
    """
    name = f"{record['unit']} ({record['label']})" if record.get("label") else str(record["unit"])
    drawing = Drawing(WIDTH, HEIGHT, f"Frontier of {name}", _description(record, name))
    masses = [place for place in record["places"] if place["kind"] == "point"]
    right = WIDTH - 24 - (_STRIP + 14 if masses else 0)
    x, y = _axes(record, right)
    frame = (_LEFT, _TOP, right, _BOTTOM)
    drawing.add(
        Text((_LEFT, 28), str(record.get("label") or record["unit"]), size=18, bold=True),
        Text((_LEFT, 50), f"{record['unit']} of {record['model']['name']}, prior {record['prior']['name']}", "muted"),
    )
    _grid(drawing, x, y, frame)
    points = record["frontier"]["points"]
    curve = [(x(p["nats"]["value"]), y(p["mean"]["value"])) for p in points]
    if all(p["mean"]["interval"] for p in points):
        upper, lower = ([(x(p["nats"]["value"]), y(p["mean"]["interval"][i])) for p in points] for i in (1, 0))
        drawing.add(Area([*upper, *reversed(lower)], "band"))
    levels = _levels(record, y, frame)
    drawing.add(*(mark for mark in levels if isinstance(mark, Line)))
    budget = record["asked"]["nats"] * (1 + 1e-9)
    sure = sum(p["nats"]["value"] <= budget for p in points)
    drawing.add(Line(curve[:sure], "frontier", 2.5))
    if sure < len(curve):
        drawing.add(Line(curve[max(sure - 1, 0) :], "frontier", 1.75, 4))
    taken: list[Box] = []
    places = [place for place in record["places"] if place["kind"] in ("law", "bounds")]
    anchors: list[tuple[Point, str, str]] = []
    for place in places:
        marks, at, covers, label = _method_marks(place, x, y, frame)
        drawing.add(*marks)
        taken += covers
        anchors.append((at, label, place["kind"]))
    labels = Labels((_LEFT + 4, _TOP + 2, right - 2, _BOTTOM - 4), taken, _along(curve))
    for mark in levels:
        if isinstance(mark, Text):
            labels.taken.append(mark.box)
            drawing.add(mark)
    drawing.add(*labels.attach(curve[-1], "the frontier", "frontier"))
    for at, label, kind in sorted(anchors, key=lambda anchor: -anchor[0][1]):
        drawing.add(*labels.attach(at, label, kind))
    note = Text((_LEFT + 12, _TOP + 20), "estimated to be out of reach", "muted", 12)
    if not any(overlap(note.box, label.box) for label in drawing.marks if isinstance(label, Text)):
        drawing.add(note)
    if masses:
        _point_masses(drawing, masses, y, right + 14)
    return drawing


def _axes(record: Mapping[str, Any], right: float) -> tuple[Axis, Axis]:
    points, places = record["frontier"]["points"], record["places"]
    end_nats, end_mean = points[-1]["nats"]["value"], points[-1]["mean"]["value"]
    nats = [end_nats, *(p["nats"]["value"] for p in places if p["kind"] in ("law", "bounds"))]
    nats += [p["path_nats"]["value"] for p in places if p.get("path_nats")]
    means = [end_mean, *(p["mean"]["value"] for p in places), *(m for p in places for m in p["mean"]["interval"] or ())]
    means += [m for p in points for m in p["mean"]["interval"] or ()]
    high_x = max(min(max(nats), _MOST_NATS * end_nats), 1e-6) * 1.05
    high_y = max(min(max(means), _MOST_MEAN * end_mean), 1e-6)
    low_y = max(min(0.0, *means), -0.5 * high_y)
    room = 0.07 * (high_y - low_y)
    return Axis(0, high_x, _LEFT, right), Axis(low_y - room, high_y + room, _BOTTOM, _TOP)


def _grid(drawing: Drawing, x: Axis, y: Axis, frame: Box) -> None:
    left, top, right, bottom = frame
    for value in y.ticks():
        drawing.add(Line([(left, y(value)), (right, y(value))], "line"))
        drawing.add(Text((left - 9, y(value) + 4.5), f"{value:g}", "muted", 12, "end"))
    for value in x.ticks(11):
        drawing.add(Line([(x(value), bottom), (x(value), bottom + 5)], "muted"))
        drawing.add(Text((x(value), bottom + 21), f"{value:g}", "muted", 12, "middle"))
    drawing.add(
        Line([(left, bottom), (right, bottom)], "muted"),
        Text((left, top - 12), "mean score, in standard deviations of the prior", "muted", 12),
        Text((right, bottom + 42), "nats from the prior (KL divergence)", "muted", 12, "end"),
    )


def _levels(record: Mapping[str, Any], y: Axis, frame: Box) -> list[Mark]:
    """Dashed lines at the mean scores of real photos. Photos are another prior, so no KL divergence is known."""
    left, top, right, _ = frame
    marks: list[Mark] = []
    above = top - 1.0
    for place in sorted((p for p in record["places"] if p["kind"] == "level"), key=lambda p: -p["mean"]["value"]):
        value = place["mean"]["value"]
        height = y(value)
        label = place["title"]
        if height < top:  # above the sheet: the label says so at the upper edge
            height, label = top, f"{label}: {_sd(place)} sd, above this"
        else:
            marks.append(Line([(left, height), (right, height)], "photos", 1.25, 5))
        above = max(above + 15, height - 5)
        marks.append(Text((right - 4, above), label, "photos", 12, "end"))
    return marks


def _method_marks(place: Mapping[str, Any], x: Axis, y: Axis, frame: Box) -> tuple[list[Mark], Point, list[Box], str]:
    """Marks of one method, where its label points to, what it covers, and the label."""
    _, top, right, _ = frame
    kind, label = place["kind"], str(place["title"])
    nats, mean = place["nats"], place["mean"]
    at = (min(x(nats["value"]), right), max(y(mean["value"]), top))
    marks: list[Mark] = list(whisker := _whisker(kind, at[0], mean["interval"], y, frame))
    covers = [_around(at), *((at[0] - 2, line.points[1][1], at[0] + 2, line.points[0][1]) for line in whisker)]
    if kind == "law" and nats["interval"]:
        low, high = (min(x(v), right) for v in nats["interval"])
        marks.append(Line([(low, at[1]), (high, at[1])], kind, 1.5))
    if kind == "bounds":
        most = place.get("path_nats")
        # The KL divergence of a path leaves out its last step, so it may even come out below the lower bound.
        highest = most["value"] if most is not None and most["value"] >= nats["value"] else math.inf
        beyond = math.isinf(highest) or x(highest) > right
        end = right if beyond else x(highest)
        marks.append(Line([at, (end, at[1])], kind, 2, 5 if math.isinf(highest) else 0))
        covers.append((at[0], at[1] - 3, end, at[1] + 3))
        if beyond:
            marks.append(Line([(end - 7, at[1] - 5), (end, at[1]), (end - 7, at[1] + 5)], kind, 2))
            least = f"{nats['value']:.3g} nats or more"
            label += (
                f", {least}"
                if math.isinf(highest)
                else f", {'up to' if place.get('whole') else 'path'} {highest:.3g} nats"
            )
        else:
            marks.append(Line([(end, at[1] - 5), (end, at[1] + 5)], kind, 2))
    if y(mean["value"]) < top:
        marks.append(_upward((at[0], at[1] - 9), kind))
        label += f", {_sd(place)} sd"
    marks.append(Dot(at, kind, _SHAPES[kind]))
    return marks, at, covers, label


def _whisker(kind: str, x: float, interval: Sequence[float] | None, y: Axis, frame: Box) -> list[Line]:
    if not interval:
        return []
    low, high = (min(max(y(v), frame[1]), frame[3]) for v in interval)
    return [Line([(x, low), (x, high)], kind, 1.5)]


def _point_masses(drawing: Drawing, masses: Sequence[Mapping[str, Any]], y: Axis, left: float) -> None:
    """Draws the point masses in a strip of their own, because no KL divergence bounds them."""
    right = left + _STRIP
    drawing.add(
        Line([(left, _TOP), (left, _BOTTOM)], "line"), Line([(left, _BOTTOM), (right, _BOTTOM)], "muted"),
        Text(((left + right) / 2, _BOTTOM + 21), "point masses:", "muted", 12, "middle"),
        Text(((left + right) / 2, _BOTTOM + 36), "nats unbounded", "muted", 12, "middle"),
    )  # fmt: skip
    at = left + 22
    labels = Labels((left + 4, _TOP + 2, right, _BOTTOM - 4))
    spots = []
    for place in sorted(masses, key=lambda p: p["mean"]["value"]):
        height = max(y(place["mean"]["value"]), _TOP + 4)
        label = f"{place['title']}, {_sd(place)} sd"
        if height > y(place["mean"]["value"]):
            drawing.add(_upward((at, height - 9), "point"))
        drawing.add(
            *_whisker("point", at, place["mean"]["interval"], y, (left, _TOP, right, _BOTTOM)),
            Dot((at, height), "point", _SHAPES["point"]),
        )
        labels.taken.append(_around((at, height)))
        spots.append(((at, height), label))
    for spot, label in spots:
        drawing.add(*labels.attach(spot, label, "point", 12))


def _upward(at: Point, role: str) -> Line:
    """An arrow head: the mean score is higher than the sheet."""
    return Line([(at[0] - 5, at[1] + 5), at, (at[0] + 5, at[1] + 5)], role, 2)


def _around(at: Point) -> Box:
    return at[0] - 8, at[1] - 8, at[0] + 8, at[1] + 8


def _along(curve: Sequence[Point], gap: float = 6.0) -> list[Point]:
    """Points on the curve, close enough that no label slips between them."""
    found: list[Point] = []
    for (x0, y0), (x1, y1) in pairwise(curve):
        count = max(1, int((abs(x1 - x0) + abs(y1 - y0)) / gap))
        found += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count)]
    return [*found, *curve[-1:]]


def _description(record: Mapping[str, Any], name: str) -> str:
    end = record["frontier"]["points"][-1]
    sentences = [
        f"Mean score of {name} against nats from the prior {record['prior']['name']}. The frontier rises from 0 to "
        f"{end['mean']['value']:.3g} standard deviations at {end['nats']['value']:.3g} nats."
    ]
    for place in record["places"]:
        nats = place.get("nats")
        where = f" at {'at least ' if place['kind'] == 'bounds' else ''}{nats['value']:.3g} nats" if nats else ""
        what = ", a point mass" if place["kind"] == "point" else ""
        sentences.append(f"{place['title']}{what}: {place['mean']['value']:.3g} standard deviations{where}.")
    return " ".join(sentences)


def _sd(place: Mapping[str, Any]) -> str:
    """A mean score for a label, with two decimals and no more than three digits."""
    value = place["mean"]["value"]
    return f"{round(value, 2):.3g}"


# --- in words -----------------------------------------------------------------------------------------------------------


def row(place: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Returns an entry of a record's places in words, one cell for each of `HEADINGS`."""
    nats, excess = place.get("nats"), place.get("excess") or {}
    if place["kind"] == "point":
        cost = "unbounded"
    elif place["kind"] == "level":
        cost = "another prior"
    elif place["kind"] == "bounds":
        most = place["path_nats"]
        cost = f"at least {_short(nats)}" + (
            f"; {'at most' if place.get('whole') else 'its path but for the last step'} {most['value']:.3g}"
            if most
            else ""
        )
    else:
        cost = _short(nats)
    above = "–" if excess.get("value") is None else _short(excess)
    if place["kind"] == "bounds" and excess.get("value") is not None:
        above = f"at most {above}"
    naturalness = place.get("naturalness") or {}
    verified = []
    if (known := naturalness.get("transfer_probability", {})).get("value") is not None:
        verified.append(f"probability {known['value']:.2f}")
    if (known := naturalness.get("kid", {})).get("value") is not None:
        verified.append(f"KID {known['value']:.3g}")
    return place["title"], _short(place["mean"]), cost, above, ", ".join(verified) or "–"


def _short(estimate: Mapping[str, Any] | None) -> str:
    """`4.1 (3.9 to 4.3)`."""
    if estimate is None or estimate.get("value") is None:
        return "–"
    interval = estimate.get("interval")
    if not interval or interval[0] == interval[1]:
        return f"{estimate['value']:.3g}"
    return f"{estimate['value']:.3g} ({interval[0]:.3g} to {interval[1]:.3g})"
