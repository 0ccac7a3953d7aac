"""`Problem`: what a finder is given: a graph, clean and corrupted runs of photos, and how a circuit is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Cost, Pair, make_pair, run_patched
from entoptic.errors import UserError, counted

SAME = 1e-6
"""Share of a score by which it changes at least where something changes it."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Photos of what a unit stands for, run clean and corrupted.

    Attributes:
        graph: nodes and edges up to the unit.
        pairs: the runs, some photos at a time.
        cost: what was computed so far; finders add to it.
        by_class: whether a class is judged by how many photos are recognised, not by its score.
    """

    graph: CircuitGraph
    pairs: list[Pair] = field(repr=False)
    cost: Cost = field(repr=False)
    by_class: bool = True

    def __len__(self) -> int:
        return sum(map(len, self.pairs))

    @property
    def target(self) -> int | None:
        """The class that photos are to be recognised as; None where the score judges."""
        return self.graph.target if self.by_class else None

    @property
    def full(self) -> Tensor:
        """The circuit of all edges."""
        return torch.ones(len(self.graph.edges), dtype=torch.bool)

    def values(self, kept: Tensor) -> Tensor:
        """Runs a circuit on all photos: N×C×D of what the unit is read from."""
        return torch.cat([run_patched(self.graph, pair, kept[None], self.cost)[0] for pair in self.pairs])

    def scores(self, kept: Tensor) -> Tensor:
        """Returns the unit's score under a circuit for each photo."""
        return self.graph.score(self.values(kept))

    @property
    def clean(self) -> Tensor:
        """The unit's score for each photo in the network itself."""
        return self.graph.score(torch.cat([pair.clean_values for pair in self.pairs]))

    @property
    def corrupted(self) -> Tensor:
        """The unit's score for each corrupted photo."""
        return self.graph.score(torch.cat([pair.corrupted_values for pair in self.pairs]))

    @property
    def effect(self) -> float:
        """Mean absolute difference of the unit's score between clean and corrupted photos."""
        return float((self.clean - self.corrupted).abs().mean())

    def worth(self, kept: Tensor) -> float:
        """Returns what a circuit keeps, 1 for the network itself.

        For a class it is the share of photos that it recognises; for any other unit the share of the score's change between
        corrupted and clean photos.
        """
        return self.worth_of(self.values(kept))

    def worth_of(self, values: Tensor) -> float:
        """Returns the same from what the unit is read from, N×C×D."""
        if self.target is not None:
            return float(recognised(values, self.target).float().mean())
        change = float((self.clean - self.corrupted).mean())
        return float((self.graph.score(values) - self.corrupted).mean()) / change if change else 0.0

    def subset(self, rows: Sequence[int]) -> Problem:
        """Returns the problem of some of the photos (a row may come more than once); the cost is shared."""
        pairs, start = [], 0
        for pair in self.pairs:
            own = [row - start for row in rows if start <= row < start + len(pair)]
            if own:
                pairs.append(pair.select(torch.tensor(own, device=pair.clean_values.device)))
            start += len(pair)
        return Problem(graph=self.graph, pairs=pairs, cost=self.cost, by_class=self.by_class)


def recognised(values_BCD: Tensor, target: int) -> Tensor:
    """Returns for each photo whether the logits are largest for the class."""
    return values_BCD[:, :, 0].argmax(1) == target


def check_changes(problem: Problem) -> None:
    """Checks that the photos have something for a circuit to keep, where the score's change judges.

    Raises:
        UserError: the unit's score is the same on average for clean and corrupted photos.
    """
    clean, corrupted = problem.clean, problem.corrupted
    change, size = float((clean - corrupted).mean().abs()), float(clean.abs().mean() + corrupted.abs().mean())
    if problem.target is None and change <= SAME * size:
        raise UserError(
            f"{problem.graph.unit} scores alike on {counted(len(problem), 'photo')} and on their corrupted twins "
            f"({float(clean.mean()):.3g} on average), so there is nothing for a circuit to keep; give other photos, or "
            "corrupt them otherwise (--corrupt)"
        )


def make_problem(
    graph: CircuitGraph, clean: Tensor, corrupted: Tensor, *, at_once: int = 16, cost: Cost | None = None,
    by_class: bool = True,
) -> Problem:  # fmt: skip
    """Runs photos and their corrupted twins through the network.

    Args:
        graph: of the network.
        clean: N×3×H×W in [0, 1] of the input size.
        corrupted: their twins.
        at_once: photos of one pass.
        cost: to add to.
        by_class: see `Problem`.

    Raises:
        UserError: the twins are the photos themselves.
    """
    if clean.shape != corrupted.shape:
        raise UserError(
            f"expected a corrupted twin for each photo, got {tuple(corrupted.shape)} for {tuple(clean.shape)}"
        )
    if bool((clean == corrupted).all()):
        raise UserError(
            "the corrupted photos are the photos themselves, so no edge can have an effect; corrupt them otherwise "
            "(--corrupt blur, mean, resample or mask)"
        )
    cost = cost or Cost(graph)
    device = graph.model.device
    pairs = [
        make_pair(graph, one.to(device), other.to(device), cost)
        for one, other in zip(clean.split(at_once), corrupted.split(at_once))
    ]
    return Problem(graph=graph, pairs=pairs, cost=cost, by_class=by_class)
