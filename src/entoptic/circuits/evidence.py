"""What a circuit is measured by, each with n and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, wilson
from entoptic.base.randomness import generator_for
from entoptic.circuits.problem import Problem, recognised
from entoptic.circuits.random_edges import random_circuit
from entoptic.metrics.evidence import Evidence, missing

CONTROLS, DRAWS = 5, 2000
"""Random circuits of the control, and resamples of a bootstrap."""


def evidence_of(
    kept: Tensor,
    judge: Problem,
    others: tuple[Tensor, Tensor] | None,
    reruns: Sequence[Tensor],
    *,
    held_out: bool,
) -> list[Evidence]:
    """Measures a circuit.

    Args:
        kept: its edges.
        judge: photos that it is judged on.
        others: which photos of other classes the circuit and the network itself take for the class; None where there are none.
        reruns: circuits of the same finder from other draws of its photos.
        held_out: whether the finder has not seen the photos that judge.
    """
    edges = len(kept)
    target = judge.target
    detail = {"held_out": held_out}
    found = []
    inside, outside = judge.values(kept), judge.values(judge.graph.prune(~kept))
    clean, corrupted = (
        torch.cat([getattr(p, name) for p in judge.pairs]) for name in ("clean_values", "corrupted_values")
    )
    if target is not None:
        rates = {
            "accuracy_kept": (inside, "higher"), "accuracy_of_network": (clean, "none"),
            "accuracy_of_complement": (outside, "lower"), "accuracy_corrupted": (corrupted, "none"),
        }  # fmt: skip
        found += [_rate(name, recognised(v, target), direction, detail) for name, (v, direction) in rates.items()]
    found.append(_faithfulness("faithfulness", judge, judge.graph.score(inside), "higher", detail))
    found.append(_faithfulness("faithfulness_of_complement", judge, judge.graph.score(outside), "lower", detail))
    share = 100 * int(kept.sum()) / edges
    found.append(
        Evidence("sparsity", share, edges, (share, share), "lower", "%", detail={"edges": int(kept.sum()), "of": edges})
    )
    found.append(_control(kept, judge))
    if target is not None:
        found += _false_positives(others)
    found.append(_overlap(kept, reruns))
    return found


def _rate(name: str, hits: Tensor, direction: str, detail: Mapping[str, Any]) -> Evidence:
    count, n = int(hits.sum()), len(hits)
    low, high = wilson(count, n)
    return Evidence(name, 100 * count / n, n, (100 * low, 100 * high), direction, "%", detail=dict(detail))


def _faithfulness(name: str, judge: Problem, scores: Tensor, direction: str, detail: Mapping[str, Any]) -> Evidence:
    """(s_circuit - s_corrupted) / (s_clean - s_corrupted), of means over photos; the interval is a bootstrap over photos."""
    gained, whole = ((s - judge.corrupted).cpu().double() for s in (scores, judge.clean))
    n = len(whole)
    if float(whole.mean().abs()) < 1e-6 * float(judge.clean.abs().mean() + 1e-12):
        return missing(name, "clean and corrupted photos score alike on average", direction=direction, scale="%")
    value = 100 * float(gained.mean() / whole.mean())
    rows = torch.randint(n, (DRAWS, n), generator=generator_for("bootstrap", n))
    ratios = 100 * gained[rows].mean(1) / whole[rows].mean(1)
    low, high = (float(torch.quantile(ratios, q)) for q in (0.025, 0.975))
    return Evidence(name, value, n, (min(low, value), max(high, value)), direction, "%", detail=dict(detail))


def _control(kept: Tensor, judge: Problem) -> Evidence:
    """What random circuits of as many edges keep: accuracy for a class, else the share of the score's change."""
    count = int(kept.sum())
    name, scale = (
        ("accuracy_of_random_edges" if judge.target is not None else "faithfulness_of_random_edges"),
        "%",
    )
    if not count:
        return missing(name, "the circuit has no edge", direction="none", scale=scale)
    worths = [100 * judge.worth(judge.graph.prune(random_circuit(judge.graph, count, s).kept)) for s in range(CONTROLS)]
    low, high = mean_interval(worths)
    if judge.target is not None:
        low, high = max(low, 0.0), min(high, 100.0)
    detail = {"photos": len(judge), "edges": count}
    return Evidence(name, sum(worths) / CONTROLS, CONTROLS, (low, high), "none", scale, detail=detail)


def _false_positives(others: tuple[Tensor, Tensor] | None) -> list[Evidence]:
    """How often photos of other classes are taken for the class, by the circuit and by the network itself."""
    names = ("false_positives", "false_positives_of_network")
    directions = ("lower", "none")
    if others is None:
        reason = "there are no photos of other classes"
        return [missing(name, reason, direction=d, scale="%") for name, d in zip(names, directions)]
    return [_rate(name, hits, direction, {}) for name, hits, direction in zip(names, others, directions)]


def _overlap(kept: Tensor, reruns: Sequence[Tensor]) -> Evidence:
    """Jaccard index with circuits from other draws of photos."""
    if not reruns:
        return missing("overlap", "the finder ran once (--reruns 0)", scale="%")
    values = [100 * jaccard(kept, other) for other in reruns]
    low, high = mean_interval(values)
    interval = (max(low, 0.0), min(high, 100.0)) if len(values) > 1 else None
    return Evidence("overlap", sum(values) / len(values), len(values), interval, "higher", "%")


def jaccard(one: Tensor, other: Tensor) -> float:
    """Returns the share of the edges of either circuit that both have; 1 for two empty ones."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
