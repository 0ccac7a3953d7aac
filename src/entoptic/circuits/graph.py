"""`CircuitGraph`: the nodes and edges of a network's residual stream, read off the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from entoptic.circuits.chain import Chain
from entoptic.circuits.stages import Stage, block_stages, check_heads, has_attention, head_stages
from entoptic.errors import UserError, nearest
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Taps, channels_first
from entoptic.units.unit import Unit

NODES = ("auto", "heads", "blocks")
EMBEDDING, OUTPUT = "embedding", "output"


@dataclass(frozen=True, kw_only=True)
class Sender:
    """A node: what writes into the stream.

    Attributes:
        name: of the node.
        stage: number of the stage that computes it, -1 for the embedding.
        kind: "embedding", "head", "mlp", "block", "group" or "layer".
        layer: module after which the stream holds what it writes; "" for the embedding.
    """

    name: str
    stage: int
    kind: str
    layer: str


@dataclass(frozen=True)
class Edge:
    """From what writes to what reads.

    Attributes:
        sender: number of a sender.
        receiver: number of a stage; the last one is the output.
    """

    sender: int
    receiver: int


@dataclass(frozen=True, kw_only=True)
class CircuitGraph:
    """Nodes and edges of one network up to one unit.

    Attributes:
        chain: the network's blocks.
        unit: what the circuit is of.
        stages: the receivers but for the output, in the order in which they run.
        senders: the embedding, then what each stage adds.
        edges: ordered by receiver, then by sender.
        nodes: "heads" or "blocks".
        groups: senders of each block.
    """

    chain: Chain = field(repr=False)
    unit: Unit
    stages: tuple[Stage, ...]
    senders: tuple[Sender, ...]
    edges: tuple[Edge, ...] = field(repr=False)
    nodes: str
    groups: int
    _of_stage: tuple[tuple[int, ...], ...] = field(repr=False)
    _readout: Stage | None = field(repr=False)
    _is_stream: bool = field(repr=False)

    @property
    def model(self) -> Model:
        """The network."""
        return self.chain.model

    @property
    def output(self) -> int:
        """Number of the output among the receivers."""
        return len(self.stages)

    @property
    def target(self) -> int | None:
        """The class, for a logit; None for any other unit."""
        return self.unit.index if self.unit.layer == LOGITS and self.unit.direction is None else None

    def of_stage(self, stage: int) -> tuple[int, ...]:
        """Returns the numbers of the senders that a stage computes; -1 is the embedding's."""
        return self._of_stage[stage + 1]

    def into(self, receiver: int) -> tuple[int, ...]:
        """Returns the numbers of the edges that lead into a receiver."""
        return self._into[receiver]

    @cached_property
    def _into(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in range(len(self.stages) + 1)]
        for number, edge in enumerate(self.edges):
            found[edge.receiver].append(number)
        return tuple(tuple(numbers) for numbers in found)

    def receiver_name(self, receiver: int) -> str:
        """Returns the name of a receiver."""
        return OUTPUT if receiver == self.output else self.stages[receiver].name

    def edge_name(self, number: int) -> str:
        """Returns `SENDER -> RECEIVER`."""
        edge = self.edges[number]
        return f"{self.senders[edge.sender].name} -> {self.receiver_name(edge.receiver)}"

    def compute(self, receiver: int, stream: Tensor) -> list[Tensor]:
        """Computes what the senders of a stage write for an input; for the output, what the unit is read from (B×C×D)."""
        if receiver == self.output:
            return [self._read(stream)]
        with self.model.frozen():
            return self.stages[receiver].compute(stream)

    def score(self, values_BCD: Tensor) -> Tensor:
        """Returns the unit's score for each picture from what the output computed."""
        return self.unit.read(values_BCD)

    def _read(self, stream: Tensor) -> Tensor:
        unit = self.unit
        if unit.layer == LOGITS:
            return self.chain.tail(stream)[:, :, None]
        info = self.model.layer(unit.layer)
        if self._is_stream:
            return channels_first(stream.clone(), info.layout).float()
        with self.model.frozen(), Taps(self.model.module, [unit.tap], self.model.layers, stop=False) as taps:
            if self._readout is None:
                self.chain.tail(stream)
            else:
                self._readout.compute(stream)
        return channels_first(taps.values[unit.tap], info.layout).float()

    def prune(self, kept: Tensor) -> Tensor:
        """Takes out edges that lie on no kept path from the embedding to the output: they have no effect.

        Args:
            kept: one truth value for each edge.
        """
        live = [bool(one) for one in kept.tolist()]  # a list: single elements of a tensor are slow
        forward, backward = set(self.of_stage(-1)), {self.output}
        for receiver in range(len(self.stages) + 1):
            for number in self.into(receiver):
                live[number] = live[number] and self.edges[number].sender in forward
            if receiver < self.output and any(live[number] for number in self.into(receiver)):
                forward.update(self.of_stage(receiver))
        for receiver in range(len(self.stages), -1, -1):
            for number in self.into(receiver):
                live[number] = live[number] and receiver in backward
                if live[number]:
                    backward.add(self.senders[self.edges[number].sender].stage)
        return torch.tensor(live, dtype=torch.bool, device=kept.device)

    @cached_property
    def flops(self) -> tuple[int, ...]:
        """Floating-point operations of each receiver for one picture, counted once; matrix products and convolutions count."""
        size = self.model.card.size
        counts = []
        with torch.no_grad():
            stream = self.chain.stem(torch.full((1, 3, *size), 0.5, device=self.model.device))
            for number, stage in enumerate(self.stages):
                with FlopCounterMode(display=False) as counter:
                    parts = self.compute(number, stream)
                counts.append(int(counter.get_total_flops()))
                stream = (stream if stage.adds else 0) + sum(parts)  # type: ignore[assignment]
            with FlopCounterMode(display=False) as counter:
                self.compute(self.output, stream)
            counts.append(int(counter.get_total_flops()))
        return tuple(counts)


