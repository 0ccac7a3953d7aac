"""`entoptic patterns`: which units, on together, tell errors, classes or networks apart."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    Debug,
    Device,
    LayerToRead,
    ModelName,
    NamesBesideRun,
    PhotosAtOnce,
    Seed,
    Threads,
    photos_help,
    run_folder_help,
    use_threads,
)
from entoptic.cli.output import table_console
from entoptic.errors import counted

if TYPE_CHECKING:
    from entoptic.runs.results import Result


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Find which units of a layer, on together, go with errors, with a class, or with one of two networks."""

    title: ClassVar[str] = "find units that, on together, go with errors, a class or a network"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic patterns builtin:lite0 bn2 --photos photos --dry-run",
        "entoptic patterns builtin:lite0 bn2 --photos photos",
        "entoptic patterns builtin:lite0 bn2 --photos photos --between church",
    )
    bounds: ClassVar[Bounds] = {
        "quantile": (0.0, 1.0), "level": (0.0, 1.0), "shuffles": (0, 10_000), "most": (1, 1000), "tested": (0, 100_000),
        "sets": (0, 1000), "batch_size": (1, 65_536),
    }  # fmt: skip

    model: ModelName
    layer: LayerToRead
    photos: Annotated[str, photos_help(", one folder per class")]
    of: Annotated[str, arg(metavar="CLASS")] = ""
    """look only at errors on photos of this class"""
    taken_for: Annotated[str, arg(metavar="CLASS")] = ""
    """look only at errors in which the network answers this class"""
    between: Annotated[tuple[str, ...] | None, arg(metavar="LABEL")] = None
    """compare photos of one label with those of another, or with all others"""
    against: Annotated[str, arg(metavar="MODEL")] = ""
    """compare with the same photos in another network or checkpoint with the same layer"""
    every_class: bool = False
    """compare photos of each label with all others, all labels at once"""
    readout: Annotated[str, arg(metavar="READOUT")] = ""
    """how units are read, as behind @ in a unit (default: the layer's own; max for a dictionary)"""
    quantile: float = 0.9
    """a unit is on above this quantile of its own scores over the photos"""
    level: float = 0.01
    """largest probability that anything is found where groups are drawn at random"""
    shuffles: int = 20
    """searches on shuffled groups, as a control"""
    most: int = 12
    """largest number of patterns kept (of each class with --every-class)"""
    ablate: Annotated[str, arg(metavar="VALUE")] = "mean"
    """what units are set to in the follow-up: mean or zero"""
    tested: int = 64
    """largest number of photos of each pattern in the follow-up; 0 skips it"""
    sets: int = 20
    """random sets of as many units in the follow-up, as a control"""
    run: Annotated[Path | None, arg(metavar="RUN")] = None
    """a run whose pictures stand for the units (default: that of --out; photos stand for those without)"""
    names: NamesBesideRun = None
    dry_run: bool = False
    """print what would be compared and the cost, and find nothing"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL")] = None
    seed: Seed = 0
    context: Annotated[bool, arg(help="store small copies of photos, to show what units respond to")] = True
    batch_size: PhotosAtOnce = 32
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_patterns(options: Patterns) -> int:
    """Runs `entoptic patterns`; returns the exit code."""
    from entoptic.base.gradients import with_gradients
    from entoptic.base.progress import reporter
    from entoptic.base.unread import said_elsewhere
    from entoptic.gallery.pattern_page import write_pattern_pages
    from entoptic.names import read_names
    from entoptic.runs.patterns import make_question
    from entoptic.runs.patterns import run_patterns as find
    from entoptic.runs.patterns_plan import PatternOptions, estimate_patterns, make_patterns_plan
    from entoptic.runs.store import Run

    use_threads(options.threads)
    started = time.monotonic()
    names = ("readout", "quantile", "level", "shuffles", "most", "ablate", "tested", "sets", "batch_size", "seed")
    asked = PatternOptions(**{name: getattr(options, name) for name in names})
    question = make_question(
        options.of, options.taken_for, options.between, options.against, options.every_class
    )  # fmt: skip
    if options.run is not None:
        Run.open(options.run)  # is refused before hours of work
    if options.names is not None:
        read_names(options.names)
    plan = make_patterns_plan(
        options.model, options.layer, photos=options.photos, question=question, against=options.against or None,
        options=asked, device=options.device,
    )  # fmt: skip
    if options.dry_run:
        print(f"{plan.name}: {counted(plan.basis.group.channels, 'unit')} on {counted(len(plan.photos), 'photo')}")
        print(f"  {estimate_patterns(plan)}")
        return 0
    with reporter() as report, said_elsewhere():  # `_print_result` names them
        result = with_gradients(find)(plan, out=options.out, context=options.context, report=report)
    _print_result(result)
    run = result.path.parents[3]
    pages = write_pattern_pages(run, pictures=options.run, names=options.names)
    seconds, index = time.monotonic() - started, pages[0].parent / "patterns.html"
    print(f"{counted(result.record['found'], 'pattern')} in {run}, {seconds:.0f} s; look at {index}")
    return 0


def _print_result(result: Result) -> None:
    """Prints the patterns and what was found by chance."""
    from rich.table import Table

    record = result.record
    whole = json.loads(result.file("patterns.json").read_text(encoding="utf-8"))
    sizes = ", ".join(f"{group['rows']} {group['name']}" for group in whole["groups"][:8])
    title = f"{record['name']}: {counted(record['items'], 'unit')}, {sizes}"
    table = Table("", "units on together", "goes with", "there", "elsewhere", "bits", "p", "accuracy without them",
                  "random units", box=None, title=title, title_justify="left")  # fmt: skip
    for number, entry in enumerate(whole["patterns"], 1):
        side = entry["groups"].index(entry["towards"])
        table.add_row(
            str(number), "\n".join(" xor ".join(clause) for clause in entry["clauses"]), entry["towards"],
            f"{entry['on'][side]} of {entry['size'][side]}", f"{entry['on'][1 - side]} of {entry['size'][1 - side]}",
            f"{entry['bits']:.0f}", f"{entry['p']:.1g}", *_change(entry["change"]),
        )  # fmt: skip
    table_console().print(table, highlight=False, markup=False)
    if unread := record.get("unread"):  # not in records of earlier versions
        print(unread)
    for name, entry in result.evidence.items():
        if name.startswith("found_"):
            print(f"{name.replace('_', ' ')}: {_chance(entry)}")


def _change(change: dict[str, Any]) -> tuple[str, str]:
    if "reason" in change:
        return change["reason"], ""
    low, high = change["interval"]
    random = change["random_interval"]
    after = f"{change['before']:.0f} % to {change['after']:.0f} % ({low:+.0f} to {high:+.0f} points, n = {change['n']})"
    return after, "" if random is None else f"{random[0]:+.0f} to {random[1]:+.0f} points"


def _chance(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return str(entry["reason"])
    low, high = entry["interval"]
    return f"{entry['detail']['found']} of {entry['n']} searches found anything ({low:.0f} to {high:.0f} %)"
