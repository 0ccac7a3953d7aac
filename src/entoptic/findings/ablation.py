"""What a pattern does: its units are ablated, and the network's answers on the pattern's photos are counted again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, wilson
from entoptic.base.randomness import generator_for
from entoptic.findings.activity import Basis
from entoptic.models.ablate import ablated
from entoptic.models.model import LOGITS, Model
from entoptic.units.dictionary import parts_of, written_layer

_Z = 2.241403  # of each of two bounds, 97.5 %, so that both hold at 95 %


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the share of right answers changes when units are ablated.

    Attributes:
        before: share of right answers, in %.
        after: the same with the units ablated.
        gained: answers that were wrong and are right.
        lost: answers that were right and are wrong.
        n: photos.
        random: the change of each random set of as many units, in points.
    """

    before: float
    after: float
    gained: int
    lost: int
    n: int
    random: tuple[float, ...]

    @property
    def points(self) -> float:
        """The change in points of percent."""
        return 100 * (self.gained - self.lost) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, from Wilson's bounds of both kinds of change (Bonferroni): never too short."""
        (g0, g1), (l0, l1) = wilson(self.gained, self.n, _Z), wilson(self.lost, self.n, _Z)
        return 100 * (g0 - l1), 100 * (g1 - l0)

    @property
    def random_interval(self) -> tuple[float, float]:
        """95 % of the mean change of random sets."""
        return mean_interval(self.random)

    @property
    def rank_p(self) -> float:
        """Share of the sets, this one included, that change at least as much in either direction."""
        as_much = sum(abs(one) >= abs(self.points) for one in self.random)
        return (1 + as_much) / (1 + len(self.random))


def why_not(model: Model, basis: Basis) -> str:
    """Returns why units cannot be ablated, "" where they can."""
    if model.why_no_logits:
        return f"{model.card.name} has no logits: {model.why_no_logits}"
    if basis.layer == LOGITS:
        return "a logit cannot be ablated: the network computes nothing from it"
    dictionary = basis.group.dictionary
    if dictionary is not None and written_layer(dictionary) != dictionary.layer:
        return f"the dictionary reads {dictionary.layer} and writes {written_layer(dictionary)}"
    return ""


@contextmanager
def without(model: Model, basis: Basis, numbers: Sequence[int], values: np.ndarray | None) -> Iterator[None]:
    """Ablates several units at all positions while a network runs; the hooks are removed afterwards.

    Args:
        model: the network.
        basis: the layer or dictionary.
        numbers: of the units.
        values: what each unit of the layer is set to; None for 0. Features of a dictionary are always taken out.
    """
    dictionary, tap = basis.group.dictionary, basis.group.tap
    with ExitStack() as stack:
        if dictionary is not None:

            def part(maps_BCD: Tensor) -> Tensor:
                return torch.stack(parts_of(dictionary, maps_BCD, list(numbers))).sum(0)

            stack.enter_context(ablated(model, tap, 0.0, part=part))
        else:
            for number in numbers:
                value = 0.0 if values is None else float(values[number])
                stack.enter_context(ablated(model, tap, value, index=number))
        yield


@torch.no_grad()
def follow_up(
    model: Model,
    basis: Basis,
    numbers: Sequence[int],
    images: Tensor,
    wanted: Tensor,
    *,
    pool: Sequence[int],
    values: np.ndarray | None,
    sets: int,
    seed: int,
    batch_size: int = 32,
    step: Callable[[], None] = lambda: None,
) -> Change:
    """Ablates units, and random sets of as many, and counts right answers.

    Args:
        model: the network.
        basis: the layer or dictionary.
        numbers: of the units.
        images: the photos, n×3×H×W.
        wanted: the right class of each photo.
        pool: units that random sets are drawn from.
        values: see `without`.
        sets: random sets.
        seed: of their draw.
        batch_size: photos of one pass.
        step: is called after each pass over the photos.
    """

    def right(units: Sequence[int]) -> Tensor:
        with without(model, basis, units, values) if units else ExitStack():
            parts = [model(part.to(model.device)).argmax(1).cpu() for part in images.split(batch_size)]
        step()
        return torch.cat(parts) == wanted

    before, after = right(()), right(numbers)
    others = [unit for unit in pool if unit not in set(numbers)]
    draw = generator_for("random sets of units", seed, len(others), len(numbers))
    changes = []
    for _ in range(sets if len(others) >= len(numbers) else 0):
        drawn = [others[i] for i in torch.randperm(len(others), generator=draw)[: len(numbers)].tolist()]
        changes.append(100 * (int(right(drawn).sum()) - int(before.sum())) / len(before))
    return Change(
        before=100 * float(before.float().mean()), after=100 * float(after.float().mean()),
        gained=int((after & ~before).sum()), lost=int((before & ~after).sum()), n=len(before), random=tuple(changes),
    )  # fmt: skip
