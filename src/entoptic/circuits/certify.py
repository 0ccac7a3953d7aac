"""Certified circuits: votes of a finder over random deletions of its photos (arXiv:2602.22968), with the mask's radius corrected.

Each photo is kept with probability 1 - p, independently, and a finder runs on what is left. An edge's vote is p_u, the
probability that it is in. From n samples come a lower bound on p_u and on 1 - p_u (Clopper-Pearson):

    in       where the lower bound of p_u is above τ,
    out      where the lower bound of 1 - p_u is above τ,
    abstain  otherwise.

r photos that are inserted, deleted or replaced are all deleted with probability p^r, and then both sets of photos give the same
law. So votes move by at most 1 - p^r, and with the bound b of an edge's state

    radius_majority: the majority stays on its side while  b - (1 - p^r) > ½ ,
    radius_mask:     the state itself stays while          b - (1 - p^r) > τ .

Each is the largest such r. The radius that was published for the mask, ⌊log(1.5 - τ)/log p⌋, is about the majority only.

What this does not say: that the edges are what the network uses (a finder that always errs is certified too), or anything about
photos of other kinds than a few edits lead to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from entoptic.base.randomness import generator_for
from entoptic.circuits.binomial import lower_bound, tail
from entoptic.errors import UserError

MEANS = (
    "with probability 1 - alpha over the draws of subsets, all states hold at once for the vote of this finder over random "
    "subsets of these photos; they stay so when up to radius_mask photos are inserted, deleted or replaced, and the majority "
    "up to radius_majority. It does not say that the edges are what the network uses."
)


class State(StrEnum):
    """What is known of an edge."""

    IN = "in"
    OUT = "out"
    ABSTAIN = "abstain"


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """How subsets are drawn and judged.

    Attributes:
        samples: subsets.
        deletion: probability with which each photo is left out.
        tau: vote above which an edge is in or out, from ½ on.
        alpha: probability that any state is wrong.
        seed: of the subsets.
    """

    samples: int = 1000
    deletion: float = 0.6
    tau: float = 0.95
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.tau < 1:
            raise UserError(f"tau must be at least 0.5 and below 1, got {self.tau}")
        if not 0 < self.deletion < 1 or not 0 < self.alpha < 1:
            raise UserError(f"deletion and alpha must lie between 0 and 1, got {self.deletion} and {self.alpha}")
        if self.samples < 1:
            raise UserError(f"samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The states of all edges.

    Attributes:
        options: how it was made.
        votes: of each edge, among the samples.
        states: of each edge.
        bounds: lower bound of the vote for its state, at once for all edges (Bonferroni); 0 where it abstains.
        radius_majority: photos that may change without the majority changing.
        radius_mask: photos that may change without the state changing; -1 where it abstains.
    """

    options: CertifyOptions
    votes: tuple[int, ...] = field(repr=False)
    states: tuple[State, ...] = field(repr=False)
    bounds: tuple[float, ...] = field(repr=False)
    radius_majority: tuple[int, ...] = field(repr=False)
    radius_mask: tuple[int, ...] = field(repr=False)

    def count(self, state: State) -> int:
        """Returns how many edges are in a state."""
        return self.states.count(state)


def certify(decide: Callable[[Tensor, int], Tensor], photos: int, options: CertifyOptions) -> Certificate:
    """Votes over random subsets of photos.

    Args:
        decide: which components a finder returns for a subset (N truth values, not all false) and a number that says
            which sample it is, for finders that draw at random. For the empty subset it is nothing.
        photos: how many there are.
        options: how subsets are drawn and judged.
    """
    draw = generator_for("deletions", options.seed, photos, options.samples, options.deletion)
    kept_SN = torch.rand((options.samples, photos), generator=draw) >= options.deletion
    votes: Tensor | None = None
    for number, kept in enumerate(kept_SN):
        if bool(kept.any()):
            one = decide(kept, number).long()
            votes = one if votes is None else votes + one
    if votes is None:
        raise UserError(f"every one of {options.samples} subsets is empty; take a lower --deletion or more photos")
    return states_of(votes.tolist(), options)


def states_of(votes: Sequence[int], options: CertifyOptions) -> Certificate:
    """Judges votes.

    States are decided by Holm's procedure over both one-sided hypotheses of every edge (its vote is at most τ, its vote is at
    least 1 - τ); bounds and radii are Bonferroni's. So with probability 1 - α all of them hold at once.

    Args:
        votes: of each component, among `options.samples`.
        options: how they were drawn.
    """
    n, tau = options.samples, options.tau
    states = [State.ABSTAIN] * len(votes)
    tests = [
        (tail(count, n, tau), index, state)
        for index, own in enumerate(votes)
        for count, state in ((own, State.IN), (n - own, State.OUT))
    ]
    tests.sort(key=lambda test: test[0])
    for rank, (p_value, index, state) in enumerate(tests):
        if p_value > options.alpha / (len(tests) - rank):
            break
        states[index] = state
    each = options.alpha / max(len(tests), 1)
    bounds, majority, mask = [], [], []
    for own, state in zip(votes, states):
        best = lower_bound(max(own, n - own), n, each)
        sided = 0.0 if state is State.ABSTAIN else best
        bounds.append(sided)
        majority.append(radius_majority(best, options.deletion))
        # Holm may say "in" where Bonferroni's bound is not above τ: then nothing is said of other photos.
        mask.append(-1 if state is State.ABSTAIN else max(0, radius_mask(sided, tau, options.deletion)))
    return Certificate(
        options=options, votes=tuple(votes), states=tuple(states), bounds=tuple(bounds),
        radius_majority=tuple(majority), radius_mask=tuple(mask),
    )  # fmt: skip


def radius_majority(bound: float, deletion: float) -> int:
    """Returns how many photos may change without the majority of votes changing sides; -1 where there is no majority.

    Args:
        bound: lower bound of the vote for the side.
        deletion: probability with which each photo is left out.
    """
    return _largest(1.5 - bound, deletion)


def radius_mask(bound: float, tau: float, deletion: float) -> int:
    """Returns how many photos may change without the vote falling to τ; -1 where it is no more than τ already.

    Args:
        bound: lower bound of the vote for the state.
        tau: the threshold.
        deletion: probability with which each photo is left out.
    """
    return _largest(1 + tau - bound, deletion)


def _largest(floor: float, deletion: float) -> int:
    """The largest r with p^r > floor; -1 where there is none."""
    if floor >= 1:
        return -1
    radius = max(0, math.ceil(math.log(floor) / math.log(deletion)) - 1)
    while deletion ** (radius + 1) > floor:
        radius += 1
    while radius and not deletion**radius > floor:
        radius -= 1
    return radius


def top_of_mean(scores_NE: Tensor, count: int) -> Callable[[Tensor, int], Tensor]:
    """Returns a decision from cached scores: the edges with the largest mean scores of a subset, in size.

    Args:
        scores_NE: of each edge for each photo, from one pass of a finder.
        count: how many edges are in; those without any score are not.
    """

    def decide(kept_N: Tensor, _number: int) -> Tensor:
        mean = scores_NE[kept_N].mean(0).abs()
        inside = torch.zeros(len(mean), dtype=torch.bool)
        inside[mean.topk(min(count, len(mean))).indices] = True
        return inside & (mean > 0)

    return decide
