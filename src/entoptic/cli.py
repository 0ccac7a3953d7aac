"""The command line: `entoptic VERB …`. Options come from the config dataclasses; nothing is declared twice.

This module and the configs it reads import no torch, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from entoptic.errors import UserError
from entoptic.methods.registry import METHODS

import entoptic.methods  # isort: skip  # noqa: F401 (registers every method)


@dataclass(frozen=True)
class Ls:
    """List what a model holds: its layers, or the units of one layer."""

    model: tyro.conf.Positional[str] = ""
    """SOURCE:NAME, for instance builtin:lite0; nothing lists sources and methods."""
    layer: tyro.conf.Positional[str] = ""
    """a layer whose units are listed"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class SeeBase:
    """Make pictures of what units look for, each with its measurements."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME, for instance builtin:lite0 or timm:resnet50.a1_in1k"""
    units: tyro.conf.Positional[tuple[str, ...]]
    """such as logits:207, 'logits:"golden retriever"', blocks.6:112, blocks.6:0-63"""
    method: str = "vital"
    """one or more methods, separated by commas"""
    photos: str | None = None
    """folder, Parquet file or labels.csv folder of real photos; without it the shipped statistics are used"""
    n: int = 1
    """pictures per unit and method"""
    seed: int = 0
    """of the run; the same request gives the same pictures"""
    out: Path | None = None
    """run folder (default: runs/MODEL); what is there already is not made again"""
    verifiers: str = "auto"
    """networks that judge the pictures, separated by commas; auto takes the builtin ones, '' none"""
    steps: int | None = None
    """optimisation steps, for every method that has them"""
    batch_size: int | None = None
    """pictures optimised together (default: 10 on a CPU, 64 elsewhere); results do not depend on it"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    context: bool = True
    """store small copies of each unit's strongest photos for the gallery; --no-context for runs to be published"""
    dry_run: bool = False
    """time two steps, then print the plan, its time and its memory"""
    debug: bool = False
    """show the traceback of an error"""


def _method_field(name: str) -> tuple[str, Any, Any]:
    config = METHODS[name].config
    return name.replace("-", "_"), config, dataclasses.field(default_factory=config)


See = dataclasses.make_dataclass(
    "See", [_method_field(name) for name in METHODS], bases=(SeeBase,), frozen=True, kw_only=True
)
See.__doc__ = SeeBase.__doc__


@dataclass(frozen=True)
class Verify:
    """Recompute the measurements of a run from its files and report what drifted."""

    run: tyro.conf.Positional[Path]
    """the run folder"""
    photos: str | None = None
    """where the photos are now, if they moved"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Gallery:
    """Make the static gallery of a run: pages that open from the disk, without a server."""

    run: tyro.conf.Positional[Path]
    """the run folder"""
    out: Path | None = None
    """where to write it (default: RUN/gallery)"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Check:
    """Check that a model's card (size, mean, std, …) fits the network, on real photos."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME"""
    photos: str
    """real photos, with labels if possible"""
    n: int = 64
    """how many of them to show"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    debug: bool = False
    """show the traceback of an error"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 2 for bad input, 1 for a defect of Entoptic, 130 for Ctrl-C."""
    verbs: Any = (
        Annotated[Ls, tyro.conf.subcommand("ls")]
        | Annotated[See, tyro.conf.subcommand("see")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Gallery, tyro.conf.subcommand("gallery")]
        | Annotated[Check, tyro.conf.subcommand("check")]
    )
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        given = ["--help"]
    try:
        command = tyro.cli(verbs, prog="entoptic", args=given, description=_DESCRIPTION)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
        return _run(command)


