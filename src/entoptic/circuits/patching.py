"""Sequential patching with the target-logit difference (Vi-CD, arXiv:2604.14477).

From the output backwards, each edge is cut in turn, and stays cut where the unit's score moves by less than τ on average:

    cut e  where  (1/N) Σ_x |s_kept(x) - s_kept∖e(x)| < τ .

When the edges into a receiver are tried, nothing before it is cut yet. So its senders write what they wrote in the clean run,
and a trial starts at the receiver. Behind it only those receivers run that a kept path leads to and that lead to the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from entoptic.base.randomness import generator_for
from entoptic.circuits.finders import Circuit, FinderOptions, finder
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Cost, Pair
from entoptic.circuits.problem import Problem

LEVELS, LOWEST, HIGHEST = 24, 1e-4, 2.0
"""Thresholds that a search may try: so many, from and to these shares of the score's change, evenly in their logarithm."""


@finder("patching", "Vi-CD: every edge cut in turn, from the output backwards (arXiv:2604.14477)")
def patching(problem: Problem, options: FinderOptions) -> Patching:
    """Searches by cutting every edge in turn."""
    return Patching(problem=problem, seed=options.seed)


@dataclass(kw_only=True)
class Patching:
    """A search by sequential patching; circuits that were found are kept.

    Attributes:
        problem: graph and photos.
        seed: of the order of edges into one receiver; 0 is by depth, the deepest sender first.
    """

    problem: Problem
    seed: int = 0
    _found: dict[float, Circuit] = field(default_factory=dict)

    @property
    def levels(self) -> Sequence[float]:
        """Thresholds between almost nothing and the whole effect."""
        effect = self.problem.effect
        if effect == 0:
            return [1e-6]
        ratio = (HIGHEST / LOWEST) ** (1 / (LEVELS - 1))
        return [effect * LOWEST * ratio**i for i in range(LEVELS)]

    @property
    def per_photo(self) -> Tensor | None:
        """None: what one photo would decide depends on what the others decided before."""
        return None

    def at(self, tau: float) -> Circuit:
        """Returns the circuit at a threshold."""
        if tau not in self._found:
            self._found[tau] = _search(self.problem, tau, self.seed)
        return self._found[tau]


@torch.no_grad()
def _search(problem: Problem, tau: float, seed: int) -> Circuit:
    graph = problem.graph
    kept = problem.full
    effects = torch.full((len(kept),), torch.nan)
    order = torch.zeros(len(kept), dtype=torch.long)
    runs = [_Running(graph, pair, problem.cost) for pair in problem.pairs]
    turn = 0
    for receiver in range(graph.output, -1, -1):
        behind = _behind(graph, kept, receiver)
        numbers = list(graph.into(receiver))[::-1]
        if seed:
            draw = generator_for("edges into a receiver", seed, receiver)
            numbers = [numbers[i] for i in torch.randperm(len(numbers), generator=draw)]
        if behind is None:  # nothing that is kept leads from it to the output
            kept[numbers] = False
            order[numbers] = torch.arange(turn, turn + len(numbers))
            turn += len(numbers)
            continue
        for run in runs:
            run.start(receiver, behind, kept)
        for number in numbers:
            sender = graph.edges[number].sender
            change = torch.cat([run.attempt(sender) for run in runs])
            effects[number], order[number] = float(change.mean()), turn
            if float(change.abs().mean()) < tau:
                kept[number] = False
                for run in runs:
                    run.accept()
            turn += 1
    return Circuit(kept=graph.prune(kept), effects=effects, order=order)


def _behind(graph: CircuitGraph, kept: Tensor, receiver: int) -> list[int] | None:
    """The receivers between one and the output on kept paths, in order; None where no kept path leads to the output."""
    if receiver == graph.output:
        return []
    reached = {receiver}
    for later in range(receiver + 1, graph.output + 1):
        if any(kept[n] and graph.senders[graph.edges[n].sender].stage in reached for n in graph.into(later)):
            reached.add(later)
    if graph.output not in reached:
        return None
    useful = {graph.output}
    for later in range(graph.output, receiver, -1):
        if later in useful:
            useful |= {graph.senders[graph.edges[n].sender].stage for n in graph.into(later) if kept[n]}
    return sorted((reached & useful) - {receiver})


class _Running:
    """The state of one batch of photos under the edges that are kept so far."""

    def __init__(self, graph: CircuitGraph, pair: Pair, cost: Cost) -> None:
        self._graph, self._pair, self._cost = graph, pair, cost
        self._now = list(pair.delta)  # what each sender writes under the kept edges, less what it wrote corrupted
        self._score = graph.score(pair.clean_values)

    def start(self, receiver: int, behind: list[int], kept: Tensor) -> None:
        """Begins the trials of the edges into a receiver."""
        graph = self._graph
        self._receiver, self._behind = receiver, behind
        self._stream = self._sum(receiver, graph.into(receiver))
        moving = {receiver, *behind}
        self._still: dict[int, Tensor] = {}
        self._moving: dict[int, list[int]] = {}
        for later in behind:
            live = [n for n in graph.into(later) if kept[n]]
            self._moving[later] = [n for n in live if graph.senders[graph.edges[n].sender].stage in moving]
            self._still[later] = self._sum(later, [n for n in live if n not in self._moving[later]])

    def attempt(self, sender: int) -> Tensor:
        """Returns by how much the scores fall when the edge from a sender is cut."""
        stream = self._stream - self._now[sender]
        written: dict[int, Tensor] = {}
        values = self._run(self._receiver, stream, written)
        for later in self._behind:
            inflow = self._still[later].clone()
            for number in self._moving[later]:
                inflow += written[self._graph.edges[number].sender]
            values = self._run(later, inflow, written)
        assert values is not None
        self._tried = (stream, self._graph.score(values), written)
        return self._score - self._tried[1]

    def accept(self) -> None:
        """Leaves the edge that was tried last cut."""
        self._stream, self._score, written = self._tried
        for sender, change in written.items():
            self._now[sender] = change

    def _run(self, receiver: int, stream: Tensor, written: dict[int, Tensor]) -> Tensor | None:
        graph = self._graph
        parts = graph.compute(receiver, stream)
        self._cost.add(receiver, len(self._pair))
        if receiver == graph.output:
            return parts[0]
        for sender, part in zip(graph.of_stage(receiver), parts):
            written[sender] = part - self._pair.corrupted[sender]
        return None

    def _sum(self, receiver: int, numbers: Sequence[int]) -> Tensor:
        stream = self._pair.base[receiver].clone()
        for number in numbers:
            stream += self._now[self._graph.edges[number].sender]
        return stream


def most_passes(graph: CircuitGraph) -> float:
    """Returns how many forward passes a photo costs at most at one threshold: as long as nothing is cut."""
    return sum(sum(graph.flops[graph.edges[n].receiver :]) for n in range(len(graph.edges))) / max(sum(graph.flops), 1)
