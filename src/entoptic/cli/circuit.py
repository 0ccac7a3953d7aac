"""`entoptic circuit`: through which components of a network a unit gets what it looks for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds, check_bounds
from entoptic.cli.options import (
    Debug,
    Device,
    ModelName,
    PhotosAtOnce,
    Seed,
    Threads,
    UnitNames,
    photos_help,
    run_folder_help,
    use_threads,
)
from entoptic.cli.output import table_console
from entoptic.errors import UserError, counted

if TYPE_CHECKING:
    from entoptic.runs.results import Result


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """Find the components of a network, and the edges between them, that a unit needs on photos of what it stands for."""

    title: ClassVar[str] = "find the components and edges that a unit needs"
    examples: ClassVar[tuple[str, ...]] = (
        """entoptic circuit builtin:lite0 'logits:"church"' --photos photos --dry-run""",
        "entoptic circuit builtin:lite0 logits:497 --photos photos --n 4",
        "entoptic circuit --steer runs/lite0/results/circuit/NAME --alpha 0.4",
    )
    bounds: ClassVar[Bounds] = {
        "n": (1, 10_000), "others": (0, 100_000), "keep": (0.0, 1.0), "reruns": (0, 1000), "groups": (1, 65_536),
        "at_once": (1, 65_536), "steps": (1, 1000), "samples": (1, 1_000_000),
    }  # fmt: skip

    model: ModelName = ""
    units: UnitNames = ()
    photos: Annotated[str, photos_help("; for a class, one folder per class")] = ""
    corrupt: Annotated[str, arg(metavar="KIND")] = "blur"
    """what a cut edge carries: the photo's blur, the mean photo, another photo (resample), its object filled in (mask), or the
    photo without the word that is written on it (text)"""
    word: Annotated[str, arg(metavar="WORD")] = ""
    """word written on photos, for --corrupt text (default: the name of the unit's class)"""
    placing: Annotated[str, arg(metavar="PLACE")] = "big"
    """where the word is written: big (one line), small (four), or bezel (all four sides)"""
    masks: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """PNG masks with the names of the photos, white on the object, for --corrupt mask"""
    finder: Annotated[str, arg(metavar="NAME")] = "eap-ig"
    """patching (exact and slow), eap, eap-ig (by gradients), or the control random"""
    nodes: Annotated[str, arg(metavar="KIND")] = "auto"
    """heads (and MLPs) of a vision transformer, or blocks"""
    groups: int = 1
    """parts of each block's channels that are nodes of their own"""
    n: int = 16
    """photos to find the circuit on, and as many others to judge it; where there are fewer, half find and half judge"""
    others: int = 32
    """photos of other classes, for false positives"""
    keep: float = 0.8
    """share of the network's accuracy (of the score's change, for inner units) that the circuit keeps"""
    steps: int = 5
    """for eap-ig: pictures from corrupted to clean"""
    reruns: int = 2
    """further searches on other draws of the photos, for the overlap"""
    certify: bool = False
    """vote over random deletions of photos: edges are in, out, or abstained"""
    samples: int = 1000
    """random deletions that --certify votes over"""
    deletion: float = 0.6
    """probability with which each photo is left out"""
    tau: float = 0.95
    """vote above which an edge is certified"""
    steer: Annotated[Path | None, arg(metavar="CIRCUIT")] = None
    """take out what the edges of this stored circuit (a folder) carry; MODEL, UNIT and photos are read from it"""
    alpha: float | None = None
    """probability that a certified state is wrong (default: 0.05), or with --steer the share taken out (default: 0.4)"""
    dry_run: bool = False
    """print nodes, edges, photos and cost, and find nothing"""
    out: Annotated[Path | None, run_folder_help("runs/MODEL")] = None
    seed: Seed = 0
    context: Annotated[bool, arg(help="store small copies of photos, to show what nodes write")] = True
    at_once: PhotosAtOnce = 8
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False

    def __post_init__(self) -> None:
        check_bounds(self)


def run_circuit(options: Circuit) -> int:
    """Runs `entoptic circuit`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.circuits.certify import CertifyOptions
    from entoptic.gallery.circuit_page import write_circuit_pages
    from entoptic.runs.circuit import estimate_circuits, make_circuit_plans, run_circuits
    from entoptic.runs.circuit_plan import CircuitOptions

    use_threads(options.threads)
    if options.steer is not None:
        return _steer(options)
    for what, given in (("MODEL", options.model), ("UNIT", options.units), ("--photos PHOTOS", options.photos)):
        if not given:
            raise UserError(f"{what} is missing; entoptic circuit MODEL UNIT --photos PHOTOS, or --steer CIRCUIT")
    started = time.monotonic()
    names = (
        "finder",
        "corrupt",
        "nodes",
        "groups",
        "n",
        "others",
        "keep",
        "steps",
        "reruns",
        "seed",
        "at_once",
        "word",
        "placing",
    )
    asked = CircuitOptions(**{name: getattr(options, name) for name in names})
    certified = None
    if options.certify:
        certified = CertifyOptions(
            samples=options.samples, deletion=options.deletion, tau=options.tau, seed=options.seed,
            alpha=CertifyOptions.alpha if options.alpha is None else options.alpha,
        )  # fmt: skip
    with reporter() as report:
        plans = make_circuit_plans(
            options.model, options.units, photos=options.photos, options=asked, masks=options.masks,
            certified=certified, device=options.device, report=report,
        )  # fmt: skip
        if options.dry_run:
            for plan, cost in zip(plans, estimate_circuits(plans)):
                graph = plan.graph
                print(
                    f"{graph.unit}: {counted(len(graph.senders) + 1, 'node')} ({graph.nodes}), "
                    f"{counted(len(graph.edges), 'edge')}; found on {counted(len(plan.find), 'photo')}, judged on "
                    f"{len(plan.judge)}{'' if plan.held_out else ' (the same)'}, {len(plan.others)} of other classes"
                )
                print(f"  {cost}")
            return 0
        results = run_circuits(plans, out=options.out, context=options.context, report=report)
    for result in results:
        _print_result(result)
    run = results[0].path.parents[3]
    pages = write_circuit_pages(run)
    seconds, index = time.monotonic() - started, pages[0].parent / "circuits.html"
    print(f"{counted(len(results), 'circuit')} in {run}, {seconds:.0f} s; look at {index}")
    return 0


def _steer(options: Circuit) -> int:
    """Steers a stored circuit; returns the exit code."""
    from entoptic.gallery.circuit_page import write_circuit_pages
    from entoptic.runs.circuit_steering import ALPHA, steer_circuit

    for what, given in (("--certify", options.certify), ("--dry-run", options.dry_run), ("a UNIT", options.units)):
        if given:
            raise UserError(f"{what} does not go with --steer, which takes a circuit as it was found")
    assert options.steer is not None
    alpha = ALPHA if options.alpha is None else options.alpha
    result = steer_circuit(
        options.steer, alpha=alpha, model=options.model or None, photos=options.photos or None, masks=options.masks,
        at_once=options.at_once, device=options.device,
    )  # fmt: skip
    record = result.record
    _print_table(result, f"steered by {alpha:g} on {record['edges']} of {record['of']} edges")
    run = result.path.parents[3]
    pages = write_circuit_pages(run)
    print(f"stored in {result.path.parent}; look at {pages[0].parent / 'circuits.html'}")
    return 0


def _print_table(result: Result, what: str) -> None:
    from rich.table import Table

    label = f" ({result.record['label']})" if result.record["label"] else ""
    title = f"{result.record['unit']}{label}: {what}"
    table = Table("measurement", "value", "95 % interval", "n", box=None, title=title, title_justify="left")
    for name, entry in result.evidence.items():
        table.add_row(name, _number(entry["value"], entry["scale"]), _interval(entry), str(entry["n"] or ""))
    table_console().print(table, highlight=False, markup=False)


def _print_result(result: Result) -> None:
    """Prints the evidence of one circuit."""
    record = result.record
    _print_table(result, f"{record['kept']} of {record['edges']} edges")
    if not record["enough"]:
        print(f"no threshold keeps a share of {record['asked']['keep']:g}; this is the least sparse that was tried")
    if not record["kept"]:
        print(
            "no edge is needed: the corrupted photos alone do as much as was asked for; corrupt them otherwise (--corrupt)"
        )
    if not record["held_out"]:
        print("found and judged on the same photos: there were no more")
    if (certificate := record["certificate"]) is not None:
        counts = ", ".join(f"{certificate[state]} {words}" for state, words in _STATES)
        print(f"certified: {counts}; {certificate['means']}")


_STATES = (("in", "in"), ("out", "out"), ("abstain", "abstained"))


def _number(value: Any, scale: str) -> str:
    return "none" if value is None else f"{value:.3g}{' ' + scale if scale else ''}"


def _interval(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return str(entry["reason"])
    low, high = entry["interval"] or (None, None)
    return "" if low is None or low == high else f"{low:.3g} to {high:.3g}"
