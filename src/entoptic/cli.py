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

from entoptic.errors import UserError, nearest
from entoptic.inversion.configs import EntopticRecipe, PaperRecipe, Sampling
from entoptic.inversion.configs import Steer as Steering
from entoptic.methods.contract import METHODS
from entoptic.priors.recipe import Recipe

import entoptic.methods  # isort: skip  # noqa: F401 (registers every method)


@dataclass(frozen=True)
class Ls:
    """List what a model or an activation index holds: layers, the units of one layer, the photos of one unit."""

    model: tyro.conf.Positional[str] = ""
    """SOURCE:NAME, for instance builtin:lite0, or the folder of an index; nothing lists sources and methods."""
    layer: tyro.conf.Positional[str] = ""
    """a layer whose units are listed; of an index also a unit, such as blocks.6:112"""
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
    index: Path | None = None
    """activation index of the model on these photos (entoptic index): units it holds need no pass over them"""
    prior: str | None = None
    """image prior of the methods that sample one, such as builtin:…, hf:REPO or a folder (default: the shipped one)"""
    bank_seed: int = 0
    """of the prior's samples that standardise scores and start the sampling; --seed does not change them"""
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
    nats: float | None = None
    """KL divergence to spend, for every method that has a budget"""
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
class FrontierBase:
    """Measure what each mean score of a unit costs at least, in nats from a prior, and place methods on that frontier."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME, for instance builtin:lite0 or timm:resnet50.a1_in1k"""
    units: tyro.conf.Positional[tuple[str, ...]]
    """such as logits:207, 'logits:"golden retriever"', blocks.6:112"""
    methods: str = "klsc,best-of,energydps"
    """methods to place, separated by commas; energydps takes long, --energydps.steps 100 less"""
    prior: str | None = None
    """image prior, such as builtin:…, hf:REPO or a folder (default: the shipped one)"""
    nats: float = 4.0
    """KL divergence from the prior up to which the frontier is sampled"""
    n: int = 4
    """pictures per unit and method; from 8 on they are compared with the prior's by KID"""
    bank: int = 2048
    """samples of the prior that standardise the score and start the sampling"""
    bank_seed: int = 0
    """of the prior's samples that standardise scores and start the sampling; --seed does not change them"""
    particles: int = 16
    """particles of each island"""
    islands: int = 4
    """independent runs, which the intervals come from"""
    reduction: str = ""
    """score: '' for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""
    photos: str | None = None
    """real photos, whose mean and best score are drawn as levels, and which some methods read"""
    verifiers: str = "auto"
    """networks that judge the pictures, separated by commas; auto takes the builtin ones, '' none"""
    seed: int = 0
    """of the run; the same request gives the same pictures"""
    out: Path | None = None
    """run folder (default: runs/MODEL); what is there already is not made again"""
    batch_size: int | None = None
    """pictures made together; results do not depend on it"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    debug: bool = False
    """show the traceback of an error"""


Frontier = dataclasses.make_dataclass(
    "Frontier", [_method_field(name) for name in METHODS], bases=(FrontierBase,), frozen=True, kw_only=True
)
Frontier.__doc__ = FrontierBase.__doc__


