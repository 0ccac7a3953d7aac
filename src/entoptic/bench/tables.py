"""The table of a benchmark as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from entoptic.bench.columns import COLUMNS, Column
from entoptic.bench.intervals import Interval
from entoptic.bench.results import Cell, Results
from entoptic.errors import counted

ALL, UNTOUCHED = "all", "untouched"
FIELDS = (
    "subject", "method", "metric", "judge", "value", "low", "high", "n", "over", "real", "gap", "gap_low", "gap_high", "reason",
)  # fmt: skip
Key = tuple[str, str]
"""Column and judge."""


def csv_table(results: Results) -> str:
    """Returns every cell as a row of CSV.

    Args:
        results: the table.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    for c in results.cells:
        found, gap = c.found, c.gap
        writer.writerow(
            [
                c.subject,
                c.method,
                c.column,
                c.judge,
                *_three(found),
                c.n,
                c.over,
                _plain(c.real),
                *_three(gap),
                c.reason,
            ]
        )
    return file.getvalue()


def _three(found: Interval | None) -> list[str]:
    return ["", "", ""] if found is None else [_plain(found.value), _plain(found.low), _plain(found.high)]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def markdown(results: Results) -> str:
    """Returns the page of tables.

    Args:
        results: the table.
    """
    recipe = results.recipe
    lines = [
        f"# The {recipe['name']} benchmark", "",
        f"{recipe['note']} In brackets are 95 % intervals over units (several seeds of a unit are no further units); n is the "
        "number of units, or of what stands behind it.", "",
    ]  # fmt: skip
    for subject in dict.fromkeys(c.subject for c in results.cells):
        lines += _part(results, subject)
    lines += ["## Where the first method is behind", "", *(f"* {line}" for line in behind(results)), ""]
    lines += _costs(results)
    missing = unmeasured(results)
    lines += ["## Not measured", "", *(f"* {line}" for line in missing), ""] if missing else []
    if results.failures:
        lines += ["## Not made", "", *(f"* {line}" for line in results.failures), ""]
    lines += ["## What each number means, and what it does not", ""]
    for name in dict.fromkeys(c.column for c in results.cells):
        lines.append(explained(COLUMNS[name]))
    return "\n".join([*lines, "", made_by(results), ""])


def explained(column: Column) -> str:
    """Returns what a number means and what it does not, as a line of a list.

    Args:
        column: the number.
    """
    better = "no direction is better" if column.direction == "none" else f"{column.direction} is better"
    return f"* **{column.title}** ({better}): {column.means}. Mind: {column.not_said}."


def made_by(results: Results) -> str:
    """Returns command, versions and hardware class in a sentence.

    Args:
        results: the table.
    """
    held = results.about
    versions = ", ".join(f"{name} {number}" for name, number in held["versions"].items())
    gpu = "" if held["gpu"] == "none" else f", {held['gpu']}"
    return (
        f"`{held['command']}` with {versions}; {held['processor']}{gpu}, "
        f"{counted(held['cores'], 'core')}, {counted(held['threads'], 'thread')}."
    )


def behind(results: Results) -> list[str]:
    """Returns where another method is ahead of the first one, and which are not told apart from it, by the paired differences.

    A method is ahead where the interval of its difference leaves out 0 on the better side. Numbers without a better direction
    do not count.

    Args:
        results: the table.
    """
    lines = []
    for subject in dict.fromkeys(c.subject for c in results.cells):
        first = methods_of(results, subject)[0]
        ahead: list[str] = []
        unclear: dict[str, list[str]] = {}
        for column, judge in main_keys(results, subject):
            one = COLUMNS[column]
            for method in methods_of(results, subject)[1:]:
                cell = results.cell(subject, method, column, judge)
                if cell is None or cell.gap is None or one.direction == "none":
                    continue
                low, high = (
                    (cell.gap.low, cell.gap.high) if one.direction == "higher" else (-cell.gap.high, -cell.gap.low)
                )
                if low > 0:
                    ahead.append(f"{method} in {one.title} by {interval_text(cell.gap, one.digits, sign='+')}")
                elif high >= 0:
                    unclear.setdefault(one.title, []).append(method)
        lines.append(f"{subject}: ahead of {first}: {'; '.join(ahead) or 'no method'}.")
        if unclear:
            told = "; ".join(f"in {title} {', '.join(methods)}" for title, methods in unclear.items())
            lines[-1] += f" Not told apart: {told}."
    return lines


