"""What a circuit will cost: passes counted from what is planned, time from a few passes that are run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from entoptic.circuits.eap import scores_of, slopes
from entoptic.circuits.evidence import CONTROLS
from entoptic.circuits.patched import BACKWARD, Cost, make_pair, memory_of, run_patched
from entoptic.circuits.patching import LEVELS, most_passes

if TYPE_CHECKING:
    from entoptic.runs.circuit_plan import CircuitPlan

GRADIENTS = ("eap", "eap-ig")
RUN = 0.8
"""Share of a pass that a circuit costs which is tried or judged, where few edges can be cut: what nothing leads to is not run."""


@dataclass(frozen=True, kw_only=True)
class CircuitCost:
    """What a circuit will cost.

    Attributes:
        passes: forward passes of one picture; a backward pass counts as two.
        seconds: at the pace of the passes that were run to see.
        bytes: of activations that are held at once.
        parts: passes by what they are for.
        is_bound: whether it is the most that it can be, because the search depends on what it finds.
    """

    passes: float
    seconds: float
    bytes: int
    parts: dict[str, float]
    is_bound: bool = False

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {passes:.0f}" for name, passes in self.parts.items() if passes)
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        how = "at most" if self.is_bound else "about"
        return f"{how} {self.passes:.0f} forward passes of one picture ({parts}), {how} {minutes}, {self.bytes / 2**20:.0f} MiB"


def estimate_cost(plan: CircuitPlan) -> CircuitCost:
    """Estimates what a circuit will cost.

    Searches by gradients are counted exactly; circuits that are tried or judged as `RUN` of a pass. So the estimate is close where
    few edges can be cut, and too high where most can. Searches by patching count as if nothing could be cut.

    Args:
        plan: of the circuit.
    """
    graph, options = plan.graph, plan.options
    n, edges = len(plan.find), len(graph.edges)
    judged, level = len(plan.judge), n * most_passes(graph)
    others = len(plan.others) if plan.by_class and graph.target is not None else 0
    patching = options.finder == "patching"
    once = {"patching": level, "eap": n * (1.0 + BACKWARD), "eap-ig": n * options.steps * (1.0 + BACKWARD)}.get(
        options.finder, 0.0
    )
    run = 1.0 if patching else RUN
    tried = math.ceil(math.log2(LEVELS if patching else max(edges, 2)))
    parts = {
        "runs": 2.0 * (n + others + (judged if plan.held_out else 0)),
        "search": once * (tried + 1 if patching else 1),
        "selection": n * (1.0 + run * (tried + 1 if patching else tried)),
        "reruns": once * options.reruns,
        "evidence": judged * (1.0 + run * (1 + CONTROLS if patching else CONTROLS)) + others,
    }
    if plan.certify is not None and patching:
        kept = 1 - plan.certify.deletion
        parts["certificate"] = min(plan.certify.samples, 2**n) * level * kept
    held = memory_of(graph, max(n, judged))
    seconds = _seconds(plan, parts)
    return CircuitCost(passes=sum(parts.values()), seconds=seconds, bytes=held, parts=parts, is_bound=patching)


def _seconds(plan: CircuitPlan, parts: dict[str, float]) -> float:
    """The time of passes of three kinds (as they are, patched, with gradients), each at the pace of one that is run."""
    graph, options = plan.graph, plan.options
    count = min(options.at_once, len(plan.find))
    draw = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, *graph.model.card.size), generator=draw).to(graph.model.device)
    with torch.no_grad():
        make_pair(graph, images[:1], images[:1] / 2)  # the first pass of a process is slower
        plain, pair = _timed(lambda: make_pair(graph, images, images / 2))
        whole = torch.ones((1, len(graph.edges)), dtype=torch.bool)
        patched, _ = _timed(lambda: run_patched(graph, pair, whole))
    pace = {"runs": plain / (2 * count), "selection": patched / count, "evidence": patched / count}
    if options.finder in GRADIENTS:
        slope, found = _timed(lambda: slopes(graph, pair, 1.0, Cost(graph)))
        score, _ = _timed(lambda: scores_of(graph, pair, found))
        steps = options.steps if options.finder == "eap-ig" else 1
        pace["search"] = pace["reruns"] = (slope + score / steps) / count / (1 + BACKWARD)
    return sum(passes * pace.get(name, pace["runs"]) for name, passes in parts.items())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found