@dataclass(frozen=True)
class Invert:
    """Draw pictures that have a photo's feature map, or a mixture of two photos' maps, each with its measurements."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME, for instance builtin:lite0"""
    layer: tyro.conf.Positional[str]
    """module whose output is inverted; the inverter must have been trained on it"""
    photos: tyro.conf.Positional[tuple[str, ...]]
    """image files, and folders of them; of each the central square is inverted"""
    n: int = 4
    """pictures per map"""
    inverter: str | None = None
    """builtin:NAME or file:FOLDER (default: the shipped one)"""
    prior: str | None = None
    """where the image prior that the inverter was trained on is now, if not where its card says; another is refused"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)
    mix: str | None = None
    """a second photo, whose map is mixed in"""
    weights: str = "0,.25,.5,.75,1"
    """of the second photo's map, with commas between them; in the form --weights=-.5,1.5 where they are negative"""
    mixing: str = "linear"
    """linear, norm (with the interpolated norms) or slerp"""
    paste: str | None = None
    """a second photo, whose map is put in at --region"""
    region: str | None = None
    """TOP,LEFT,BOTTOM,RIGHT in cells of the map; bottom and right are the first cells left out"""
    seed: int = 0
    """of the run; the same request gives the same pictures"""
    out: Path | None = None
    """run folder (default: runs/MODEL); what is there already is not made again"""
    verifiers: str = "auto"
    """networks that judge the pictures, separated by commas; auto takes the builtin ones, '' none"""
    batch_size: int | None = None
    """pictures made together (default: 10 on a CPU, 64 elsewhere); results do not depend on it"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    context: bool = True
    """store small copies of the photos for the gallery; --no-context for runs to be published"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Steer:
    """Scale one concept of a photo's feature map, decode both maps, and see where the picture changes."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME, for instance builtin:lite0"""
    layer: tyro.conf.Positional[str]
    """the layer that the inverter inverts"""
    photo: tyro.conf.Positional[tuple[str, ...]]
    """files of photos, or one folder"""
    steer: tyro.conf.OmitArgPrefixes[Steering] = dataclasses.field(default_factory=Steering)
    concept: tuple[str, ...] = ()
    """numbers or names of concepts in the dictionary (default: the three strongest in each photo)"""
    dictionary: Path | None = None
    """file of a saved dictionary of this layer"""
    class_name: Annotated[str, tyro.conf.arg(name="class")] = ""
    """name or number of the class whose concepts are discovered, where there is no dictionary"""
    photos: str | None = None
    """real photos that they are discovered on"""
    concepts: int = 4
    """how many concepts of the class are discovered; 0 takes the fewest that are complete"""
    inverter: str | None = None
    """builtin:NAME or file:FOLDER (default: the shipped one)"""
    prior: str | None = None
    """where the image prior that the inverter was trained on is now, if not where its card says; another is refused"""
    out: Path | None = None
    """run folder (default: runs/MODEL-steer); what is there already is not made again"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    context: bool = True
    """store small copies of the photos for the gallery; --no-context for runs to be published"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Verify:
    """Recompute the measurements of a run from its files and report what drifted."""

    run: tyro.conf.Positional[Path]
    """the run folder"""
    photos: str | None = None
    """where the photos are now, if they moved"""
    prior: str | None = None
    """where the image prior of the run's inverters is now, if not where the sidecars or their cards say"""
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