def unmeasured(results: Results) -> list[str]:
    """Returns what has no value, with the reasons, each once.

    Args:
        results: the table.
    """
    methods: dict[tuple[str, str, str], list[str]] = {}
    for c in results.cells:
        if c.found is None:
            title = COLUMNS[c.column].title + (f" ({c.judge})" if c.judge else "")
            methods.setdefault((c.subject, c.reason, title), []).append(c.method)
    titles: dict[tuple[str, str, str], list[str]] = {}
    for (subject, why, title), rows in methods.items():
        of = "" if set(rows) >= set(methods_of(results, subject)) - {"photos"} else f" of {', '.join(rows)}"
        titles.setdefault((subject, why, of), []).append(title)
    lines = [f"{subject}, {', '.join(found)}{of}: {why}" for (subject, why, of), found in titles.items()]
    lines += [f"the judge {name}: {why}" for name, why in results.measured_with.get("absent", {}).items()]
    if results.recipe.get("untouched") and not results.measured_with.get("untouched"):
        lines.append("no untouched judge could be loaded: give one with --verifiers")
    return lines


def main_keys(results: Results, subject: str) -> list[Key]:
    """Returns the columns of a part that its first table shows: over untouched judges, or over all, where there are several.

    Args:
        results: the table.
        subject: name of the part.
    """
    keys = _keys(results, subject)
    found: dict[str, str] = {}
    for column, judge in keys:
        if column not in found or judge in ("", UNTOUCHED) or (judge == ALL and found[column] != UNTOUCHED):
            found[column] = judge
    return list(found.items())


def _keys(results: Results, subject: str) -> list[Key]:
    keys = dict.fromkeys((c.column, c.judge) for c in results.cells if c.subject == subject and c.found is not None)
    order = list(COLUMNS)
    return sorted(keys, key=lambda key: order.index(key[0]))


def methods_of(results: Results, subject: str) -> list[str]:
    """Returns the rows of a part.

    Args:
        results: the table.
        subject: name of the part.
    """
    return list(dict.fromkeys(c.method for c in results.cells if c.subject == subject))


def _part(results: Results, subject: str) -> list[str]:
    main, methods = main_keys(results, subject), methods_of(results, subject)
    first = methods[0]
    rest = [key for key in _keys(results, subject) if key not in main]
    lines = [f"## {subject[0].upper()}{subject[1:]}", "", units_of(results, subject), ""]
    lines += _table(results, subject, methods, main, _shown)
    if len(methods) > 1 and any(c.gap for c in results.cells if c.subject == subject):
        others = [m for m in methods[1:] if any(c.gap for c in results.cells if (c.subject, c.method) == (subject, m))]
        gaps = [key for key in main if any((cell := results.cell(subject, m, *key)) and cell.gap for m in others)]
        lines += [f"Paired difference to {first}, over the units that both have:", ""]
        lines += _table(results, subject, others, gaps, _gap)
    if rest:
        lines += ["By judge:", ""]
        lines += _table(results, subject, methods, rest, _shown, plain=("",))
    return lines


