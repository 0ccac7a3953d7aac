"""What steering a circuit's edges does: to photos on which the unit is to fall silent, and to all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, wilson
from entoptic.circuits.graph import CircuitGraph
from entoptic.circuits.patched import Cost
from entoptic.circuits.random_edges import random_circuit
from entoptic.circuits.steering import run_steered
from entoptic.circuits.written import Written
from entoptic.metrics.evidence import Evidence, missing

CONTROLS = 3
"""Random circuits that are steered too."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures that steering is judged on.

    Attributes:
        images: N×3×H×W in [0, 1] of the input size.
        labels: class of each, None where it is not known.
    """

    images: Tensor = field(repr=False)
    labels: tuple[int | None, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What is steered and how.

    Attributes:
        graph: of the network.
        kept: edges of the circuit.
        written: directions of their senders.
        alpha: share of the projection that is taken out.
        cost: counts the receivers that run.
        at_once: pictures of one pass.
    """

    graph: CircuitGraph
    kept: Tensor = field(repr=False)
    written: Sequence[Written] = field(repr=False)
    alpha: float
    cost: Cost = field(repr=False)
    at_once: int = 8

    def values(self, images: Tensor, kept: Tensor | None = None, alpha: float | None = None) -> Tensor:
        """Runs pictures, with the circuit's edges steered unless others are named: N×C×D of what the unit is read from."""
        edges, share = self.kept if kept is None else kept, self.alpha if alpha is None else alpha
        return torch.cat(
            [
                run_steered(self.graph, part, edges, self.written, share, self.cost)
                for part in images.split(self.at_once)
            ]
        )


@torch.no_grad()
def evidence_of_steering(steering: Steering, driven: Pictures, others: Pictures) -> list[Evidence]:
    """Measures steering.

    Args:
        steering: what is steered.
        driven: pictures that drive the unit: attacked by a word, or of the unit's class.
        others: pictures that steering should leave alone.
    """
    graph, found = steering.graph, []
    count = int(steering.kept.sum())
    runs = [("", steering.kept, 0.0), ("_steered", steering.kept, steering.alpha)]
    for name, pictures in (("driven", driven), ("others", others)):
        if not len(pictures):
            found.append(missing(f"score_change_{name}", "there are no such photos", direction="none"))
            continue
        values = {suffix: steering.values(pictures.images, kept, alpha) for suffix, kept, alpha in runs}
        random = [
            steering.values(pictures.images, random_circuit(graph, count, seed).kept) for seed in range(CONTROLS)
        ]  # fmt: skip
        found += _rates(name, graph, values, random, pictures)
        found += _changes(name, graph, values, random)
    return found


def _rates(
    name: str, graph: CircuitGraph, values: dict[str, Tensor], random: Sequence[Tensor], pictures: Pictures
) -> list[Evidence]:
    """Shares of photos that are taken for the unit's class, and for their own, before and after."""
    target = graph.target
    if target is None:
        return []
    answers = {suffix: v[:, :, 0].argmax(1).cpu() for suffix, v in values.items()}
    drawn = torch.cat([v[:, :, 0].argmax(1).cpu() for v in random])
    rows = torch.tensor([i for i, label in enumerate(pictures.labels) if label is not None and label != target])
    known = torch.tensor([label if label is not None else -1 for label in pictures.labels])
    found = []
    taken = "taken_for_unit" if name == "driven" else "others_taken_for_unit"
    for suffix, answer in answers.items():
        direction = "lower" if suffix else "none"
        found.append(_share(f"{taken}{suffix}", answer == target, direction))
    found.append(_share(f"{taken}_random_edges", drawn == target, "none", len(random)))
    right = "accuracy_driven" if name == "driven" else "accuracy"
    if len(rows):
        for suffix, answer in answers.items():
            found.append(_share(f"{right}{suffix}", (answer == known)[rows], "higher" if suffix else "none"))
        every = torch.cat([rows + len(pictures) * i for i in range(len(random))])
        found.append(
            _share(f"{right}_random_edges", (drawn == known.repeat(len(random)))[every], "none", len(random))
        )  # fmt: skip
    elif name == "others":
        found.append(missing(right, "no other photo has a label that the network knows", scale="%"))
    if name == "others":
        found.append(_share("answers_kept", answers[""] == answers["_steered"], "higher"))
    return found


def _changes(name: str, graph: CircuitGraph, values: dict[str, Tensor], random: Sequence[Tensor]) -> list[Evidence]:
    """Mean change of the unit's score, by the circuit and by random edges."""
    before = graph.score(values[""]).double().cpu()
    found = []
    after = {"": [values["_steered"]], "_random_edges": random}
    for suffix, runs in after.items():
        changes = torch.stack([graph.score(v).double().cpu() - before for v in runs]).mean(0).tolist()
        interval = mean_interval(changes) if len(changes) > 1 else None
        direction = "none" if suffix or name == "others" else "lower"
        found.append(
            Evidence(f"score_change_{name}{suffix}", sum(changes) / len(changes), len(changes), interval, direction)
        )
    return found


def _share(name: str, hits: Tensor, direction: str, runs: int = 1) -> Evidence:
    """A share of photos; of several runs of the same photos the interval is that of one."""
    count, n = float(hits.sum()) / runs, len(hits) // runs
    low, high = wilson(count, n)
    detail = {"circuits": runs} if runs > 1 else {}
    return Evidence(name, 100 * count / n, n, (100 * low, 100 * high), direction, "%", detail=detail)