def _run(command: Any) -> int:
    try:
        return _VERBS[type(command)](command)
    except UserError as error:
        if command.debug:
            traceback.print_exc()
        print(f"entoptic: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "entoptic: interrupted; finished pictures are stored, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        else:
            print(
                f"entoptic: internal error, {type(error).__name__}: {error} (this is a defect of Entoptic; "
                "--debug shows where)",
                file=sys.stderr,
            )
        return 1


_DESCRIPTION = "Entoptic shows what a vision model looks for."


def _ls(command: Ls) -> int:
    from rich.console import Console
    from rich.table import Table

    # A table that is piped somewhere is not folded to the width of a terminal that is not there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not command.model:
        from entoptic.models.sources import BUILTIN, SOURCES

        console.print("model sources:", ", ".join(f"{s}:" for s in SOURCES), highlight=False)
        console.print("builtin models:", ", ".join(f"builtin:{b}" for b in BUILTIN), highlight=False)
        table = Table("method", "what it is", "units", "reads", box=None)
        for card in METHODS.values():
            table.add_row(
                card.name,
                card.title,
                ", ".join(sorted(card.units)),
                ", ".join(sorted(card.reads)) or "nothing",
            )
        console.print(table)
        return 0
    from entoptic.models.sources import load

    model = load(command.model, device=command.device)
    if command.layer:
        info = model.layer(command.layer)
        grid = "" if info.grid == (1, 1) else f", {info.grid[0]}×{info.grid[1]} positions"
        tail = f", ends in {info.activation} (@….pre reads before it)" if info.activation else ""
        console.print(f"{info.name}: {info.kind}, {info.channels} units{grid}{tail}", highlight=False, soft_wrap=True)
        for index in range(info.channels if command.layer == "logits" and model.card.labels else 0):
            print(f"logits:{index}\t{model.card.label(index)}")
        if command.layer != "logits" or not model.card.labels:
            console.print(f"{info.name}:0 … {info.name}:{info.channels - 1}", highlight=False, markup=False)
        return 0
    console.print(repr(model), highlight=False, soft_wrap=True)
    table = Table("layer", "kind", "units", "grid", box=None)
    for info in [*model.layers.values(), model.layer("logits")]:
        grid = "" if info.grid == (1, 1) else f"{info.grid[0]}×{info.grid[1]}"
        table.add_row(info.name, info.kind, str(info.channels), grid)
    console.print(table)
    return 0


def _see(command: Any) -> int:
    import torch

    from entoptic.gallery.site import build
    from entoptic.runs.progress import reporter
    from entoptic.runs.see import estimate, execute, make_plan
    from entoptic.runs.store import headline

    if command.threads is not None:
        if command.threads < 1:
            raise UserError(f"--threads must be at least 1, got {command.threads}")
        torch.set_num_threads(command.threads)
    methods = [_configured(command, name.strip()) for name in command.method.split(",") if name.strip()]
    options = {} if command.steps is None else {"steps": command.steps}
    started = time.monotonic()
    with reporter() as report:
        plan = make_plan(
            command.model, command.units, method=methods, photos=command.photos, n=command.n, seed=command.seed,
            out=command.out, verifiers=command.verifiers, batch_size=command.batch_size, device=command.device,
            report=report, options=options, context=command.context,
        )  # fmt: skip
        if command.dry_run:
            _print_estimate(estimate(plan), plan.failures)
            return 2 if plan.failures else 0
        run = execute(plan, report)
    asked = {str(item.unit) for job in plan.jobs for item in job.items}
    for picture in run:
        if picture.unit in asked:
            label = f" ({picture.record['label']})" if picture.record.get("label") else ""
            print(f"{picture.path}  {picture.unit}{label} by {picture.method}: {'; '.join(headline(picture.record))}")
    index = build(run.path)
    print(f"{len(run)} pictures in {run.path}, {time.monotonic() - started:.0f} s; look at {index}")
    return 2 if run.failures else 0


def _configured(command: Any, name: str) -> Any:
    from entoptic.methods.registry import find_method

    find_method(name)
    return getattr(command, name.replace("-", "_"))


def _print_estimate(report: dict[str, Any], failures: list[str]) -> None:
    print(f"run {report['run']} of {report['model']}")
    for name, entry in report["methods"].items():
        each = f", {entry['steps']} steps, {entry['seconds_per_picture']:.1f} s a picture" if "steps" in entry else ""
        print(
            f"  {name}: {entry['pictures'] - entry['done']} to make, {entry['done']} there{each}, {_duration(entry['seconds'])}"
        )
    total = sum(entry["seconds"] for entry in report["methods"].values())
    gpu = f", {report['peak_gpu_memory_mb']:.0f} MB on the GPU" if "peak_gpu_memory_mb" in report else ""
    print(f"  together {_duration(total)}, peak memory {report['peak_memory_mb']:.0f} MB{gpu}")
    for failure in failures:
        print(f"  cannot be made: {failure}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _verify(command: Verify) -> int:
    from entoptic.runs.progress import reporter
    from entoptic.runs.verify import verify

    with reporter() as report:
        found = verify(
            command.run,
            photos=command.photos,
            device=command.device,
            on_picture=lambda done, total: report.progress("verifying", done, total),
        )
    for line in found.drift:
        print(f"differs: {line}")
    for line in dict.fromkeys(found.skipped):
        print(f"not recomputed: {line}")
    print(found)
    return 0 if found.ok else 2


def _gallery(command: Gallery) -> int:
    from entoptic.gallery.site import build

    print(build(command.run, command.out))
    return 0


def _check(command: Check) -> int:
    from entoptic.images.preflight import preflight
    from entoptic.models.sources import load

    result = preflight(load(command.model, device=command.device), command.photos, n=command.n)
    print(result)
    return 0 if result.ok else 2


_VERBS: dict[type, Any] = {Ls: _ls, See: _see, Verify: _verify, Gallery: _gallery, Check: _check}


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