def units_of(results: Results, subject: str) -> str:
    """Returns what a part is of, in a sentence or two.

    Args:
        results: the table.
        subject: name of the part.
    """
    for one in results.recipe["subjects"]:
        if one["name"] == subject:
            seeds = len(one["seeds"])
            new = results.measured_with.get("untouched", [])
            told = f" Untouched judges, on which nothing was chosen: {', '.join(new)}." if new else ""
            if related := results.measured_with.get("related", []):
                told += f" Of a family that took part in the choice of a recipe: {', '.join(related)}."
            return f"{len(one['units'])} units of `{one['model']}`, {seeds} seed{'s' * (seeds > 1)}.{told}"
    part = results.recipe["planted"]
    return f"Units whose cause is known by construction, {part['n']} picture{'s' * (part['n'] > 1)} of each."


def _table(
    results: Results,
    subject: str,
    methods: Sequence[str],
    keys: Sequence[Key],
    show: Callable[[Cell, Column], str],
    plain: Sequence[str] = ("", ALL),
) -> list[str]:
    heads = [head_of(key, plain) for key in keys]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(keys) + 1) + "|"]
    for method in methods:
        cells = [results.cell(subject, method, column, judge) for column, judge in keys]
        texts = [show(cell, COLUMNS[key[0]]) if cell else "–" for cell, key in zip(cells, keys)]
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return [*lines, ""]


def head_of(key: Key, plain: Sequence[str] = ("", ALL)) -> str:
    """Returns the head of a column, such as "machine 2-AFC, builtin:lite1".

    Args:
        key: column and judge.
        plain: judges that are not named.
    """
    column, judge = key
    return COLUMNS[column].title + (f", {judge}" if judge not in plain else "")


def _shown(cell: Cell, column: Column) -> str:
    if cell.found is None:
        return "–"
    real = "" if cell.real is None else f"; real {cell.real:z.{column.digits}f}"
    return f"{interval_text(cell.found, column.digits)} {number_text(cell)}{real}"


def _gap(cell: Cell, column: Column) -> str:
    return "–" if cell.gap is None else interval_text(cell.gap, column.digits, sign="+")


def number_text(cell: Cell) -> str:
    """Returns such as "n 16", with what was counted where that is not units.

    Args:
        cell: the number.
    """
    return f"n {cell.n}" + ("" if cell.over == "units" else f" {cell.over}")


def interval_text(found: Interval, digits: int, sign: str = "") -> str:
    """Returns such as "0.94 [0.72, 0.99]".

    Args:
        found: the value with its interval.
        digits: behind the point.
        sign: "+" to show the sign.
    """
    form = f"{sign}.{digits}f"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _costs(results: Results) -> list[str]:
    if not results.costs:
        return []
    lines = [
        "## Costs", "",
        "Multiples of the first method of each part. Times are wall times of this one run on this machine; they depend on the "
        "batch and on what else ran.", "",
        "| part | method | network evaluations a picture | of the first | wall time of the first's | pictures |", "|---" * 6 + "|",
    ]  # fmt: skip
    for c in results.costs:
        count = "–" if c.evaluations is None else str(c.evaluations)
        lines.append(f"| {c.subject} | {c.method} | {count} | {_times(c.ratio)} | {_times(c.time)} | {c.pictures} |")
    return [*lines, ""]


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


_SHORT = ("verifier_top1", "self_top1", "robustness", "specificity", "planted_identified", "planted_fooled")


def short_table(results: Results) -> str:
    """Returns a few columns for a first page, each of the first part that has it.

    Args:
        results: the table.
    """
    wanted: list[tuple[str, Key]] = []
    subjects = list(dict.fromkeys(c.subject for c in results.cells))
    for column in _SHORT:
        found = ((subject, key) for subject in subjects for key in main_keys(results, subject) if key[0] == column)
        wanted += [one for one in [next(found, None)] if one is not None]
    heads = [f"{subject}: {COLUMNS[key[0]].title}" for subject, key in wanted]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in methods_of(results, subjects[0]):
        cells = [results.cell(subject, method, *key) for subject, key in wanted]
        texts = [_plainly(cell) for cell in cells]
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _plainly(cell: Cell | None) -> str:
    return "–" if cell is None or cell.found is None else interval_text(cell.found, COLUMNS[cell.column].digits)
