"""Small known networks hidden in large random ones, after Plant 'n' Seek (arXiv:2111.11153).

A target of a few neurons a layer is written into a random host, layer by layer: for each target neuron with weights v over its
(already planted) parents, the free host neuron whose own weights w there correlate best with v is taken, and λ·v with
λ = ⟨v, w⟩ / |v|² overwrites them; so host weights keep their size. A ReLU passes λ on, and the weights that read the neuron are
divided by it. In the end one number brings the host's output back to the target's.

All other neurons of the host stay random and alive. What planted neurons and the output would hear from them is 0, or small in the
tier "leak": so the circuit of the output is the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from entoptic.base.randomness import generator_for
from entoptic.circuits.graph import EMBEDDING, OUTPUT, read_graph
from entoptic.errors import UserError
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.planted.circuits import BRIGHT, DARK, LEAK, Name, PlantedCircuit, Tier
from entoptic.units.unit import bind

SIDE, WIDTH, LAYERS = 8, 24, 4
"""Pixels of a picture, neurons of a host's layer, and its layers."""
OPEN = 0.5
"""Least that a target's neuron puts out."""
NEURONS = 3
"""Of each layer of a target."""
TIERS = (Tier.PLAIN, Tier.LEAK, Tier.NULL)
"""Those that a host has."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A small network of 1×1 layers with ReLUs.

    Attributes:
        weights: of each layer, M×N.
        biases: of each layer, M.
        readout: weights of the output over the last layer.
    """

    weights: tuple[Tensor, ...] = field(repr=False)
    biases: tuple[Tensor, ...] = field(repr=False)
    readout: Tensor = field(repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Computes the output for pictures B×3×H×W: the mean over positions of what it reads."""
        x = images.flatten(2)
        for weight, bias in zip(self.weights, self.biases):
            x = (weight.to(x) @ x + bias.to(x)[:, None]).relu()
        return (self.readout.to(x) @ x).mean(1)


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """A target in its host.

    Attributes:
        circuit: the host with its planted edges.
        target: what is hidden in it.
        neurons: of each layer, which host neuron is each target neuron.
        scale: the host's output times this is the target's.
    """

    circuit: PlantedCircuit
    target: Target
    neurons: tuple[tuple[int, ...], ...]
    scale: float


def plant_in_host(seed: int, tier: Tier | str = Tier.PLAIN, *, pictures: int = 8) -> Hosted:
    """Hides a small network in a random one.

    Args:
        seed: of target, host and pictures.
        tier: one of `TIERS`: "plain" (nothing else is heard), "leak" (everything else faintly), "null" (the output reads a neuron
            that is silent).
        pictures: how many, each with a corrupted twin.

    Raises:
        UserError: hosts have no such tier.
    """
    tier = Tier(tier)
    if tier not in TIERS:
        raise UserError(f"a host has no tier {tier}; expected {', '.join(TIERS)}")
    draw = generator_for("planted in a host", seed, tier)
    target = make_target(draw)
    module = Host(draw)
    neurons, scale = plant(target, module, LEAK if tier is Tier.LEAK else 0.0, draw)
    if tier is Tier.NULL:
        free = next(i for i in range(WIDTH) if i not in neurons[-1])
        weight, bias = _numbers(_layers(module)[-1])
        head, _ = _numbers(module.head)
        for silent in (weight[free], bias[free : free + 1], head[0]):
            silent.zero_()
        head[0, free] = 1.0
    card = Card(name="planted:host", size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3, licence="cc0-1.0")
    model = Model(module, card, device="cpu")
    graph = read_graph(model, bind(model, "logits:0")[0], nodes="blocks", groups=WIDTH)
    truth = frozenset() if tier is Tier.NULL else frozenset(_names(neurons))
    clean, corrupted = (
        low + (high - low) * torch.rand((pictures, 3, SIDE, SIDE), generator=draw) for low, high in (BRIGHT, DARK)
    )
    circuit = PlantedCircuit(model=model, graph=graph, truth=truth, either=(), clean=clean, corrupted=corrupted)
    return Hosted(circuit=circuit, target=target, neurons=neurons, scale=scale)


def make_target(draw: torch.Generator) -> Target:
    """Draws a target whose every neuron counts: each is read by one of the next layer at least.

    Args:
        draw: random numbers.
    """
    weights, biases, before = [], [], 3
    low, high = torch.full((3,), DARK[0]), torch.full((3,), BRIGHT[1])
    for _ in range(LAYERS):
        rows = torch.zeros(NEURONS, before)
        for m in range(NEURONS):
            parents = {m % before, int(torch.randint(before, (), generator=draw))}
            for parent in parents:
                rows[m, parent] = _signed(draw) / len(parents)
        weights.append(rows)
        up, down = rows.clamp_min(0), rows.clamp_max(0)
        least, most = up @ low + down @ high, up @ high + down @ low
        bias = OPEN - least.clamp_max(0)  # no neuron is silent on any picture
        low, high = least + bias, most + bias
        biases.append(bias)
        before = NEURONS
    readout = torch.stack([_signed(draw) for _ in range(NEURONS)])
    return Target(weights=tuple(weights), biases=tuple(biases), readout=readout)


class Host(nn.Sequential):
    """Convolutions 1×1 with ReLUs, the mean over positions, and a linear head; all weights are random."""

    head: nn.Linear

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        before = 3
        for number in range(LAYERS):
            self.add_module(f"layer{number}", nn.Conv2d(before, WIDTH, 1))
            self.add_module(f"act{number}", nn.ReLU())
            before = WIDTH
        self.add_module("mean", nn.AdaptiveAvgPool2d(1))
        self.add_module("flat", nn.Flatten())
        self.add_module("head", nn.Linear(WIDTH, 2))
        for weight, bias in [*map(_numbers, _layers(self)), _numbers(self.head)]:
            weight.copy_(torch.randn(weight.shape, generator=draw) * (2 / weight.shape[1]) ** 0.5)
            bias.copy_(0.1 * torch.randn(bias.shape, generator=draw))
        _numbers(self.head)[1].zero_()


def _layers(host: nn.Sequential) -> list[nn.Conv2d]:
    return [module for module in host if isinstance(module, nn.Conv2d)]


def _numbers(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Weights and biases, to be changed in place."""
    assert layer.bias is not None
    return layer.weight.data, layer.bias.data


def plant(target: Target, host: Host, leak: float, draw: torch.Generator) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Writes a target into a host of convolutions 1×1, ReLUs, and a linear head.

    Args:
        target: what is written.
        host: its weights are changed where they must be.
        leak: standard deviation of what planted neurons hear of all others.
        draw: random numbers of the leak.

    Returns:
        The host neurons of each layer's target neurons, and the number that brings the output back to the target's.
    """
    parents = list(range(3))
    scales = torch.ones(3)
    found: list[tuple[int, ...]] = []
    for weight, bias, layer in zip(target.weights, target.biases, _layers(host)):
        numbers, biases = _numbers(layer)
        rows = numbers[:, :, 0, 0]
        chosen: list[int] = []
        own = torch.ones(len(weight))
        for m, row in enumerate(weight):
            wanted = row / scales
            neuron, size = _closest(wanted, rows[:, parents], chosen)
            chosen.append(neuron)
            own[m] = size
            rows[neuron] = leak * torch.randn(rows.shape[1], generator=draw)
            rows[neuron, parents] = size * wanted
            biases[neuron] = size * bias[m]
        parents, scales = chosen, own
        found.append(tuple(chosen))
    head, _ = _numbers(host.head)
    wanted = target.readout / scales
    size = float((wanted @ head[0, parents]).abs() / wanted.square().sum())
    head[0] = leak * torch.randn(head.shape[1], generator=draw)
    head[0, parents] = size * wanted
    return tuple(found), 1 / size


def _closest(wanted: Tensor, rows: Tensor, taken: Sequence[int]) -> tuple[int, float]:
    """The free neuron whose weights correlate best with those wanted, and the positive factor that brings these to its size."""
    products = rows @ wanted
    correlation = products / (rows.norm(dim=1) * wanted.norm()).clamp_min(1e-12)
    correlation[list(taken)] = -torch.inf
    best = int(correlation.argmax())
    # Where no free neuron points the same way, the weights are written at the size that they have.
    size = float(products[best] / wanted.square().sum())
    return best, size if size > 1e-3 else 1.0


def _names(neurons: Sequence[Sequence[int]]) -> list[Name]:
    names: list[Name] = [(EMBEDDING, "layer0")]
    for number, layer in enumerate(neurons):
        receiver = f"layer{number + 1}" if number + 1 < len(neurons) else OUTPUT
        names += [(f"act{number}.group{neuron}", receiver) for neuron in layer]
    return names


def _signed(draw: torch.Generator) -> Tensor:
    """About 1 or -½, so that values neither die out nor grow on the way."""
    value = 1.0 if torch.rand((), generator=draw) < 0.6 else -0.5
    return value * (0.8 + 0.4 * torch.rand((), generator=draw))
