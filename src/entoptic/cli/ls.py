"""`entoptic ls`: what there is to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.base.files import file_exists, folder_exists, paths_in, user_path
from entoptic.cli.list_known import LISTS, MODELS, list_all
from entoptic.cli.options import Debug, Device
from entoptic.errors import UserError, nearest
from entoptic.runs.hint_of_runs import hint_of_runs


@dataclass(frozen=True, kw_only=True)
class Ls:
    """List what there is: models and methods, the layers and units of a model, the pictures of a run, the photos of an index."""

    title: ClassVar[str] = "list what there is: models, methods, layers, units, runs"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic ls",
        "entoptic ls builtin:lite0 --filter blocks.4",
        "entoptic ls builtin:lite0 blocks.4",
        "entoptic ls builtin:lite0 --units church",
        "entoptic ls runs/first",
        "entoptic ls runs/index bn2:112",
    )

    model: Positional[Annotated[str, arg(metavar="WHAT")]] = ""
    """a model (SOURCE:NAME), the folder of a run or an index, or one of the words models, priors, inverters, methods,
    metrics; nothing lists all but metrics"""
    layer: Positional[Annotated[str, arg(metavar="LAYER")]] = ""
    """of a model or an index: a layer, whose units are listed, or a unit such as blocks.6:112"""
    filter: Annotated[str | None, arg(metavar="TEXT")] = None
    """only layers of this part of a model, or with this text in their names (* stands for anything); of a run, only
    units with it"""
    all: bool = False
    """every layer of a model, every unit of a run"""
    units: Annotated[str | None, arg(metavar="TEXT")] = None
    """only the logits of a model whose labels hold this text"""
    device: Device = "auto"
    debug: Debug = False


def run_ls(options: Ls) -> int:
    """Runs `entoptic ls`; returns the exit code."""
    what = options.model
    if not what:
        list_all()
        return 0
    folder = user_path(what)
    if file_exists(folder / "index.json"):
        from entoptic.cli.list_index import list_index

        _refuse_units(options, "an index")
        list_index(what, options.layer, options.filter)
    elif file_exists(folder / "run.json"):
        from entoptic.cli.list_run import list_run

        _refuse_units(options, "a run")
        if options.layer:
            raise UserError(
                f"{what} is a run, which has units, not layers; --filter {options.layer} lists some of them"
            )
        list_run(what, options.filter, options.all)
    elif what in LISTS:
        if more := options.layer or options.filter or options.units:
            raise UserError(f'"{more[:80]}" is too much: `entoptic ls {what}` lists all of them')
        LISTS[what]()
    else:
        _check_named(what, folder)
        _list_model(options)
    return 0


def _list_model(options: Ls) -> None:
    from entoptic.cli.list_model import find_units, list_layers, list_units
    from entoptic.models.sources import load

    model = load(options.model, device=options.device)
    if options.units is not None:
        find_units(model, options.units)
    elif options.layer:
        list_units(model, options.layer)
    else:
        list_layers(model, options.filter, options.all)


def _refuse_units(options: Ls, what: str) -> None:
    if options.units is not None:
        raise UserError(
            f"--units is for a model, and {options.model} is {what}; --filter {options.units} lists some of it"
        )


def _check_named(what: str, folder: Path) -> None:
    """Refuses what is neither a model's name nor a folder that can be listed.

    Raises:
        UserError: with the nearest word, model or folder.
    """
    if ":" in what:
        return
    if folder_exists(folder):
        around = hint_of_runs(what, ("run.json", "index.json"))
        raise UserError(f"{what} is neither a run nor an index (it has no run.json and no index.json){around}")
    builtin = [name for name in MODELS if name.startswith("builtin:")]
    if near := [name for name in builtin if what == name.partition(":")[2]]:
        raise UserError(f'"{what}" is written SOURCE:NAME; did you mean {near[0]}?')
    beside = [str(p.parent) for kind in ("run", "index") for p in paths_in(folder.parent, f"*/{kind}.json")]
    hint = nearest(what, [*LISTS, *builtin, *beside])
    raise UserError(f'there is no folder "{what}", and a model is SOURCE:NAME such as builtin:lite0{hint}')
