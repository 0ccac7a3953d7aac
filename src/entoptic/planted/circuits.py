"""Networks whose circuits are known: each node writes a subspace of its own and reads only those of its planted parents.

`plant_circuit` builds a residual network or a vision transformer without norms, and pictures with corrupted twins. Tiers:

- "plain": every planted edge moves the output, smoothly;
- "saturated": one planted MLP is silent at the clean pictures, its gradient is 0 there, and it speaks where its input is cut;
- "either": two paths of which each is enough, so that a circuit needs one of them and either is right;
- "leak": every other read has a small weight too;
- "null": the output reads what nobody writes, so its circuit is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import timm
import torch
from torch import Tensor, nn

from entoptic.base.randomness import generator_for
from entoptic.circuits.graph import CircuitGraph, read_graph
from entoptic.circuits.problem import Problem, make_problem
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.units.unit import bind

SIDE, PATCH, DEPTH, HEADS, OWN = 8, 4, 3, 3, 2
"""Pixels of a picture and of a patch, blocks, heads of a block, dimensions that a node writes."""
NODES = 1 + DEPTH * (HEADS + 1)
"""Senders; both kinds of network have as many."""
CHANNELS = 30
BRIGHT, DARK = (0.7, 0.9), (0.1, 0.3)
"""Values of clean pictures and of their corrupted twins."""
BIAS, OPEN = 1.5, 4.0
"""Of a node's activation; `OPEN` where its rectifier must stay open."""
LEAK = 0.02
"""Standard deviation of the weights of reads that are not planted, in the tier "leak"."""

Name = tuple[str, str]
"""Sender and receiver of an edge."""


class Tier(StrEnum):
    """How hard a planted circuit is to find."""

    PLAIN = "plain"
    SATURATED = "saturated"
    EITHER = "either"
    LEAK = "leak"
    NULL = "null"


class Kind(StrEnum):
    """What a planted network is made of."""

    ATTENTION = "attention"
    RESIDUAL = "residual"


@dataclass(frozen=True, kw_only=True)
class PlantedCircuit:
    """A network with the edges that its output depends on.

    Attributes:
        model: the network; the unit is `logits:0`.
        graph: as it is read off the network.
        truth: edges that every right circuit has.
        either: sets of further edges of which one is needed; empty but for the tier "either".
        clean: N×3×H×W pictures.
        corrupted: their twins.
    """

    model: Model = field(repr=False)
    graph: CircuitGraph = field(repr=False)
    truth: frozenset[Name]
    either: tuple[frozenset[Name], ...]
    clean: Tensor = field(repr=False)
    corrupted: Tensor = field(repr=False)

    def problem(self) -> Problem:
        """Returns what a finder is given."""
        return make_problem(self.graph, self.clean, self.corrupted)

    def score(self, kept: Tensor) -> tuple[float, float]:
        """Returns precision and recall of a circuit; an empty one has precision 1, and recall 1 where nothing is planted.

        Where either of two paths is enough, recall is that of the path that was found best.

        Args:
            kept: one truth value for each edge.
        """
        graph = self.graph
        found = {
            (graph.senders[graph.edges[n].sender].name, graph.receiver_name(graph.edges[n].receiver))
            for n in kept.nonzero()[:, 0].tolist()
        }
        planted = self.truth.union(*self.either)
        precision = len(found & planted) / len(found) if found else 1.0
        wanted = [self.truth | path for path in self.either] or [self.truth]
        recall = max(len(found & one) / len(one) if one else 1.0 for one in wanted)
        return precision, recall


@dataclass
class _Plan:
    """Reads by node: (parent, 2×2 weights) for each, the bias, and how much the node writes of its activation.

    A node is a number in the order of the senders, 0 being the embedding; the output is `NODES`.
    """

    reads: dict[int, list[tuple[int, Tensor]]] = field(default_factory=dict)
    bias: dict[int, float] = field(default_factory=dict)


class PlantedBlock(nn.Module):
    """x + W₂ act(W₁ x + b) at every position."""

    def __init__(self, channels: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Conv2d(channels, hidden, 1), act, nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(x)))


