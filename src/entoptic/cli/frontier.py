"""`entoptic frontier`: what each mean score of a unit costs at least, and what methods pay for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from entoptic.cli.method_options import chosen_methods, with_method_options
from entoptic.cli.options import (
    BankSeed,
    BatchSize,
    Debug,
    Device,
    ModelName,
    PriorName,
    RunFolder,
    ScoreOfMap,
    Seed,
    Threads,
    UnitNames,
    Verifiers,
    WorkerCount,
    asked_workers,
    photos_help,
    use_threads,
)
from entoptic.cli.output import table_console

if TYPE_CHECKING:
    from entoptic.runs.frontier import FrontierResult


@with_method_options
@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Measure what each mean score of a unit costs at least, in nats from a prior, and place methods on that frontier."""

    title: ClassVar[str] = "measure the least cost of a mean score, and where methods lie"
    examples: ClassVar[tuple[str, ...]] = (
        """entoptic frontier builtin:lite0 'logits:"church"' --methods best-of""",
        "entoptic frontier builtin:lite0 logits:701 --nats 3 --out runs/frontier",
    )

    model: ModelName
    units: UnitNames
    methods: Annotated[str, arg(metavar="METHODS")] = "klsc,best-of"
    """methods to place, separated by commas; add the control energydps with --energydps.steps 100, because its default
    of 1000 takes long"""
    prior: PriorName = None
    nats: float = 4.0
    """KL divergence from the prior up to which the frontier is sampled"""
    n: int = 4
    """pictures per unit and method; from 8 on they are compared with the prior's by KID"""
    bank: int = 2048
    """samples of the prior that standardise the score and start the sampling"""
    bank_seed: BankSeed = 0
    particles: int = 16
    """particles of each island"""
    islands: int = 4
    """independent runs, which the intervals come from"""
    reduction: ScoreOfMap = ""
    photos: Annotated[
        str | None,
        photos_help(", whose mean and best score are drawn as levels, and which some methods read"),
    ] = None
    verifiers: Verifiers = "auto"
    seed: Seed = 0
    out: RunFolder = None
    batch_size: BatchSize = None
    device: Device = "auto"
    threads: Threads = None
    workers: WorkerCount = None
    debug: Debug = False


def run_frontier(options: Frontier) -> int:
    """Runs `entoptic frontier`; returns the exit code."""
    from entoptic.gallery.site import build
    from entoptic.runs.frontier import frontier

    use_threads(options.threads)
    started = time.monotonic()
    results = frontier(
        options.model,
        options.units,
        prior=options.prior,
        photos=options.photos,
        nats=options.nats,
        n=options.n,
        methods=chosen_methods(options, options.methods),
        bank=options.bank,
        bank_seed=options.bank_seed,
        particles=options.particles,
        islands=options.islands,
        reduction=options.reduction,
        verifiers=options.verifiers,
        out=options.out,
        seed=options.seed,
        batch_size=options.batch_size,
        device=options.device,
        workers=asked_workers(options.workers, options.threads),
    )
    for result in results:
        _print_result(result)
    folder, prior = results[0].folder, results[0].record["prior"]["name"]
    print(f"{folder}, {time.monotonic() - started:.0f} s; nats are KL divergences from {prior}")
    if any((folder.parent / "pictures").glob("*/*.json")):
        print(f"look at {build(folder.parent)}")
    return 2 if any(result.failures for result in results) else 0


def _print_result(result: FrontierResult) -> None:
    """Prints the table of one unit, and what there is to say beside it."""
    from rich.table import Table

    from entoptic.plots.frontier import HEADINGS

    label = f" ({result.record['label']})" if result.record["label"] else ""
    table = Table(*HEADINGS, box=None, title=f"{result.unit}{label}", title_justify="left")
    for row in result.table():
        table.add_row(*row)
    table_console().print(table, highlight=False, markup=False)
    for line in [*result.record["notes"], *(f"failed: {reason}" for reason in result.failures)]:
        print(line)