@dataclass(frozen=True)
class Index:
    """Read photos once and keep what every unit of some layers does on them."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME"""
    photos: str
    """folder, Parquet file or labels.csv folder of real photos"""
    layers: tuple[str, ...]
    """module names, or logits; `entoptic ls MODEL` lists them"""
    out: Path
    """the index folder; what it holds already is not read again"""
    k: int = 25
    """strongest photos kept of each unit"""
    bottom: int = 8
    """weakest photos kept of each unit"""
    readouts: tuple[str, ...] = ("",)
    """how units are read, as behind @ in a unit (mean, max, cls, tok3, centre); '' is each layer's default"""
    reservoir: int = 0
    """photos in a uniform sample whose scores and activation vectors are kept"""
    shard: str = "0/1"
    """I/M reads the I-th (from 0) of M parts of the photos; `entoptic merge` makes one index of them"""
    batch_size: int = 32
    """photos in one forward pass"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Merge:
    """Make one index from shards of it."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """their folders"""
    out: Path
    """folder of the merged index"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class Learn:
    """Train an image prior on photos, or go on training it: `entoptic learn prior --photos DIR --size 64`."""

    photos: tuple[str, ...]
    """folders or Parquet files of photos; their labels become the prior's classes"""
    out: Path = Path("priors/mine")
    """folder of checkpoints, sample sheets and, in OUT/prior, the prior that --prior takes"""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = dataclasses.field(default_factory=Recipe)
    held_out: str | None = None
    """photos that the prior is compared with in the end (default: those it is trained on)"""
    name: str = ""
    """on its card (default: the folder's name)"""
    guidance: float = 1.0
    """weight of classifier-free guidance that the finished prior samples with"""
    samples: int = 1000
    """pictures compared on each side"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True)
class LearnInverter:
    """Train the inverse of a layer, or go on training it: `entoptic learn inverter MODEL LAYER --photos DIR`."""

    model: tyro.conf.Positional[str]
    """SOURCE:NAME, for instance builtin:lite0"""
    layer: tyro.conf.Positional[str]
    """a layer with a map or patches (`entoptic ls MODEL`), such as bn2 of builtin:lite0"""
    photos: tuple[str, ...]
    """folders or Parquet files of photos; labels are not read"""
    out: Path = Path("inverters/mine")
    """folder of checkpoints, sample sheets and, in OUT/inverter, the inverter that --inverter takes"""
    recipe: str = "entoptic"
    """entoptic, or paper (FeatInv as published)"""
    entoptic: EntopticRecipe = dataclasses.field(default_factory=EntopticRecipe)
    paper: PaperRecipe = dataclasses.field(default_factory=PaperRecipe)
    steps: int | None = None
    """optimisation steps in all, of whichever recipe"""
    prior: str | None = None
    """image prior (default: the shipped one); fresh:SIZE is an untrained network for --entoptic.network direct"""
    prompt: str | None = None
    """of a prior that reads text: the text that it is trained with (the paper's recipe has its own)"""
    prior_guidance: float | None = None
    """of a prior that reads text: weight of guidance by it (the paper's recipe has its own)"""
    trust: bool = False
    """read pickled weights of hf: priors where there are no safetensors; code is never run"""
    held_out: str | None = None
    """photos that it is measured on in the end (default: those it is trained on)"""
    limit: int = 0
    """most photos taken, at random; 0 takes all"""
    pairs: Path | None = None
    """folder of the photos' maps (default: OUT/pairs); trainings on the same layer and photos may share it"""
    name: str = ""
    """on its card (default: the folder's name)"""
    compared: int = 200
    """photos that it is measured on"""
    verifiers: str = "auto"
    """networks that judge the reconstructions too, separated by commas; auto takes the builtin ones, '' none"""
    threads: int | None = None
    """CPU threads (default: torch's own choice)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    debug: bool = False
    """show the traceback of an error"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 2 for bad input, 1 for a defect of Entoptic, 130 for Ctrl-C."""
    verbs: Any = (
        Annotated[Ls, tyro.conf.subcommand("ls")]
        | Annotated[See, tyro.conf.subcommand("see")]
        | Annotated[Frontier, tyro.conf.subcommand("frontier")]
        | Annotated[Invert, tyro.conf.subcommand("invert")]
        | Annotated[Steer, tyro.conf.subcommand("steer")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Gallery, tyro.conf.subcommand("gallery")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Index, tyro.conf.subcommand("index")]
        | Annotated[Merge, tyro.conf.subcommand("merge")]
        | Annotated[Learn, tyro.conf.subcommand("learn-prior")]
        | Annotated[LearnInverter, tyro.conf.subcommand("learn-inverter")]
    )
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        given = ["--help"]
    if given[:1] == ["learn"]:  # what is learned is part of the verb: `entoptic learn prior`
        given = ["-".join(given[:2]), *given[2:]]
    try:
        command = tyro.cli(verbs, prog="entoptic", args=given, description=_DESCRIPTION)
    except SystemExit as stop:
        return int(stop.code or 0)
    except UserError as error:  # a config refused its options
        if "--debug" in given:
            traceback.print_exc()
        print(f"entoptic: {error}", file=sys.stderr)
        return 2
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
            "entoptic: interrupted; what is finished is stored, the same command goes on from there",
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
    if (Path(command.model) / "index.json").is_file():
        return _ls_index(command)
    from entoptic.models.sources import load

    model = load(command.model, device=command.device)
    if command.layer:
        info = model.layer(command.layer)
        grid = "" if info.grid == (1, 1) else f", {_positions(info)} positions"
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
        table.add_row(info.name, info.kind, str(info.channels), "" if info.grid == (1, 1) else _positions(info))
    console.print(table)
    return 0


def _ls_index(command: Ls) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from entoptic.images.index import ActivationIndex

    console = Console(width=None if sys.stdout.isatty() else 160)
    index = ActivationIndex.open(command.model)
    if ":" in command.layer:
        unit, moments = command.layer, index.moments(command.layer)
        console.print(
            f"{unit}: mean {moments.mean:.6g}, sd {moments.variance**0.5:.6g} on {moments.n} photos, "
            f"above 0 on {100 * index.firing_rate(unit):.1f} %",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        for end, hits in (("strongest", index.top(unit)), ("weakest", index.bottom(unit))):
            table = Table("rank", "value", "row", "column", end, box=None)
            for hit in hits:
                table.add_row(str(hit.rank), f"{hit.value:.6g}", str(hit.row), str(hit.column), Text(hit.photo))
            console.print(table)
        return 0
    if command.layer:
        table = Table("unit", "mean", "sd", "above 0", "strongest", "photo", box=None)
        for unit in index.units(command.layer):
            moments, hits = index.moments(unit), index.top(unit, 1)
            best = (f"{hits[0].value:.6g}", Text(hits[0].photo)) if hits else ("", "")
            rate = f"{100 * index.firing_rate(unit):.1f} %"
            table.add_row(unit, f"{moments.mean:.6g}", f"{moments.variance**0.5:.6g}", rate, *best)
        console.print(table)
        return 0
    console.print(repr(index), highlight=False, markup=False, soft_wrap=True)
    _print_losses(index)
    table = Table("layer", "units", box=None)
    for layer in index.layers:
        units = index.units(layer)
        table.add_row(layer, f"{len(units)} ({units[0]} … {units[-1]})")
    console.print(table)
    return 0


def _print_losses(index: Any) -> None:
    for name, reason in index.skipped:
        print(f"not read: {name} ({reason})")
    odd = index.nonfinite
    if odd["photos"]:
        print(f"scores that are not finite: {odd['photos']} photos, {', '.join(odd['names'])}")


def _index(command: Index) -> int:
    from entoptic.base.progress import reporter
    from entoptic.images.build_index import build_index
    from entoptic.models.sources import load

    _use_threads(command.threads)
    which, slash, of = command.shard.partition("/")
    if not (slash and which.isdigit() and of.isdigit()):
        raise UserError(f'--shard is I/M such as 0/4, got "{command.shard}"')
    started = time.monotonic()
    with reporter() as report:
        index = build_index(
            load(command.model, device=command.device), command.photos, command.layers, out=command.out, k=command.k,
            bottom=command.bottom, readouts=command.readouts, reservoir=command.reservoir, shard=(int(which), int(of)),
            batch_size=command.batch_size, progress=report.progress,
        )  # fmt: skip
    _print_losses(index)
    print(f"{index}, {time.monotonic() - started:.0f} s; look with `entoptic ls {index.path} {index.layers[-1]}:0`")
    return 0


def _merge(command: Merge) -> int:
    from entoptic.images.build_index import merge_indexes

    print(merge_indexes(command.shards, command.out))
    return 0


def _learn(command: Learn) -> int:
    from entoptic.runs.learn import learn

    _use_threads(command.threads)
    out = learn(
        command.photos, command.out, command.recipe, held_out=command.held_out, name=command.name,
        guidance=command.guidance, samples=command.samples, device=command.device,
        log=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"{out}: sample it with `entoptic see MODEL UNIT --method klsc --prior file:{out}`")
    return 0


def _learn_inverter(command: LearnInverter) -> int:
    from entoptic.inversion.configs import RECIPES
    from entoptic.priors.sources import SHIPPED
    from entoptic.runs.learn_inverter import learn

    _use_threads(command.threads)
    if command.recipe not in RECIPES:
        raise UserError(
            f'no recipe "{command.recipe}"; expected one of {", ".join(RECIPES)}{nearest(command.recipe, RECIPES)}'
        )
    other = "entoptic" if command.recipe == "paper" else "paper"
    if getattr(command, other) != RECIPES[other]():
        raise UserError(
            f"options of --{other} were given for --recipe {command.recipe}; write --{command.recipe}.… instead"
        )
    recipe = getattr(command, command.recipe)
    if command.steps is not None:
        recipe = dataclasses.replace(recipe, steps=command.steps)
    out = learn(
        command.model, command.layer, command.photos, command.out, recipe, prior=command.prior or SHIPPED,
        prompt=command.prompt, prior_guidance=command.prior_guidance, trust=command.trust, held_out=command.held_out,
        limit=command.limit, name=command.name, compared=command.compared,
        pairs_folder=command.pairs, verifiers=command.verifiers, device=command.device,
        log=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"{out}: use it with `entoptic invert {command.model} {command.layer} PHOTO --inverter file:{out}`")
    return 0


def _use_threads(threads: int | None) -> None:
    """Sets torch's threads on the CPU; None leaves its own choice."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")
    import torch

    torch.set_num_threads(threads)


def _positions(info: Any) -> str:
    """`14×14` of a map, `1+16×16` of a class token and patches, `50×1` of tokens that lie nowhere."""
    prefix, rows, columns = info.patches or (0, *info.grid)
    return f"{prefix}+{rows}×{columns}" if prefix else f"{rows}×{columns}"


def _see(command: Any) -> int:
    from entoptic.base.progress import reporter
    from entoptic.gallery.site import build
    from entoptic.runs.estimate import estimate
    from entoptic.runs.execute import execute
    from entoptic.runs.plan import make_plan
    from entoptic.runs.store import headline

    _use_threads(command.threads)
    methods = [_configured(command, name.strip()) for name in command.method.split(",") if name.strip()]
    options = {name: value for name in ("steps", "nats") if (value := getattr(command, name)) is not None}
    started = time.monotonic()
    with reporter() as report:
        plan = make_plan(
            command.model, command.units, method=methods, photos=command.photos, n=command.n, seed=command.seed,
            out=command.out, verifiers=command.verifiers, batch_size=command.batch_size, device=command.device,
            report=report, options=options, index=command.index, context=command.context, prior=command.prior,
            bank_seed=command.bank_seed,
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
    from entoptic.methods.contract import find_method

    find_method(name)
    return getattr(command, name.replace("-", "_"))


def _frontier(command: Any) -> int:
    from rich.console import Console
    from rich.table import Table

    from entoptic.gallery.site import build
    from entoptic.plots.frontier import HEADINGS
    from entoptic.runs.frontier import frontier

    _use_threads(command.threads)
    started = time.monotonic()
    results = frontier(
        command.model, command.units, prior=command.prior, photos=command.photos, nats=command.nats, n=command.n,
        methods=[_configured(command, name.strip()) for name in command.methods.split(",") if name.strip()],
        bank=command.bank, bank_seed=command.bank_seed, particles=command.particles, islands=command.islands,
        reduction=command.reduction,
        verifiers=command.verifiers, out=command.out, seed=command.seed, batch_size=command.batch_size,
        device=command.device,
    )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    for result in results:
        label = f" ({result.record['label']})" if result.record["label"] else ""
        table = Table(*HEADINGS, box=None, title=f"{result.unit}{label}", title_justify="left")
        for row in result.table():
            table.add_row(*row)
        console.print(table, highlight=False, markup=False)
        for line in [*result.record["notes"], *(f"failed: {reason}" for reason in result.failures)]:
            print(line)
    folder = results[0].folder
    print(
        f"{folder}, {time.monotonic() - started:.0f} s; nats are KL divergences from {results[0].record['prior']['name']}"
    )
    if any((folder.parent / "pictures").glob("*/*.json")):
        print(f"look at {build(folder.parent)}")
    return 2 if any(result.failures for result in results) else 0


def _invert(command: Invert) -> int:
    from entoptic.gallery.site import build
    from entoptic.runs.inversion_plan import METHOD
    from entoptic.runs.invert import invert
    from entoptic.runs.set_evidence import SET_FILE
    from entoptic.runs.store import headline

    _use_threads(command.threads)
    started = time.monotonic()
    run = invert(
        command.model, command.layer, command.photos, n=command.n, inverter=command.inverter, prior=command.prior,
        mix=command.mix, weights=command.weights, mixing=command.mixing, paste=command.paste, region=command.region,
        seed=command.seed, out=command.out, verifiers=command.verifiers, batch_size=command.batch_size,
        device=command.device, context=command.context, **dataclasses.asdict(command.sampling),
    )  # fmt: skip
    for picture in run:
        if picture.method == METHOD and picture.record["layer"] == command.layer:
            print(f"{picture.path}  {picture.unit}: {'; '.join(headline(picture.record))}")
    if (run.path / SET_FILE).is_file():
        print(f"{run.path / SET_FILE}: all pictures together")
    print(f"{len(run)} pictures in {run.path}, {time.monotonic() - started:.0f} s; look at {build(run.path)}")
    return 2 if run.failures else 0


def _steer(command: Steer) -> int:
    from entoptic.gallery.site import build
    from entoptic.runs.steer import steer

    _use_threads(command.threads)
    started = time.monotonic()
    run = steer(
        command.model, command.layer, list(command.photo), dictionary=command.dictionary, class_name=command.class_name,
        class_photos=command.photos, concepts=command.concept, discover=command.concepts, inverter=command.inverter,
        prior=command.prior, config=command.steer, out=command.out, device=command.device, context=command.context,
    )  # fmt: skip
    for picture in run:
        known = {name: e["value"] for name, e in picture.evidence.items()}
        told = [f"p {known['effect_p']:.3g}"] if known.get("effect_p") is not None else []
        told += [f"{100 * known['affected_area']:.0f} % of the picture affected"] if "affected_area" in known else []
        if known.get("attenuation") is not None:
            told.append(f"{known['attenuation']:.2f} of the concept left, {picture.record['config']['scale']:g} asked")
        print(f"{picture.path}  {picture.record['label']}: {', '.join(told)}")
    print(f"{len(run)} pictures in {run.path}, {time.monotonic() - started:.0f} s; look at {build(run.path)}")
    return 2 if run.failures else 0


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
    from entoptic.base.progress import reporter
    from entoptic.runs.verify import verify

    with reporter() as report:
        found = verify(
            command.run,
            photos=command.photos,
            prior=command.prior,
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


_VERBS: dict[type, Any] = {
    Ls: _ls,
    See: _see,
    Frontier: _frontier,
    Invert: _invert,
    Steer: _steer,
    Verify: _verify,
    Gallery: _gallery,
    Check: _check,
    Index: _index,
    Merge: _merge,
    Learn: _learn,
    LearnInverter: _learn_inverter,
}


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
