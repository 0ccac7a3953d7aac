"""What `entoptic ls MODEL` shows: its layers in outline, the units of one layer, labels."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING

from entoptic.cli.output import table_console
from entoptic.errors import NotAvailable, UserError, counted, nearest
from entoptic.units.grammar import quoted_layer
from entoptic.units.near_labels import nearest_label

if TYPE_CHECKING:
    from entoptic.models.model import Model

OUTLINE = 40
"""Rows that an outline has at most, where its first level does not have more."""


def list_layers(model: Model, wanted: str | None, everything: bool) -> None:
    """Prints the layers of a model.

    Args:
        model: the network.
        wanted: part of a name, a pattern with `*`, or the name of a part, whose layers are all listed; None for the outline.
        everything: whether all layers are listed.

    Raises:
        UserError: no layer is called so, with the nearest.
    """
    names = list(model.layers)
    if wanted is not None:
        shown = _matching(model, wanted)
    elif everything or len(names) <= OUTLINE:
        shown = names
    else:
        shown = _outline(names)
    table_console().print(repr(model), highlight=False, soft_wrap=True)
    _print_layers(model, shown, with_logits=wanted is None)
    hidden = len(names) - sum(name in model.layers for name in shown)
    if wanted is None and hidden:
        part = max(shown, key=lambda name: _hidden(name, shown, names))
        print(
            f"\n{counted(hidden, 'layer')} more inside of these: --filter {part} lists those of a part, --all lists all; "
            f"`entoptic ls {model.card.name} LAYER` lists units"
        )


def list_units(model: Model, layer: str) -> None:
    """Prints the units of one layer, or the units that a string in the unit grammar names."""
    if ":" in layer:
        _list_bound(model, layer)
        return
    console = table_console()
    info = model.layer(layer)
    grid = "" if info.grid == (1, 1) else f", {positions(info.grid, info.patches)} positions"
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
        name = quoted_layer(info.name)
        console.print(f"{name}:0 … {name}:{info.channels - 1}", highlight=False, markup=False)


def find_units(model: Model, text: str) -> None:
    """Prints the logits whose labels hold a text.

    Raises:
        UserError: the model has no labels, or none holds it, with the nearest.
    """
    card = model.card
    if card.labels is None:
        raise NotAvailable(f"{card.name} has no labels; its logits are logits:0 to logits:{model.outputs - 1}")
    low = text.strip().lower()
    inside = [i for i, label in enumerate(card.labels) if low in label.lower()]
    found = dict.fromkeys([*card.find_label(text), *inside])
    if not found or not low:
        raise UserError(f'no label "{text[:80]}" in {card.name}{nearest_label(text, card.labels)}')
    for index in found:
        print(f"logits:{index}\t{card.label(index)}")


def positions(grid: tuple[int, int], patches: tuple[int, int, int] | None) -> str:
    """Returns `14×14` of a map, `1+16×16` of a class token and patches, `50×1` of tokens that lie nowhere."""
    prefix, rows, columns = patches or (0, *grid)
    return f"{prefix}+{rows}×{columns}" if prefix else f"{rows}×{columns}"


def _list_bound(model: Model, text: str) -> None:
    from entoptic.units.unit import bind

    for unit in bind(model, text):
        print("\t".join(part for part in (str(unit), unit.label or "", f"{unit.kind}, read by {unit.readout}") if part))


def _matching(model: Model, wanted: str) -> list[str]:
    names = list(model.layers)
    inside = [name for name in names if name == wanted or name.startswith(f"{wanted}.")]
    found = inside or [name for name in names if fnmatch.fnmatchcase(name, wanted)]
    found = found or [name for name in names if wanted.lower() in name.lower()]
    if not found or not wanted:
        parts = {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}
        raise UserError(f'no layer fits --filter "{wanted[:80]}" in {model.card.name}{nearest(wanted, sorted(parts))}')
    return found


def _outline(names: Iterable[str]) -> list[str]:
    """Parts of a network down to the depth at which they still fit a screen, each before what is inside of it."""
    parts: dict[str, int] = {}
    for name in names:
        words = name.split(".")
        for depth in range(1, len(words) + 1):
            parts.setdefault(".".join(words[:depth]), depth)
    deepest = 1
    while sum(depth <= deepest + 1 for depth in parts.values()) <= OUTLINE and deepest < max(parts.values()):
        deepest += 1
    children: dict[str, list[str]] = {}
    for part, depth in parts.items():
        if depth <= deepest:
            children.setdefault(part.rpartition(".")[0], []).append(part)

    def below(part: str) -> list[str]:
        return [row for child in children.get(part, []) for row in (child, *below(child))]

    return below("")


def _hidden(part: str, shown: Iterable[str], names: Iterable[str]) -> int:
    """How many layers are inside of a part of which nothing is shown."""
    if any(name.startswith(f"{part}.") for name in shown):
        return 0
    return sum(name.startswith(f"{part}.") for name in names)


def _print_layers(model: Model, names: Iterable[str], with_logits: bool) -> None:
    from rich.table import Table

    shown = list(names)
    table = Table("layer", "kind", "units", "grid", "inside", box=None)
    for name in shown:
        within = _hidden(name, shown, model.layers)
        inside = counted(within, "layer") if within else ""
        info = model.layers.get(name)
        if info is None:  # a list of modules: it is no layer itself
            table.add_row(name, "", "", "", inside)
            continue
        grid = "" if info.grid == (1, 1) else positions(info.grid, info.patches)
        table.add_row(name, info.kind, str(info.channels), grid, inside)
    if with_logits and not model.why_no_logits:
        info = model.layer("logits")
        table.add_row("logits", info.kind, str(info.channels), "", "")
    table_console().print(table)
