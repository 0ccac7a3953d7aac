"""Patched forward passes: each receiver's input is the sum of what its kept senders write in this run and its cut senders wrote
in the corrupted run.

With base x̃_r, the input of receiver r in the corrupted run, and δ_u = (what u writes now) - (what it wrote there),

    x_r = x̃_r + Σ_{u → r kept} δ_u .

What both runs share (biases, for instance) cancels. Where nothing that is kept leads into a receiver, it is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from entoptic.circuits.graph import CircuitGraph

BACKWARD = 2
"""What a backward pass costs, in forward passes."""


@dataclass
class Cost:
    """What was computed, counted as it is.

    Attributes:
        graph: of which receivers run.
        flops: floating-point operations so far.
    """

    graph: CircuitGraph = field(repr=False)
    flops: int = 0

    def add(self, receiver: int, pictures: int, times: int = 1) -> None:
        """Counts one receiver, run on some pictures."""
        self.flops += self.graph.flops[receiver] * pictures * times

    @property
    def passes(self) -> float:
        """The same in forward passes of one picture through the whole graph."""
        return self.flops / max(sum(self.graph.flops), 1)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run without patches.

    Attributes:
        written: what each sender wrote, B×….
        inputs: of each receiver, the output's last.
        values: what the unit is read from, B×C×D.
    """

    written: list[Tensor] = field(repr=False)
    inputs: list[Tensor] = field(repr=False)
    values: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A clean and a corrupted run of the same pictures.

    Attributes:
        corrupted: what each sender wrote in the corrupted run.
        delta: what it wrote in the clean run, less that.
        base: input of each receiver in the corrupted run.
        clean_values: what the unit is read from in the clean run.
        corrupted_values: and in the corrupted one.
    """

    corrupted: list[Tensor] = field(repr=False)
    delta: list[Tensor] = field(repr=False)
    base: list[Tensor] = field(repr=False)
    clean_values: Tensor = field(repr=False)
    corrupted_values: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.clean_values)

    def select(self, rows: Tensor) -> Pair:
        """Returns the same for some of the pictures."""
        return Pair(
            corrupted=[t[rows] for t in self.corrupted], delta=[t[rows] for t in self.delta],
            base=[t[rows] for t in self.base], clean_values=self.clean_values[rows],
            corrupted_values=self.corrupted_values[rows],
        )  # fmt: skip


def record(graph: CircuitGraph, embedding: Tensor, cost: Cost | None = None) -> Recording:
    """Runs the network from the embedding on and keeps what each node writes and reads.

    Args:
        graph: of the network.
        embedding: what the first block is given.
        cost: counts the receivers that run.
    """
    written, inputs, stream = [embedding], [], embedding
    for number, stage in enumerate(graph.stages):
        own = stream.clone()  # apart from what goes on beside the stage, so that gradients of the two can be told
        inputs.append(own)
        parts = graph.compute(number, own)
        written += parts
        added = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        stream = stream + added if stage.adds else added
    inputs.append(stream.clone())
    (values,) = graph.compute(graph.output, inputs[-1])
    if cost is not None:
        for number in range(graph.output + 1):
            cost.add(number, len(embedding))
    return Recording(written=written, inputs=inputs, values=values)


@torch.no_grad()
def make_pair(graph: CircuitGraph, clean: Tensor, corrupted: Tensor, cost: Cost | None = None) -> Pair:
    """Runs pictures and their corrupted twins.

    Args:
        graph: of the network.
        clean: B×3×H×W in [0, 1] of the input size.
        corrupted: their twins.
        cost: counts the receivers that run.
    """
    one, other = (record(graph, graph.chain.stem(images), cost) for images in (clean, corrupted))
    return Pair(
        corrupted=other.written, delta=[a - b for a, b in zip(one.written, other.written)], base=other.inputs,
        clean_values=one.values, corrupted_values=other.values,
    )  # fmt: skip


@torch.no_grad()
def run_patched(graph: CircuitGraph, pair: Pair, kept_KE: Tensor, cost: Cost | None = None) -> Tensor:
    """Runs several circuits at once.

    Args:
        graph: of the network.
        pair: the clean and the corrupted run.
        kept_KE: K×E, which edges each circuit keeps.
        cost: counts the receivers that run.

    Returns:
        What the unit is read from, K×B×C×D.
    """
    many, count = len(kept_KE), len(pair)
    kept_KE = torch.stack([graph.prune(kept) for kept in kept_KE])
    delta: dict[int, Tensor] = {0: pair.delta[0].expand(many, *pair.delta[0].shape)}
    for receiver in range(graph.output + 1):
        live = [n for n in graph.into(receiver) if graph.edges[n].sender in delta and bool(kept_KE[:, n].any())]
        if not live:
            continue
        stream = pair.base[receiver].expand(many, *pair.base[receiver].shape)
        for number in live:
            change, keeps = delta[graph.edges[number].sender], kept_KE[:, number].to(stream.device)
            if not bool(keeps.all()):
                change = change * keeps.view(many, *[1] * (change.ndim - 1))
            stream = stream + change
        parts = graph.compute(receiver, stream.flatten(0, 1))
        if cost is not None:
            cost.add(receiver, many * count)
        if receiver == graph.output:
            return parts[0].unflatten(0, (many, count))
        for sender, part in zip(graph.of_stage(receiver), parts):
            delta[sender] = part.unflatten(0, (many, count)) - pair.corrupted[sender]
    return pair.corrupted_values.expand(many, *pair.corrupted_values.shape)


def memory_of(graph: CircuitGraph, pictures: int) -> int:
    """Returns the bytes of the activations that a pair of runs keeps for some pictures."""
    size = graph.model.card.size
    with torch.no_grad():
        run = record(graph, graph.chain.stem(torch.full((1, 3, *size), 0.5, device=graph.model.device)))
    return pictures * (2 * _bytes(run.written) + _bytes(run.inputs))


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
