"""Random edges: the control of every finder."""

from __future__ import annotations

import torch

from entoptic.base.randomness import generator_for
from entoptic.circuits.finders import Circuit, FinderOptions, Ranking, finder
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.problem import Problem


@finder("random", "edges in random order: the control")
def random(problem: Problem, options: FinderOptions) -> Ranking:
    """Scores edges at random."""
    return _ranking(problem.graph, options.seed)


def random_circuit(graph: CircuitGraph, count: int, seed: int) -> Circuit:
    """Returns random edges.

    Args:
        graph: of the edges.
        count: how many; those that lead nowhere are among them.
        seed: of the draw.
    """
    scores = _ranking(graph, seed).mean
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[scores.topk(count).indices] = True
    return Circuit(kept=kept, effects=scores, order=torch.zeros(len(scores), dtype=torch.long))


def _ranking(graph: CircuitGraph, seed: int) -> Ranking:
    draw = generator_for("random edges", seed)
    return Ranking(graph=graph, scores=1e-9 + torch.rand((1, len(graph.edges)), generator=draw), by_photo=False)