def read_graph(model: Model, unit: Unit, *, nodes: str = "auto", groups: int = 1) -> CircuitGraph:
    """Reads the graph of a network up to a unit.

    Args:
        model: the network.
        unit: of this network.
        nodes: "heads" (attention heads and MLPs of a vision transformer), "blocks" (whole blocks, or layers of a plain
            chain), or "auto": heads where the blocks have attention.
        groups: parts into which each block's channels are split as senders; only with blocks.

    Raises:
        UserError: the graph cannot be read, with the module that broke it; or the unit lies before every node.
    """
    if nodes not in NODES:
        raise UserError(f'no kind of nodes "{nodes}"; expected {", ".join(NODES)}{nearest(nodes, NODES)}')
    chain = Chain(model)
    if nodes == "auto":
        nodes = "heads" if any(has_attention(chain, link.name) for link in chain.links) else "blocks"
    if nodes == "heads" and groups > 1:
        raise UserError(f"--groups {groups} splits blocks; the nodes here are attention heads (--nodes blocks)")
    all_stages = head_stages(chain) if nodes == "heads" else block_stages(chain, groups)
    with torch.no_grad():
        _check(chain, all_stages, nodes)
    return _connect(chain, unit, _up_to(model, chain, all_stages, unit), nodes, groups)


def _check(chain: Chain, stages: Sequence[Stage], nodes: str) -> None:
    """Checks that the whole graph computes what the network computes, on noise."""
    model, draw = chain.model, torch.Generator().manual_seed(0)
    noise = torch.rand((2, 3, *model.card.size), generator=draw).to(model.device)
    logits = None if model.why_no_logits else model(noise)
    try:
        with model.frozen():
            stream = chain.stem(noise)
            if nodes == "heads":
                check_heads(chain, list(stages), stream)
            for stage in stages:
                stream = (stream if stage.adds else 0) + sum(stage.compute(stream))  # type: ignore[assignment]
            found = None if logits is None else chain.tail(stream)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(_unread(chain)) from error
    if logits is None or found is None:
        return
    same = found.shape == logits.shape
    if not same or not torch.allclose(found, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise UserError(_unread(chain))


def _unread(chain: Chain) -> str:
    first, last = chain.links[0].name, chain.links[-1].last
    return (
        f"{chain.model.card.name}: what runs around its blocks ({first} to {last}) depends on more than their input and "
        f"output, so its circuit cannot be read{f'; {chain.odd}' if chain.odd else ''}"
    )


@dataclass(frozen=True)
class _End:
    """Where a graph ends: its stages, the stage inside of which the unit is read, and whether it is read off the stream."""

    stages: list[Stage]
    readout: Stage | None = None
    is_stream: bool = False


def _up_to(model: Model, chain: Chain, stages: list[Stage], unit: Unit) -> _End:
    """Finds what a unit depends on."""
    layer = unit.layer
    if layer == LOGITS:
        return _End(stages)
    for number, stage in reversed(list(enumerate(stages))):
        if stage.layer == layer or (stage.layer.startswith(f"{layer}.") and _alike(model, stage.layer, layer)):
            return _End(stages[:number], stage) if unit.tap.pre else _End(stages[: number + 1], is_stream=True)
    for number, stage in enumerate(stages):
        if any(layer == name or layer.startswith(f"{name}.") for name in stage.inside):
            return _End(stages[:number], stage)
    order, last = model.layer(layer).order, model.layer(chain.links[-1].last).order
    if order > last and not any(layer.startswith(f"{link.name}.") for link in chain.links):
        return _End(stages)
    raise UserError(
        f"{unit}: {layer} lies in no receiver of the graph, or before the first ({stages[0].name}); name a layer from "
        f"{stages[0].layer} on, or logits:N"
    )


def _alike(model: Model, inner: str, outer: str) -> bool:
    """Whether a row of blocks puts out what its last block does: nothing but the row itself ends between the two."""
    if inner not in model.layers or outer not in model.layers:
        return False
    one, other = model.layers[inner], model.layers[outer]
    between = [i.name for i in model.layers.values() if one.order < i.order < other.order]
    return one.shape == other.shape and all(inner.startswith(f"{name}.") for name in between)


def _connect(chain: Chain, unit: Unit, end: _End, nodes: str, groups: int) -> CircuitGraph:
    stages = end.stages
    senders = [Sender(name=EMBEDDING, stage=-1, kind=EMBEDDING, layer="")]
    of_stage: list[tuple[int, ...]] = [(0,)]
    stream: list[int] = [0]
    edges: list[Edge] = []
    for number, stage in enumerate(stages):
        edges += [Edge(sender, number) for sender in stream]
        new = range(len(senders), len(senders) + len(stage.senders))
        kind = {"attention": "head"}.get(stage.kind, "group" if len(stage.senders) > 1 else stage.kind)
        senders += [Sender(name=name, stage=number, kind=kind, layer=stage.layer) for name in stage.senders]
        of_stage.append(tuple(new))
        stream = [*(stream if stage.adds else ()), *new]
    edges += [Edge(sender, len(stages)) for sender in stream]
    return CircuitGraph(
        chain=chain, unit=unit, stages=tuple(stages), senders=tuple(senders), edges=tuple(edges), nodes=nodes,
        groups=groups, _of_stage=tuple(of_stage), _readout=end.readout, _is_stream=end.is_stream,
    )  # fmt: skip
