"""Where the nodes and edges of a circuit lie on its drawing: from left to right by depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from entoptic.errors import counted

TILE, GAP, COLUMN, TOP = 64, 30, 112, 16
"""Side of a node's picture, space below it, width of a column and space above all, in pixels."""
LANE, MOST_LANES = 8, 16
"""Space between long edges above the columns; where there are more of them, some share one."""
PAD = 8
RISE = 30
"""Way in which a long edge climbs to its lane."""
THIN, THICK = 1.0, 6.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A receiver with the nodes that it feeds.

    Attributes:
        name: of the receiver, "" for the embedding.
        x: of its left side.
        y: of its upper side.
        width: in pixels.
        height: in pixels.
    """

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A node.

    Attributes:
        number: on the page, from the left.
        name: of the node.
        kind: "head", "mlp", "block", …
        short: what stands below its picture.
        x: of its picture's left side.
        y: of its picture's upper side.
        column: from the left.
        receives: name of the receiver that feeds it, "" for the embedding.
    """

    number: int
    name: str
    receives: str
    kind: str
    short: str
    x: float
    y: float
    column: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """An edge.

    Attributes:
        source: name of the node that it leaves.
        target: name of the receiver that it leads to.
        path: as SVG.
        width: in pixels, by effect.
        kind: "for" where it adds to the score, "against" where it takes from it, "unknown" where none was measured.
        abstained: whether the certificate abstains.
        words: what is read out.
        effect: by how much it changes the score, or None.
        rank: 1 for the strongest.
    """

    source: str
    target: str
    path: str
    width: float
    kind: str
    abstained: bool
    words: str
    effect: float | None = None
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A whole drawing.

    Attributes:
        width: in pixels.
        height: in pixels.
        boxes: behind the nodes.
        tiles: the nodes.
        lines: the edges, the weakest first.
    """

    width: float
    height: float
    boxes: list[Box]
    tiles: list[Tile]
    lines: list[Line]

    def leaving(self, name: str) -> list[Line]:
        """Returns the edges that leave a node, the strongest first."""
        return [line for line in self.lines[::-1] if line.source == name]

    def entering(self, receiver: str) -> list[Line]:
        """Returns the edges that lead into a receiver, the strongest first."""
        return [line for line in self.lines[::-1] if line.target == receiver]


def lay_out(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> Layout:
    """Places the nodes of a circuit that kept or abstained edges touch.

    Args:
        nodes: of a circuit's file, by depth; the output comes last.
        edges: all of them.
    """
    drawn = [edge for edge in edges if edge["kept"] or edge.get("state") == "abstain"]
    ends = {edge["from"] for edge in drawn}
    fed = {edge["to"] for edge in drawn}
    shown = [n for n in nodes if n["name"] in ends or (n["receives"] in fed and n["kind"] == "output")]
    output = nodes[-1]
    if output not in shown:
        shown = [*shown, output]
    depths = sorted({n["depth"] for n in shown})
    columns = [[n for n in shown if n["depth"] == depth] for depth in depths]
    column_of = {n["name"]: number for number, column in enumerate(columns) for n in column}
    fed_column = {n["receives"]: number for number, column in enumerate(columns) for n in column}
    spans = {(column_of[e["from"]], fed_column[e["to"]]) for e in drawn if e["to"] in fed_column}
    lanes = _lanes({span for span in spans if span[1] - span[0] > 1})
    above = TOP + LANE * (1 + max(lanes.values(), default=-1))
    tallest = max(len(column) for column in columns)
    tiles: list[Tile] = []
    boxes: dict[str, Box] = {}
    for number, column in enumerate(columns):
        left = PAD + number * COLUMN
        height = len(column) * (TILE + GAP)
        top = above + (tallest * (TILE + GAP) - height) / 2
        for row, node in enumerate(column):
            tiles.append(
                Tile(
                    number=len(tiles), name=node["name"], receives=node["receives"], kind=node["kind"],
                    short=short_name(node["name"]),
                    x=left + PAD, y=top + PAD + row * (TILE + GAP), column=number,
                )
            )  # fmt: skip
        key = column[0]["receives"] or column[0]["name"]
        boxes[key] = Box(name=column[0]["receives"], x=left, y=top, width=TILE + 2 * PAD, height=height + PAD)
    place = {tile.name: tile for tile in tiles}
    largest = max((abs(e["effect"]) for e in drawn if e["effect"] is not None), default=0.0) or 1.0
    lines = []
    for edge in drawn:
        if edge["to"] in boxes:
            lane = lanes.get((column_of[edge["from"]], fed_column[edge["to"]]))
            height_of_lane = None if lane is None else above - LANE * (1 + lane) + LANE / 2
            lines.append(_line(edge, place[edge["from"]], boxes[edge["to"]], largest, height_of_lane))
    lines.sort(key=lambda line: line.width)
    lines = [replace(line, rank=len(lines) - number) for number, line in enumerate(lines)]
    width = PAD * 2 + (len(columns) - 1) * COLUMN + TILE + 2 * PAD
    return Layout(
        width=width,
        height=above + tallest * (TILE + GAP) + 3 * PAD,
        boxes=list(boxes.values()),
        tiles=tiles,
        lines=lines,
    )


def _lanes(spans: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Gives each pair of columns a lane above the columns between: short ones lie low, and those that overlap lie apart."""
    taken: list[list[tuple[int, int]]] = []
    lanes: dict[tuple[int, int], int] = {}
    for span in sorted(spans, key=lambda s: (s[1] - s[0], s)):
        free = (
            number
            for number, others in enumerate(taken)
            if all(span[1] <= other[0] or other[1] <= span[0] for other in others)
        )
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append(span)
        lanes[span] = lane % MOST_LANES
    return lanes


