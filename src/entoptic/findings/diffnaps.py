"""DiffNaps: patterns of many classes at once, as the hidden units of a binary autoencoder that also tells the classes.

Walter, Fischer and Vreeken 2024 (arXiv:2312.04311), in a simple form. Each hidden unit h has a weight W_hi in [1/m, 1] for every
item: the probability with which the item is part of it. A forward pass draws which items are, and

    z = [W x + b ≥ 1]   (b whole, at most -1: two items must be on),      y = [Wᵀ z ≥ 1],      class scores  C z .

The loss counts ones that are wrongly there, times the table's density, and wrongly missing, times 1 - density; the cross-entropy of
the classes; the squared sum of each hidden unit's weights, so that patterns stay short; and the distance of weights from 0 and 1,
which grows. Steps have the gradient of a ramp.

A pattern is what a hidden unit's weights are above a threshold for, and it belongs to the classes whose score it raises. It is
found on one half of the rows of each class and tested on the other, so its p is of rows that it was not made for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.findings.codes import rule_bits
from entoptic.findings.fisher import fisher
from entoptic.findings.pattern import Pattern
from entoptic.findings.premise import LEVEL


@dataclass(frozen=True, kw_only=True)
class NapsConfig:
    """How the autoencoder is trained and read.

    Attributes:
        hidden: patterns that it can hold; 0 for as many as items, 200 at least.
        epochs: passes over the rows.
        lr: of Adam.
        classify: weight of the classes' cross-entropy.
        extra: factor on ones that are wrongly there; 1 is as published, and leaves patterns longer.
        short: weight of the squared sum of a hidden unit's weights.
        pull: weight of the distance of weights from 0 and 1, at the first epoch.
        growth: of that weight, each epoch.
        item_above: weight above which an item is part of a pattern.
        class_above: share of a pattern's largest score above which it belongs to a class.
        batch_size: rows of one step.
        seed: of every draw.
    """

    hidden: int = 0
    epochs: int = 25
    lr: float = 0.01
    classify: float = 0.3
    extra: float = 5.0
    short: float = 0.01
    pull: float = 0.1
    growth: float = 1.08
    item_above: float = 0.3
    class_above: float = 0.3
    batch_size: int = 64
    seed: int = 0


class _Step(torch.autograd.Function):
    """1 where a whole number is at least 1, else 0; its gradient is that of a ramp from 0 to 1."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        ctx.save_for_backward((values >= 0) & (values <= 1))  # type: ignore[attr-defined]
        return (values >= 1).to(values)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        (near,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * near


class _Drawn(torch.autograd.Function):
    """Bernoulli draws of probabilities; its gradient is that of the identity."""

    @staticmethod
    def forward(ctx: object, weights: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < weights).to(weights)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Bias(torch.autograd.Function):
    """Adds whole biases; a hidden unit that is off does not get a higher threshold for it."""

    @staticmethod
    def forward(ctx: object, values: Tensor, bias: Tensor) -> Tensor:
        out = values + bias.round()
        ctx.save_for_backward(out)  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (out,) = ctx.saved_tensors  # type: ignore[attr-defined]
        moves = torch.where((out < 1) & (gradient < 0), torch.zeros_like(gradient), gradient)
        return gradient, moves.sum(0)


class _Naps(nn.Module):
    def __init__(self, rows: Tensor, classes: int, hidden: int, draw: torch.Generator) -> None:
        super().__init__()
        items = rows.shape[1]
        seeds = rows[torch.randint(len(rows), (hidden,), generator=draw)]
        weights = seeds * 0.5 * torch.rand(hidden, items, generator=draw) + 1 / items
        self.weights = nn.Parameter(weights.clamp(1 / items, 1))
        self.bias = nn.Parameter(torch.full((hidden,), -1.0))
        self.scores = nn.Parameter(torch.rand(classes, hidden, generator=draw) * 0.1)

    def forward(self, rows: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = _Drawn.apply(self.weights, torch.rand(self.weights.shape, generator=draw))
        z = _Step.apply(_Bias.apply(rows @ drawn.T, self.bias))
        return _Step.apply(z @ drawn), z @ self.scores.T

    @torch.no_grad()
    def clamp(self) -> None:
        self.weights.clamp_(1 / self.weights.shape[1], 1)
        self.bias.clamp_(max=-1)
        self.scores.clamp_(0, 1)


def mine_classes(
    on: np.ndarray, group: np.ndarray, *, config: NapsConfig | None = None, level: float = LEVEL, progress: Progress = silent
) -> list[tuple[int, Pattern]]:  # fmt: skip
    """Finds patterns of each of many classes.

    Args:
        on: N×M bool, which items are on in each row.
        group: N, the class of each row, from 0.
        config: how the autoencoder is trained.
        level: probability that any pattern is named where classes mean nothing, at most (Bonferroni over what is tested).
        progress: is called with (what, done, total).

    Returns:
        (class, pattern) of every pattern that holds more often in its class, on rows that it was not made for. Its group 1 is
        the class, group 0 all others, counted on all rows; its p is of the held-out half.
    """
    config = config or NapsConfig()
    fit = _first_half(group, config.seed)
    network = _train(on[fit], group[fit], config, progress)
    tried = _read(network, config)
    test_on, test_group = on[~fit], group[~fit]
    tables = []
    for items, number in tried:
        holds, mine = np.asarray(test_on[:, items].all(1)), test_group == number
        tables.append((int((holds & mine).sum()), int((holds & ~mine).sum()), int(mine.sum()), int((~mine).sum())))
    found = []
    used = on.sum(0)
    for (items, number), (inside, outside, size, rest) in zip(tried, tables):
        p = float(fisher(np.array([inside]), np.array([outside]), size, rest)[0])
        if not inside or p > level / len(tried):
            continue
        holds, mine = np.asarray(on[:, items].all(1)), group == number
        counts = (int((holds & ~mine).sum()), int((holds & mine).sum()))
        sizes = (int((~mine).sum()), int(mine.sum()))
        pattern = Pattern(
            clauses=tuple((i,) for i in items), on=counts, size=sizes, towards=1, p=p, rows=holds,
            bits=rule_bits([int(used[i]) for i in items], counts, sizes, on.shape[1]),
        )  # fmt: skip
        found.append((number, pattern))
    return _distinct(sorted(found, key=lambda one: (one[0], -one[1].bits)))


def _distinct(found: list[tuple[int, Pattern]]) -> list[tuple[int, Pattern]]:
    """Leaves out patterns that share half of their items with a better one of their class: hidden units repeat each other."""
    kept: list[tuple[int, Pattern]] = []
    for number, pattern in found:
        mine = set(pattern.items)
        better = (set(p.items) for n, p in kept if n == number)
        if pattern.bits > 0 and all(2 * len(mine & other) < min(len(mine), len(other)) for other in better):
            kept.append((number, pattern))
    return kept


def _first_half(group: np.ndarray, seed: int) -> np.ndarray:
    """N bool: half of the rows of each class, at random."""
    draw = generator_for("half of the rows", seed, len(group))
    order = torch.randperm(len(group), generator=draw).numpy()
    fit = np.zeros(len(group), bool)
    for number in np.unique(group):
        mine = order[group[order] == number]
        fit[mine[: (len(mine) + 1) // 2]] = True
    return fit


def _train(on: np.ndarray, group: np.ndarray, config: NapsConfig, progress: Progress) -> _Naps:
    draw = generator_for("diffnaps", config.seed, on.shape[1])
    rows, classes = torch.from_numpy(on).float(), torch.from_numpy(group).long()
    density = float(rows.mean())
    hidden = config.hidden or max(200, on.shape[1])
    network = _Naps(rows, int(classes.max()) + 1, hidden, draw)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.lr)
    pull = config.pull
    for epoch in range(config.epochs):
        for batch in torch.randperm(len(rows), generator=draw).split(config.batch_size):
            x = rows[batch]
            y, scores = network(x, draw)
            missing, extra = (x - y).relu(), (y - x).relu()
            loss = ((1 - density) * missing + config.extra * density * extra).sum(1).mean()
            loss = loss + config.classify * nn.functional.cross_entropy(scores, classes[batch])
            w = network.weights
            loss = loss + config.short * w.sum(1).square().mean()
            to_0, to_1 = w.abs() + w.square(), (w - 1).abs() + (w - 1).square()
            loss = loss + pull * torch.minimum(to_0, to_1).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            network.clamp()
        pull *= config.growth
        progress("training DiffNaps", epoch + 1, config.epochs)
    return network


def _read(network: _Naps, config: NapsConfig) -> list[tuple[list[int], int]]:
    """Items and class of every pattern, each once."""
    weights, scores = network.weights.detach(), network.scores.detach()
    found: dict[tuple[tuple[int, ...], int], None] = {}
    largest = scores.amax(0)
    for h in range(len(weights)):
        items = tuple((weights[h] > config.item_above).nonzero()[:, 0].tolist())
        if len(items) < 2 or float(weights[h].mean()) >= 0.25:
            continue
        for number in (scores[:, h] > config.class_above * float(largest[h])).nonzero()[:, 0].tolist():
            if float(scores[number, h]) > 0.02:
                found[items, number] = None
    return [(list(items), number) for items, number in found]
