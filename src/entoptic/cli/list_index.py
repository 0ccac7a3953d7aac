"""What `entoptic ls INDEX` shows: the layers, the units of a layer, the photos of a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entoptic.cli.output import print_losses, table_console
from entoptic.errors import UserError, counted, instead

if TYPE_CHECKING:
    from entoptic.images.index import ActivationIndex


def list_index(folder: str, asked: str, wanted: str | None = None) -> None:
    """Prints what an activation index holds.

    Args:
        folder: of the index.
        asked: "" for its layers, a layer for its units, a unit for its photos.
        wanted: part of the names of layers; None for all.
    """
    from entoptic.images.index import ActivationIndex

    index = ActivationIndex.open(folder)
    if ":" in asked:
        _list_photos(index, asked)
    elif asked:
        _list_indexed_units(index, asked)
    else:
        _list_indexed_layers(index, wanted)


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


def _list_indexed_layers(index: ActivationIndex, wanted: str | None) -> None:
    from rich.table import Table

    layers = [layer for layer in index.layers if wanted is None or wanted.lower() in layer.lower()]
    if not layers:
        raise UserError(
            f'no layer fits --filter "{(wanted or "")[:80]}" in {index.path}{instead(wanted or "", index.layers)}'
        )
    console = table_console()
    console.print(repr(index), highlight=False, markup=False, soft_wrap=True)
    print_losses(index)
    table = Table("layer", "units", box=None)
    for layer in layers:
        units = index.units(layer)
        table.add_row(layer, f"{len(units)} ({units[0]} … {units[-1]})")
    console.print(table)