def _line(edge: Mapping[str, Any], tile: Tile, box: Box, largest: float, top: float | None) -> Line:
    effect = edge["effect"]
    share = 0.0 if effect is None else math.sqrt(abs(effect) / largest)
    x1, y1 = tile.x + TILE, tile.y + TILE / 2
    x2, y2 = box.x, box.y + box.height / 2
    middle = (x1 + x2) / 2
    if top is None:
        path = f"M{x1:.0f},{y1:.0f}C{middle:.0f},{y1:.0f} {middle:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"
    else:  # a long edge passes above the columns between
        path = (
            f"M{x1:.0f},{y1:.0f}C{x1 + RISE * 0.8:.0f},{y1:.0f} {x1 + RISE * 0.3:.0f},{top:.0f} {x1 + RISE:.0f},{top:.0f}"
            f"L{x2 - RISE:.0f},{top:.0f}C{x2 - RISE * 0.3:.0f},{top:.0f} {x2 - RISE * 0.8:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"
        )
    kind = "unknown" if effect is None else "for" if effect >= 0 else "against"
    said = "effect not measured" if effect is None else f"effect {effect:+.3g}"
    state = edge.get("state")
    changed = edge.get("radius_mask", 0)
    radius = f", also with {counted(changed, 'changed photo')}" if state in ("in", "out") and changed > 0 else ""
    return Line(
        source=tile.name, target=edge["to"], path=path, effect=effect, width=THIN + (THICK - THIN) * share, kind=kind,
        abstained=state == "abstain",
        words=f"{edge['from']} to {edge['to']}: {said}{f', certified {state}{radius}' if state and state != 'abstain' else ''}"
        f"{', the certificate abstains' if state == 'abstain' else ''}{'' if edge['kept'] else ', not in the circuit'}",
    )  # fmt: skip


def short_name(name: str) -> str:
    """Returns a node's name for a narrow column: `blocks.3.attn.head2` becomes `3 head 2`."""
    parts = name.split(".")
    numbers = [part.rpartition("_")[2] for part in parts if part.isdigit() or part.rpartition("_")[2].isdigit()]
    last = parts[-1]
    for word in ("head", "group"):
        if last.startswith(word) and last[len(word) :].isdigit():
            before = ".".join(numbers)
            return f"{before} {word} {last[len(word) :]}"
    if last.isdigit() or last.rpartition("_")[2].isdigit():
        return name if len(name) <= 12 else ".".join(numbers)
    return f"{'.'.join(numbers)} {last}".strip() if len(name) > 12 else name
