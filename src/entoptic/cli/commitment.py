"""`entoptic commitment`: from which step of a prior's chains on the guidance by a unit matters."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    BankSeed,
    Debug,
    Device,
    ModelName,
    PriorName,
    RunFolder,
    ScoreOfMap,
    Seed,
    Threads,
    UnitNames,
    photos_help,
    use_threads,
)
from entoptic.cli.output import table_console

if TYPE_CHECKING:
    from entoptic.runs.commitment import CommitmentResult


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """Measure at which steps of a prior's chains the guidance by a unit matters, as the unit itself judges it."""

    title: ClassVar[str] = "measure at which steps guidance by a unit matters"
    examples: ClassVar[tuple[str, ...]] = (
        """entoptic commitment builtin:lite0 'logits:"church"' --dry-run""",
        "entoptic commitment builtin:lite0 blocks.2:5 --seeds 16 --out runs/commitment",
    )
    bounds: ClassVar[Bounds] = {
        "quantile": (0.01, 0.9999), "level": (0.01, 1.0), "nats": (0.0, 1000.0), "beta": (0.0, 1e12),
        "steps": (2, 10_000), "switches": (1, 1000), "seeds": (4, 10_000), "bank": (100, 10_000_000),
    }  # fmt: skip

    model: ModelName
    units: UnitNames
    prior: PriorName = None
    photos: Annotated[str | None, photos_help(" whose scores are natural (default: the prior's own samples)")] = None
    quantile: float = 0.9
    """quantile of the natural scores above which a picture is a success"""
    level: float = 0.7
    """success rate that the window of guidance keeps"""
    nats: float = 2.0
    """strength of the guidance: β is that of the tilt at this KL divergence from the prior"""
    beta: float | None = None
    """strength β itself, in place of --nats"""
    sampler: Annotated[str, arg(metavar="NAME")] = "ancestral"
    """steps: ancestral, as energydps and klsc-twisted take them, or deterministic (DDIM)"""
    steps: int = 50
    """steps of a chain"""
    switches: int = 10
    """intervals into which the switches divide the steps"""
    seeds: int = 32
    """chains for each switch"""
    reduction: ScoreOfMap = ""
    bank: int = 2048
    """samples of the prior that standardise the score and give β"""
    bank_seed: BankSeed = 0
    dry_run: bool = False
    """print what will be computed and how long it takes, and compute nothing"""
    out: RunFolder = None
    seed: Seed = 0
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_commitment(options: Commitment) -> int:
    """Runs `entoptic commitment`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.gallery.commitment_page import write_commitment_pages
    from entoptic.gallery.result_pages import page_of
    from entoptic.runs.commitment import estimate_commitments, make_commitment_plans, run_commitments
    from entoptic.runs.commitment_plan import CommitmentOptions

    use_threads(options.threads)
    started = time.monotonic()
    asked = CommitmentOptions(**{f.name: getattr(options, f.name) for f in fields(CommitmentOptions)})
    plans = make_commitment_plans(
        options.model, options.units, prior=options.prior, photos=options.photos, options=asked, device=options.device
    )  # fmt: skip
    if options.dry_run:
        for plan, cost in zip(plans, estimate_commitments(plans)):
            print(f"{plan.unit}: {len(asked.places)} switches on and as many off, {asked.seeds} chains each")
            print(f"  {cost}")
        return 0
    with reporter() as report:
        results = run_commitments(plans, out=options.out, report=report)
    for result in results:
        _print_result(result)
    run = results[0].result.path.parents[3]
    write_commitment_pages(run)
    pages = ", ".join(str(page_of(one.result)) for one in results)
    print(f"{run}, {time.monotonic() - started:.0f} s; look at {pages}")
    return 0


def _print_result(found: CommitmentResult) -> None:
    """Prints the evidence of one unit and its window."""
    from rich.table import Table

    record = found.record
    label = f" ({record['label']})" if record["label"] else ""
    table = Table(
        "measurement", "value", "95 % interval", "n", box=None, title=f"{found.unit}{label}", title_justify="left"
    )
    for name, entry in found.evidence.items():
        if entry["value"] is None:
            table.add_row(name, "none", entry["reason"], "")
        else:
            low, high = entry["interval"]
            table.add_row(name, f"{entry['value']:.2f}", f"{low:.2f} to {high:.2f}", str(entry["n"]))
    table_console().print(table, highlight=False, markup=False)
    for harm in record.get("harm", ()):  # not in records of earlier versions
        print(harm)
    if record["window"] is None:
        print(f"no window: {record['why_no_window']}")
    else:
        print(f"window of guidance: --energydps.window {found.window}, --klsc-twisted.window {found.window}")
        print(f"  or the file {found.file}")
