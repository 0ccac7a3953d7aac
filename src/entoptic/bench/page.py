"""The page of a benchmark: its pictures side by side, its tables, and what each number means."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from entoptic.bench.columns import COLUMNS, Column
from entoptic.bench.draw import draw
from entoptic.bench.results import Cell, Results
from entoptic.bench.tables import (
    behind,
    head_of,
    interval_text,
    made_by,
    main_keys,
    methods_of,
    number_text,
    units_of,
    unmeasured,
)

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1b19;--paper:#fbfaf8;--muted:#625e57;--line:#e3dfd7}
@media (prefers-color-scheme:dark){:root{--ink:#ebe9e5;--paper:#131315;--muted:#a5a19a;--line:#2d2d31}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:1200px;padding:0 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
th,td{border-bottom:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
small,.muted{color:var(--muted)}img{width:96px;height:96px;display:block;object-fit:contain}
code{overflow-wrap:anywhere}svg{max-width:100%;height:auto}
"""


def page(results: Results) -> str:
    """Returns the page as HTML. Pictures are linked by relative path; it asks nothing of other hosts.

    Args:
        results: the table with its pictures.
    """
    name = results.recipe["name"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>The {escape(name)} benchmark</title><style>{_STYLE}</style></head><body>",
        f"<h1>The {escape(name)} benchmark</h1><p>{escape(results.recipe['note'])}</p>",
        f"<p class=muted>{_code(made_by(results))}</p>",
        f"<div class=wide>{draw(results).svg('bench', standalone=False)}</div>",
    ]
    for subject in dict.fromkeys(c.subject for c in results.cells):
        parts += [
            f"<h2>{escape(subject)}</h2>",
            f"<p>{escape(units_of(results, subject).replace('`', ''))}</p>",
            _table(results, subject),
            _pictures(results, subject),
        ]
    lines = "".join(f"<li>{escape(line)}</li>" for line in behind(results))
    parts.append(f"<h2>Where the first method is behind</h2><ul>{lines}</ul>")
    if missing := unmeasured(results):
        parts.append("<h2>Not measured</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in missing) + "</ul>")
    if results.failures:
        lines = "".join(f"<li>{escape(line)}</li>" for line in results.failures)
        parts.append(f"<h2>Not made</h2><ul>{lines}</ul>")
    parts.append("<h2>What each number means, and what it does not</h2><dl>")
    for column in dict.fromkeys(c.column for c in results.cells):
        one = COLUMNS[column]
        parts.append(f"<dt><b>{escape(one.title)}</b> <small>{_better(one)}</small></dt>"
                     f"<dd>{escape(one.means)}. Mind: {escape(one.not_said)}.</dd>")  # fmt: skip
    parts.append('</dl><p><a href="table.md">Markdown</a>, <a href="table.csv">CSV</a>, <a href="table.json">JSON</a>'
                 "</p></body></html>\n")  # fmt: skip
    return "\n".join(parts)


def _better(column: Column) -> str:
    return "no direction is better" if column.direction == "none" else f"{column.direction} is better"


def _code(text: str) -> str:
    command, _, rest = text[1:].partition("`")
    return f"<code>{escape(command)}</code>{escape(rest)}"


def _table(results: Results, subject: str) -> str:
    keys = main_keys(results, subject)
    heads = "".join(f"<th>{escape(head_of(key))}</th>" for key in keys)
    rows = []
    for method in methods_of(results, subject):
        cells = (results.cell(subject, method, column, judge) for column, judge in keys)
        texts = "".join(f"<td>{_cell(cell, COLUMNS[key[0]])}</td>" for cell, key in zip(cells, keys))
        rows.append(f"<tr><th>{escape(method)}</th>{texts}</tr>")
    return f"<div class=wide><table><tr><th>method</th>{heads}</tr>{''.join(rows)}</table></div>"


def _cell(cell: Cell | None, column: Column) -> str:
    if cell is None or cell.found is None:
        return "–"
    gap = "" if cell.gap is None else f"<br>difference {interval_text(cell.gap, column.digits, sign='+')}"
    real = "" if cell.real is None else f"; real {cell.real:z.{column.digits}f}"
    return f"{interval_text(cell.found, column.digits)} <small>{number_text(cell)}{real}{gap}</small>"


def _pictures(results: Results, subject: str) -> str:
    """A grid of the first seed: a row for each unit, a column for each method. Nothing is picked."""
    shown = [s for s in results.shown if s.subject == subject]
    if not shown:
        return ""
    first = min(s.seed for s in shown)
    methods = list(dict.fromkeys(s.method for s in shown))
    files = {(s.unit, s.method): s.file for s in shown if s.seed == first}
    heads = "".join(f"<th>{escape(m)}</th>" for m in methods)
    rows = []
    for unit, label in dict.fromkeys((s.unit, s.label) for s in shown):
        cells = "".join(f"<td>{_image(files.get((unit, m)), unit, m)}</td>" for m in methods)
        rows.append(f"<tr><th>{escape(label or unit)}<br><small>{escape(unit)}</small></th>{cells}</tr>")
    return (
        f"<details open><summary>Pictures, seed {first} of every unit</summary><div class=wide><table>"
        f"<tr><th>unit</th>{heads}</tr>{''.join(rows)}</table></div></details>"
    )


def _image(file: str | None, unit: str, method: str) -> str:
    if file is None:
        return "–"
    return (
        f'<a href="{quote(file)}"><img loading=lazy src="{quote(file)}" alt="{escape(unit)} by {escape(method)}"></a>'
    )
