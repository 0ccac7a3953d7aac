"""What `entoptic ls RUN` shows: units, methods, what is finished and what is not."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from entoptic.base.records import is_a, read_json
from entoptic.cli.output import table_console
from entoptic.errors import Unreadable, UserError, counted
from entoptic.units.near_labels import nearest_label

MOST = 40
"""Rows without `--all`."""


def list_run(folder: str, wanted: str | None, everything: bool) -> None:
    """Prints the units of a run with their pictures by method.

    Args:
        folder: of the run.
        wanted: part of a unit or a label; None for all.
        everything: whether a long table is printed whole.

    Raises:
        UserError: no unit of the run is called so, with the nearest.
    """
    from rich.table import Table
    from rich.text import Text

    from entoptic.runs.results import results_in
    from entoptic.runs.store import Run

    run = Run.open(folder)
    made: dict[str, Counter[str]] = {}
    stopped: dict[str, Counter[str]] = {}
    labels: dict[str, str] = {}
    damaged: list[str] = []
    for picture, wrong in run.read():
        if picture is None:
            damaged.append(wrong)
            continue
        unit, method = picture.unit, picture.method
        labels[unit] = str(picture.record.get("label") or "")
        table_of = made if picture.record.get("complete") else stopped
        table_of.setdefault(unit, Counter())[method] += 1
    methods = list(dict.fromkeys(m for counts in [*made.values(), *stopped.values()] for m in counts))
    units = [unit for unit in labels if _fits(wanted, unit, labels[unit])]
    if wanted is not None and not units:
        raise UserError(
            f'no unit fits --filter "{wanted[:80]}" in {folder}{nearest_label(wanted, [*labels, *labels.values()])}'
        )
    print(_heading(run.path, sum(c.total() for c in made.values())))
    table = Table("unit", "label", *methods, box=None)
    shown = units if everything else units[:MOST]
    for unit in shown:
        table.add_row(Text(unit), Text(labels[unit]), *(_cell(made, stopped, unit, m) for m in methods))
    if shown:
        table_console().print(table)
    if len(shown) < len(units):
        print(f"… and {counted(len(units) - len(shown), 'unit')} more: --all lists all, --filter WORD some")
    if stopped and wanted is None:
        unfinished = sum(counts.total() for counts in stopped.values())
        print(f"{counted(unfinished, 'picture')} stopped early; the same command again goes on from there")
    for line in damaged:
        print(f"not read: {line}")
    _print_frontiers(run.path)
    if results := results_in(run):
        print(f"{results}; `entoptic gallery {shlex.quote(str(run.path))}` makes their pages")


def _heading(path: Path, pictures: int) -> str:
    try:
        about = read_json(path / "run.json")
    except Unreadable as error:
        raise UserError(f"{path / 'run.json'} cannot be read ({error})") from None
    about = about if is_a(about, dict) else {}
    model = f" of {about['title']}" if isinstance(about.get("title"), str) else ""
    made = f", begun {about['created'][:10]}" if isinstance(about.get("created"), str) else ""
    return f"{path}: {counted(pictures, 'finished picture')}{model}{made}"


def _fits(wanted: str | None, unit: str, label: str) -> bool:
    return wanted is None or wanted.lower() in unit.lower() or wanted.lower() in label.lower()


def _cell(made: dict[str, Counter[str]], stopped: dict[str, Counter[str]], unit: str, method: str) -> str:
    done, broken = made.get(unit, Counter())[method], stopped.get(unit, Counter())[method]
    return " + ".join(([str(done)] if done else []) + ([f"{broken} stopped"] if broken else []))


def _print_frontiers(path: Path) -> None:
    """Prints how many frontiers there are, and what failed in each."""
    found = sorted(path.glob("frontier/*.json"))
    if not found:
        return
    print(f"{counted(len(found), 'frontier')} in {path / 'frontier'}")
    for file in found:
        try:
            record = read_json(file)
        except Unreadable as error:
            print(f"not read: {file.name} ({error})")
            continue
        failures = record.get("failures") if isinstance(record, dict) else None
        for reason in failures if isinstance(failures, list) else []:
            print(f"failed: {record.get('unit', file.stem)}: {reason}")
