"""The smallest circuit that keeps enough of what the unit does."""

from __future__ import annotations

from dataclasses import dataclass, field

from entoptic.circuits.finders import Circuit, Search
from entoptic.circuits.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A circuit and the threshold that gave it.

    Attributes:
        circuit: the edges.
        tau: the threshold.
        worth: what the circuit keeps of the network's own, see `Problem.worth`.
        enough: whether that is as much as was asked for.
        tried: every threshold that was tried, with the number of edges and what they keep.
    """

    circuit: Circuit
    tau: float
    worth: float
    enough: bool
    tried: list[tuple[float, int, float]] = field(default_factory=list)


def select(problem: Problem, search: Search, keep: float = 0.8) -> Selected:
    """Finds the highest threshold whose circuit keeps enough, by bisection of the search's levels.

    What a circuit keeps need not fall steadily with the threshold, so a higher one that was not tried may do as well.

    Args:
        problem: the photos that judge.
        search: of a finder.
        keep: share of what the network itself keeps.
    """
    own = problem.worth(problem.full)
    levels = search.levels
    tried: dict[int, tuple[Circuit, float]] = {}

    def passes(index: int) -> bool:
        if index not in tried:
            circuit = search.at(levels[index])
            tried[index] = (circuit, problem.worth(circuit.kept))
        return tried[index][1] >= keep * own - 1e-9

    low, high = 0, len(levels) - 1
    if passes(high):
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    enough = passes(low)
    circuit, worth = tried[low]
    log = [(levels[i], len(found), kept) for i, (found, kept) in sorted(tried.items())]
    return Selected(circuit=circuit, tau=levels[low], worth=worth, enough=enough, tried=log)