class PlantedNet(nn.Module):
    """A patch embedding, one block a node, and a linear readout of the mean."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, channels, PATCH, PATCH)
        self.blocks = nn.Sequential(*(PlantedBlock(channels, OWN, act()) for _ in range(NODES - 1)))
        self.head = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)).mean((2, 3)))


def plant_circuit(
    seed: int, tier: Tier | str = Tier.PLAIN, kind: Kind | str = Kind.ATTENTION, *, pictures: int = 8
) -> PlantedCircuit:
    """Builds a network with a known circuit.

    Args:
        seed: of its edges, weights and pictures.
        tier: how hard the circuit is to find.
        kind: a vision transformer, or a residual network.
        pictures: how many, each with a corrupted twin.
    """
    tier, kind = Tier(tier), Kind(kind)
    draw = generator_for("planted circuit", seed, tier, kind)
    plan = _plan(draw, kind)
    either: tuple[list[tuple[int, int]], ...] = ()
    if tier is Tier.SATURATED:
        _add_saturated(plan, draw, kind)
    elif tier is Tier.EITHER:
        either = _add_either(plan, kind)
    smooth = tier not in (Tier.SATURATED, Tier.EITHER)
    module = _build(plan, kind, nn.GELU if smooth else nn.ReLU, draw, LEAK if tier is Tier.LEAK else 0.0)
    if tier is Tier.NULL:
        module.head.weight.data.zero_()
        module.head.weight.data[:, -1] = 1.0
    card = Card(name=f"planted:{kind}", size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, licence="cc0-1.0")
    model = Model(module, card, device="cpu")
    graph = read_graph(model, bind(model, "logits:0")[0])
    names = _names(graph)
    paths = tuple(frozenset(names(a, b) for a, b in path) for path in either)
    live = frozenset() if tier is Tier.NULL else frozenset(names(a, b) for a, b in _live(plan))
    clean, corrupted = (
        low + (high - low) * torch.rand((pictures, 3, SIDE // PATCH, SIDE // PATCH), generator=draw)
        for low, high in (BRIGHT, DARK)
    )
    whole = [p.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3) for p in (clean, corrupted)]
    return PlantedCircuit(
        model=model, graph=graph, truth=live - frozenset().union(*paths), either=paths, clean=whole[0],
        corrupted=whole[1],
    )  # fmt: skip


# --- what is planted --------------------------------------------------------------------------------------------------


def _upstream(node: int, kind: Kind) -> list[int]:
    """The nodes that a node may read: heads of one block do not read each other."""
    if kind is Kind.RESIDUAL or node == NODES:
        return list(range(node))
    block, place = divmod(node - 1, HEADS + 1)
    return list(range(1 + block * (HEADS + 1))) if place < HEADS else list(range(node))


def _is_head(node: int, kind: Kind) -> bool:
    return kind is Kind.ATTENTION and node < NODES and (node - 1) % (HEADS + 1) < HEADS


def _plan(draw: torch.Generator, kind: Kind) -> _Plan:
    """Random parents: one for a head, one or two for an MLP or block, three for the output."""
    plan = _Plan()
    for node in range(1, NODES + 1):
        above = _upstream(node, kind)
        count = 3 if node == NODES else 1 if _is_head(node, kind) else 1 + int(torch.randint(2, (), generator=draw))
        chosen = torch.randperm(len(above), generator=draw)[:count].tolist()
        plan.reads[node] = [(above[i], _weights(draw, count)) for i in chosen]
        plan.bias[node] = BIAS
    return plan


def _weights(draw: torch.Generator, parents: int) -> Tensor:
    """2×2 weights of about ±(1, -½) in random order, over the number of parents: values neither die out nor grow on the way.

    They differ by up to a fifth, so that two paths do not cancel by chance.
    """
    rows = []
    for _ in range(OWN):
        row = torch.tensor([1.0, -0.5])[torch.randperm(OWN, generator=draw)]
        sign = 1 - 2 * int(torch.randint(2, (), generator=draw))
        rows.append(row * sign * (0.8 + 0.4 * torch.rand(OWN, generator=draw)) / parents)
    return torch.stack(rows)


def _mlps(kind: Kind) -> list[int]:
    return [node for node in range(1, NODES) if not _is_head(node, kind)]


def _add_saturated(plan: _Plan, draw: torch.Generator, kind: Kind) -> None:
    """One MLP computes relu(2 - 4·embedding): 0 where pictures are bright, more where they are dark; the output reads it."""
    mlps = _mlps(kind)
    node = mlps[int(torch.randint(len(mlps), (), generator=draw))]
    for later in range(node + 1, NODES):  # nothing else hears it, and it hears nothing else
        plan.reads[later] = [read for read in plan.reads[later] if read[0] != node]
    plan.reads[node], plan.bias[node] = [(0, -4 * torch.eye(OWN))], 2.0
    for other in set(range(1, NODES)) - {node}:
        plan.bias[other] = OPEN  # the rectifiers of all others stay open
    plan.reads[NODES] = [read for read in plan.reads[NODES] if read[0] != node] + [(node, torch.ones(OWN, OWN))]


def _add_either(plan: _Plan, kind: Kind) -> tuple[list[tuple[int, int]], ...]:
    """Two MLPs copy the embedding, and a third computes relu(1 - 1.5·(one + other)): each alone keeps it silent."""
    one, other, both = _mlps(kind)[-3:]
    for node in range(1, NODES + 1):
        plan.reads[node] = [read for read in plan.reads[node] if read[0] not in (one, other, both)]
        plan.bias[node] = OPEN
    eye = torch.eye(OWN)
    plan.reads[one], plan.reads[other] = [(0, eye)], [(0, eye)]
    plan.reads[both] = [(one, -1.5 * eye), (other, -1.5 * eye)]
    plan.bias[one] = plan.bias[other] = 0.0
    plan.bias[both] = 1.0
    plan.reads[NODES].append((both, torch.ones(OWN, OWN)))
    return [(0, one), (one, both)], [(0, other), (other, both)]


def _live(plan: _Plan) -> set[tuple[int, int]]:
    """The planted edges on a path from the embedding to the output."""
    heard = {0}
    for node in range(1, NODES + 1):
        if any(parent in heard for parent, _ in plan.reads[node]):
            heard.add(node)
    found: set[tuple[int, int]] = set()
    todo = [NODES]
    while todo:
        node = todo.pop()
        for parent, _ in plan.reads.get(node, ()):
            if parent in heard and (parent, node) not in found:
                found.add((parent, node))
                todo.append(parent)
    return found


def _names(graph: CircuitGraph) -> Callable[[int, int], Name]:
    def name(parent: int, node: int) -> Name:
        stage = graph.output if node == NODES else graph.senders[node].stage
        return graph.senders[parent].name, graph.receiver_name(stage)

    return name


# --- the network ------------------------------------------------------------------------------------------------------


def _own(node: int) -> slice:
    return slice(OWN * node, OWN * (node + 1))


def _build(plan: _Plan, kind: Kind, act: type[nn.Module], draw: torch.Generator, leak: float) -> Any:
    module: Any
    if kind is Kind.RESIDUAL:
        module = PlantedNet(CHANNELS, act)
        embed: Any = module.embed
    else:
        module = timm.models.VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=CHANNELS, depth=DEPTH, num_heads=HEADS, mlp_ratio=1.0,
            qkv_bias=False, class_token=False, global_pool="avg", norm_layer=nn.Identity, act_layer=act, num_classes=2,
        )  # fmt: skip
        embed = module.patch_embed.proj
    for parameter in module.parameters():
        parameter.data.zero_()
    for dim in range(OWN):  # the mean of a patch's red, and of its green
        embed.weight.data[dim, dim] = 1 / PATCH**2

    def row(node: int, dim: int) -> Tensor:
        weight = leak * torch.randn(CHANNELS, generator=draw)
        weight[OWN * node if node < NODES else CHANNELS :] = 0  # what comes later, or is not there, is not read
        for parent, matrix in plan.reads[node]:
            weight[_own(parent)] = matrix[dim]
        return weight

    for node in range(1, NODES):
        if kind is Kind.RESIDUAL:
            _write_mlp(module.blocks[node - 1], node, [row(node, d) for d in range(OWN)], plan.bias[node])
            continue
        block, place = divmod(node - 1, HEADS + 1)
        layer = module.blocks[block]
        if place == HEADS:
            _write_mlp(layer.mlp, node, [row(node, d) for d in range(OWN)], plan.bias[node])
            continue
        width = CHANNELS // HEADS
        for dim in range(OWN):
            value = row(node, dim)
            value[OWN * (1 + block * (HEADS + 1)) :] = 0  # other heads of the block have not written yet
            layer.attn.qkv.weight.data[2 * CHANNELS + place * width + dim] = value
            layer.attn.proj.weight.data[OWN * node + dim, place * width + dim] = 1.0
    module.head.weight.data[0] = row(NODES, 0)
    return module


def _write_mlp(mlp: Any, node: int, rows: Iterable[Tensor], bias: float) -> None:
    for dim, weights in enumerate(rows):
        weight = mlp.fc1.weight.data[dim]
        weight.copy_(weights.view(weight.shape))
        mlp.fc1.bias.data[dim] = bias
        mlp.fc2.weight.data[OWN * node + dim, dim] = 1.0
