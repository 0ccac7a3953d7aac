"""What a finder of circuits is: it searches once, then gives a circuit at each threshold.

A threshold τ is in units of the unit's score: what changes the score by less than τ is cut. So the thresholds of finders that
estimate effects and of the one that measures them mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.problem import Problem
from entoptic.errors import UserError, instead


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """Edges of a graph.

    Attributes:
        kept: one truth value for each edge.
        effects: how much each edge adds to the unit's score, as the finder measured or estimated it; NaN where it had none to
            measure, because nothing behind the edge leads to the output.
        order: rank in which edges were decided, from 0; all 0 where they were decided together.
    """

    kept: Tensor
    effects: Tensor = field(repr=False)
    order: Tensor = field(repr=False)

    def __len__(self) -> int:
        return int(self.kept.sum())


class Search(Protocol):
    """What a finder returns."""

    @property
    def levels(self) -> Sequence[float]:
        """Thresholds to try, ascending: the higher, the fewer edges."""

    @property
    def per_photo(self) -> Tensor | None:
        """Scores of each edge for each photo, N×E, whose mean decides; None where one photo has none of its own."""

    def at(self, tau: float) -> Circuit:
        """Returns the circuit at a threshold."""


@dataclass(frozen=True, kw_only=True)
class FinderOptions:
    """What finders can be told.

    Attributes:
        seed: of random choices: the order of edges into a receiver (0 is by depth), random edges.
        steps: pictures between corrupted and clean whose gradients are averaged (EAP-IG).
    """

    seed: int = 0
    steps: int = 5


Finder = Callable[[Problem, FinderOptions], Search]
FINDERS: dict[str, Finder] = {}
"""Every finder by name."""
ABOUT: dict[str, str] = {}
"""What each finder is, in one line."""


def finder(name: str, about: str) -> Callable[[Finder], Finder]:
    """Registers a finder.

    Args:
        name: under which it is asked for.
        about: what it is, with its paper.
    """

    def register(function: Finder) -> Finder:
        FINDERS[name], ABOUT[name] = function, about
        return function

    return register


def find_finder(name: str) -> Finder:
    """Returns a finder by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FINDERS:
        raise UserError(f'no finder "{name[:80]}"{instead(name, FINDERS)}')
    return FINDERS[name]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A search whose edges have scores, all decided together.

    Attributes:
        graph: of the edges.
        scores: N×E for each photo, or 1×E.
        by_photo: whether the rows are photos.
    """

    graph: CircuitGraph
    scores: Tensor = field(repr=False)
    by_photo: bool = True

    @property
    def mean(self) -> Tensor:
        """The score of each edge over photos."""
        return self.scores.mean(0)

    @property
    def levels(self) -> Sequence[float]:
        """Every score that an edge has."""
        return sorted({float(value) for value in self.mean.abs() if value > 0}) or [1.0]

    @property
    def per_photo(self) -> Tensor | None:
        """The scores of photos."""
        return self.scores if self.by_photo else None

    def count(self, tau: float) -> int:
        """Returns how many edges have a score of at least a threshold in size, with those that lead nowhere."""
        return int((self.mean.abs() >= tau).sum())

    def at(self, tau: float) -> Circuit:
        """Returns the edges whose score is at least a threshold in size, without those that lead nowhere."""
        return self._circuit(self.mean.abs() >= tau)

    def strongest(self, count: int) -> Circuit:
        """Returns the circuit of the edges with the largest scores, before those that lead nowhere are taken out."""
        kept = torch.zeros(len(self.mean), dtype=torch.bool)
        kept[self.mean.abs().topk(min(count, len(kept))).indices] = True
        return self._circuit(kept)

    def _circuit(self, kept: Tensor) -> Circuit:
        return Circuit(kept=self.graph.prune(kept), effects=self.mean, order=torch.zeros(len(kept), dtype=torch.long))
