"""What the nodes of a circuit write: a direction for each, and how far each photo is written along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Pair
from entoptic.models.taps import channels_first


@dataclass(frozen=True, kw_only=True)
class Written:
    """What one node writes.

    Attributes:
        sender: its number.
        direction: C, of length 1: mean over photos and positions of what it writes in clean less corrupted photos.
        layer: whose channels these are; "" for the embedding.
    """

    sender: int
    direction: Tensor = field(repr=False)
    layer: str


@torch.no_grad()
def what_is_written(graph: CircuitGraph, pairs: Sequence[Pair], senders: Sequence[int]) -> list[Written]:
    """Finds the direction that each node writes on photos of the unit.

    Args:
        graph: of the network.
        pairs: the photos.
        senders: nodes; those that write the same on clean and corrupted photos are left out.
    """
    found = []
    for sender in senders:
        layout = layout_of(graph, sender)
        changes = [channels_first(pair.delta[sender], layout).float().sum((0, 2)).cpu() for pair in pairs]
        direction = torch.stack(changes).double().sum(0)
        if float(length := direction.norm()) > 0:
            unit = (direction / length).float()
            found.append(Written(sender=sender, direction=unit, layer=graph.senders[sender].layer))
    return found


@torch.no_grad()
def written_along(graph: CircuitGraph, pair: Pair, written: Sequence[Written]) -> Tensor:
    """Returns how far nodes write along their directions on clean photos, mean over positions: B×S."""
    columns = []
    for one in written:
        own = channels_first(pair.delta[one.sender] + pair.corrupted[one.sender], layout_of(graph, one.sender))
        columns.append(own.float().mean(2).cpu() @ one.direction)
    return torch.stack(columns, dim=1) if columns else torch.zeros(len(pair), 0)


def layout_of(graph: CircuitGraph, sender: int) -> str:
    """The layout of what a node writes; the embedding's is that of what the first block puts out."""
    info = graph.model.layers.get(graph.senders[sender].layer or graph.chain.links[0].last)
    return info.layout if info is not None else "BCHW"
