"""Edge attribution patching (Syed et al. 2023, arXiv:2310.10348): all edges from one forward and one backward pass.

The score of an edge from u to r is what cutting it would do to first order, at the clean photo:

    a(u → r) = ⟨ ∂s/∂x_r , δ_u ⟩ ,   δ_u = (what u wrote clean) - (what it wrote corrupted).

Where the network is saturated at the clean photo the gradient is 0, and so is the score, whatever cutting does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.circuits.finders import FinderOptions, Ranking, finder
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import BACKWARD, Cost, Pair, record
from entoptic.circuits.problem import Problem


@finder("eap", "EAP: gradients at the clean photos (arXiv:2310.10348)")
def eap(problem: Problem, options: FinderOptions) -> Ranking:
    """Scores every edge by the gradient at the clean photos."""
    graph, cost = problem.graph, problem.cost
    scores = [scores_of(graph, pair, slopes(graph, pair, 1.0, cost)) for pair in problem.pairs]
    return Ranking(graph=graph, scores=torch.cat(scores))


def slopes(graph: CircuitGraph, pair: Pair, at: float, cost: Cost) -> list[Tensor]:
    """Computes the gradient of the unit's score with respect to the input of each receiver.

    Args:
        graph: of the network.
        pair: the clean and the corrupted run.
        at: where between the corrupted (0) and the clean (1) embedding.
        cost: counts the passes.
    """
    with torch.enable_grad(), graph.model.frozen():
        embedding = (pair.corrupted[0] + at * pair.delta[0]).detach().requires_grad_()
        run = record(graph, embedding, cost)
        score = graph.score(run.values).sum()  # photos do not depend on each other
        found = torch.autograd.grad(score, run.inputs, allow_unused=True)
    for receiver in range(graph.output + 1):
        cost.add(receiver, len(pair), BACKWARD)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, run.inputs)]


@torch.no_grad()
def scores_of(graph: CircuitGraph, pair: Pair, slope: list[Tensor]) -> Tensor:
    """Computes the score of every edge for every photo, B×E."""
    columns = [(slope[edge.receiver] * pair.delta[edge.sender]).flatten(1).sum(1) for edge in graph.edges]
    return torch.stack(columns, dim=1).float().cpu()
