"""The plot of a benchmark: every method's place with its interval, a panel for each of the most telling numbers."""

from __future__ import annotations

from entoptic.bench.columns import COLUMNS
from entoptic.bench.results import Results
from entoptic.bench.tables import head_of, main_keys, methods_of
from entoptic.plots.drawing import Axis, Dot, Drawing, Line, Shape, Text

_LABEL, _PANEL, _GAP, _ROW, _TOP = 96, 186, 26, 30, 96
_MARKS: tuple[tuple[str, Shape], ...] = (
    ("frontier", "circle"), ("law", "square"), ("bounds", "diamond"), ("point", "triangle"), ("photos", "circle"),
    ("muted", "square"), ("ink", "diamond"),
)  # fmt: skip
_PANELS = ("verifier_top1", "self_top1", "specificity", "planted_identified")
_MOST = 4


def draw(results: Results) -> Drawing:
    """Draws shares of units between 0 and 1 with their 95 % intervals.

    Args:
        results: the table.
    """
    panels = _panels(results)
    rows = list(dict.fromkeys(m for subject, _, _ in panels for m in methods_of(results, subject)))
    width = _LABEL + len(panels) * _PANEL + max(0, len(panels) - 1) * _GAP + 24
    height = _TOP + _ROW * len(rows) + 44
    name = results.recipe["name"]
    drawing = Drawing(width, height, f"The {name} benchmark", _description(results, panels))
    drawing.add(Text((16, 28), f"The {name} benchmark", size=17, bold=True))
    drawing.add(Text((16, 48), "shares of units with 95 % intervals over units; higher is better", "muted", 12))
    bottom = _TOP + _ROW * len(rows)
    for i, method in enumerate(rows):
        drawing.add(Text((_LABEL - 12, _TOP + _ROW * (i + 0.5) + 4), method, size=13, anchor="end"))
    for k, (subject, column, judge) in enumerate(panels):
        left = _LABEL + k * (_PANEL + _GAP)
        x = Axis(0.0, 1.0, left, left + _PANEL)
        drawing.add(
            Text((left, _TOP - 24), subject, "muted", 11), Text((left, _TOP - 9), head_of((column, judge)), size=12)
        )
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            drawing.add(Line([(x(tick), _TOP), (x(tick), bottom)], "line"))
            if tick in (0.0, 0.5, 1.0):
                drawing.add(Text((x(tick), bottom + 18), f"{tick:g}", "muted", 11, "middle"))
        for i, method in enumerate(rows):
            cell = results.cell(subject, method, column, judge)
            if cell is None or cell.found is None:
                continue
            y = _TOP + _ROW * (i + 0.5)
            role, shape = _MARKS[i % len(_MARKS)]
            drawing.add(Line([(x(cell.found.low), y), (x(cell.found.high), y)], role, 2.0))
            drawing.add(Dot((x(cell.found.value), y), role, shape))
    return drawing


def _panels(results: Results) -> list[tuple[str, str, str]]:
    found = []
    for column in _PANELS:
        for subject in dict.fromkeys(c.subject for c in results.cells):
            found += [(subject, name, judge) for name, judge in main_keys(results, subject) if name == column][:1]
    return found[:_MOST]


def _description(results: Results, panels: list[tuple[str, str, str]]) -> str:
    parts = []
    for subject, column, judge in panels:
        said = [
            f"{method} {cell.found.value:.2f}"
            for method in methods_of(results, subject)
            if (cell := results.cell(subject, method, column, judge)) and cell.found
        ]
        parts.append(f"{subject}, {COLUMNS[column].title}: {', '.join(said)}")
    return "; ".join(parts) + "."
