"""`entoptic ls`: what there is to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from entoptic.base.files import user_path
from entoptic.cli.options import Debug, Device
from entoptic.cli.output import counted, print_losses, table_console
from entoptic.methods import METHODS

if TYPE_CHECKING:
    from entoptic.images.index import ActivationIndex
    from entoptic.models.model import Model


@dataclass(frozen=True, kw_only=True)
class Ls:
    """List what a model or an activation index holds: layers, the units of one layer, the photos of one unit."""

    model: Positional[str] = ""
    """SOURCE:NAME, for instance builtin:lite0, or the folder of an index; nothing lists sources and methods."""
    layer: Positional[str] = ""
    """a layer whose units are listed; of an index also a unit, such as blocks.6:112"""
    device: Device = "auto"
    debug: Debug = False


def run_ls(options: Ls) -> int:
    """Runs `entoptic ls`; returns the exit code."""
    if not options.model:
        _list_sources_and_methods()
    elif (user_path(options.model) / "index.json").is_file():
        _list_index(options.model, options.layer)
    else:
        from entoptic.models.sources import load

        model = load(options.model, device=options.device)
        if options.layer:
            _list_units(model, options.layer)
        else:
            _list_layers(model)
    return 0


def _list_sources_and_methods() -> None:
    from rich.table import Table

    from entoptic.models.sources import BUILTIN, SOURCES

    console = table_console()
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


def _list_layers(model: Model) -> None:
    from rich.table import Table

    console = table_console()
    console.print(repr(model), highlight=False, soft_wrap=True)
    table = Table("layer", "kind", "units", "grid", box=None)
    for info in [*model.layers.values(), model.layer("logits")]:
        table.add_row(
            info.name,
            info.kind,
            str(info.channels),
            "" if info.grid == (1, 1) else _positions(info.grid, info.patches),
        )
    console.print(table)


def _list_units(model: Model, layer: str) -> None:
    console = table_console()
    info = model.layer(layer)
    grid = "" if info.grid == (1, 1) else f", {_positions(info.grid, info.patches)} positions"
    tail = f", ends in {info.activation} (@….pre reads before it)" if info.activation else ""
    console.print(
        f"{info.name}: {info.kind}, {counted(info.channels, 'unit')}{grid}{tail}",
        highlight=False,
        soft_wrap=True,
    )
    if layer == "logits" and model.card.labels:
        for index in range(info.channels):
            print(f"logits:{index}\t{model.card.label(index)}")
    else:
        console.print(f"{info.name}:0 … {info.name}:{info.channels - 1}", highlight=False, markup=False)


def _positions(grid: tuple[int, int], patches: tuple[int, int, int] | None) -> str:
    """`14×14` of a map, `1+16×16` of a class token and patches, `50×1` of tokens that lie nowhere."""
    prefix, rows, columns = patches or (0, *grid)
    return f"{prefix}+{rows}×{columns}" if prefix else f"{rows}×{columns}"


def _list_index(folder: str, asked: str) -> None:
    from entoptic.images.index import ActivationIndex

    index = ActivationIndex.open(folder)
    if ":" in asked:
        _list_photos(index, asked)
    elif asked:
        _list_indexed_units(index, asked)
    else:
        _list_indexed_layers(index)


def _list_photos(index: ActivationIndex, unit: str) -> None:
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    moments = index.moments(unit)
    console.print(
        f"{unit}: mean {moments.mean:.6g}, sd {moments.variance**0.5:.6g} on {counted(moments.n, 'photo')}, "
        f"above 0 on {100 * index.firing_rate(unit):.1f} %",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for end, hits in (("strongest", index.top(unit)), ("weakest", index.bottom(unit))):
        table = Table("rank", "value", "row", "column", end, box=None)
        for hit in hits:
            table.add_row(
                str(hit.rank),
                f"{hit.value:.6g}",
                str(hit.row),
                str(hit.column),
                Text(hit.photo),
            )
        console.print(table)


def _list_indexed_units(index: ActivationIndex, layer: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("unit", "mean", "sd", "above 0", "strongest", "photo", box=None)
    for unit in index.units(layer):
        moments, hits = index.moments(unit), index.top(unit, 1)
        value, photo = (f"{hits[0].value:.6g}", hits[0].photo) if hits else ("", "")
        table.add_row(
            unit,
            f"{moments.mean:.6g}",
            f"{moments.variance**0.5:.6g}",
            f"{100 * index.firing_rate(unit):.1f} %",
            value,
            Text(photo),
        )
    table_console().print(table)


def _list_indexed_layers(index: ActivationIndex) -> None:
    from rich.table import Table

    console = table_console()
    console.print(repr(index), highlight=False, markup=False, soft_wrap=True)
    print_losses(index)
    table = Table("layer", "units", box=None)
    for layer in index.layers:
        units = index.units(layer)
        table.add_row(layer, f"{len(units)} ({units[0]} … {units[-1]})")
    console.print(table)
