"""Steering on the edges of a circuit: what the edges carry along a direction is taken out, and nothing else changes (Vi-CD).

On each kept edge from u to r, and at each position p, with v̂ the direction that u writes (see `what_is_written`),

    x_r[p] ← x_r[p] - α · ReLU(⟨y_u[p], v̂⟩) · v̂ .

The ReLU leaves positions alone that point the other way; to subtract there would push them further along.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Cost
from entoptic.circuits.written import Written, layout_of
from entoptic.errors import UserError


@torch.no_grad()
def run_steered(
    graph: CircuitGraph,
    images: Tensor,
    kept: Tensor,
    written: Sequence[Written],
    alpha: float,
    cost: Cost | None = None,
) -> Tensor:
    """Runs pictures with the edges of a circuit steered.

    Args:
        graph: of the network.
        images: B×3×H×W in [0, 1] of the input size.
        kept: one truth value for each edge: those that are steered.
        written: directions of their senders; edges from others are left alone.
        alpha: share of the projection that is taken out; 0 changes nothing.
        cost: counts the receivers that run.

    Returns:
        What the unit is read from, B×C×D.

    Raises:
        UserError: alpha is below 0.
    """
    if alpha < 0:
        raise UserError(
            f"alpha must be at least 0, got {alpha}; 0 changes nothing and 1 takes all of the direction out"
        )
    directions = {one.sender: one.direction for one in written}
    stream = graph.chain.stem(images.to(graph.model.device))
    taken: dict[int, Tensor] = {}

    def note(sender: int, values: Tensor) -> None:
        if sender in directions:
            taken[sender] = alpha * _along(values, directions[sender], layout_of(graph, sender))

    note(0, stream)
    for receiver in range(graph.output + 1):
        own = stream.clone()
        for number in graph.into(receiver):
            sender = graph.edges[number].sender
            if kept[number] and sender in taken:
                own -= taken[sender]
        parts = graph.compute(receiver, own)
        if cost is not None:
            cost.add(receiver, len(images))
        if receiver == graph.output:
            return parts[0]
        for sender, part in zip(graph.of_stage(receiver), parts):
            note(sender, part)
        added = torch.stack(parts).sum(0)
        stream = stream + added if graph.stages[receiver].adds else added
    raise AssertionError("the output is a receiver")


def _along(values: Tensor, direction: Tensor, layout: str) -> Tensor:
    """ReLU(⟨y[p], v̂⟩)·v̂ at each position, in the shape of the values."""
    axis = -1 if layout in ("BTC", "BHWC") else 1
    last = values.movedim(axis, -1)
    unit = direction.to(last)
    return ((last @ unit).relu()[..., None] * unit).movedim(-1, axis)
