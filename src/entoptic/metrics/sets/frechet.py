"""The Fréchet distance to real photos, extrapolated to a set of endless size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from entoptic.base.estimates import t_quantile
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets.contract import POSITIVE, Measured, SetCard, check_alike, checked, evidence, too_few
from entoptic.metrics.sets.moments import Moments, frechet_between, root
from entoptic.metrics.sets.rows import real_baseline, row_hashes

BLOCKS = 8
"""Parts of the set, by the hash of each row: the interval is the jackknife's over them."""


class Frechet:
    """The squared Fréchet distance of Gaussians fitted to pictures and photos (Heusel et al. 2017), without its bias in n.

    The plain distance of n pictures is too large by about a constant over n, so sets of different sizes do not compare.
    The value is the end of the line through the distances at n and at n/2 over 1/n (after Chong and Forsyth 2020). Its
    interval is the jackknife's over 8 parts of the pictures. The photos are taken as they are: their number is in `detail`.
    Only moments are kept, never rows.

    Args:
        reference: features of real photos M×C, or their moments, which give no real-vs-real baseline.
        embedder: name of the network whose features they are.
    """

    card = SetCard(name="frechet_infinite", title="Fréchet distance", direction="lower", bounds=POSITIVE)

    def __init__(self, reference: Tensor | Moments, embedder: str) -> None:
        self.embedder = embedder
        self._photos = None if isinstance(reference, Moments) else checked(reference)
        self.reference = reference if isinstance(reference, Moments) else Moments.of(checked(reference))
        self.width = len(self.reference.mean)
        # Half of the pictures must fill the space: before that, the distance does not fall like 1/n.
        self.least = 2 * (self.width + 1)
        self.blocks = [Moments.of(torch.zeros(0, self.width)) for _ in range(BLOCKS)]

    @property
    def n(self) -> int:
        """How many pictures it has seen."""
        return sum(block.n for block in self.blocks)

    def update(self, features: Tensor) -> None:
        """Takes the next pictures, N×C."""
        rows = checked(features, self.width)
        own = torch.tensor([name[0] % BLOCKS for name in row_hashes(rows)])
        for k in range(BLOCKS):
            if bool((own == k).any()):
                self.blocks[k] = self.blocks[k].merged(Moments.of(rows[own == k]))

    def merge(self, other: Frechet) -> None:
        """Takes what another of the same embedder and photos has seen."""
        same = self.reference.n == other.reference.n and torch.equal(self.reference.mean, other.reference.mean)
        check_alike((self.embedder, True), (other.embedder, same))
        self.blocks = [a.merged(b) for a, b in zip(self.blocks, other.blocks)]

    def plain(self) -> float:
        """Returns the distance of the pictures as they are, which is biased up for small sets."""
        return frechet_between(_together(self.blocks), self.reference)

    def compute(self) -> Evidence:
        """Returns the extrapolated distance; the plain one at n, and that of as many real photos, are in `detail`."""
        why = f"half of them must span the {self.width} features; kid needs fewer"
        if self.n < self.least:
            return too_few(self.card, self.n, self.least, self.embedder, why)
        if self.reference.n <= self.width:
            why = f"they must span the {self.width} features; kid needs fewer"
            return too_few(self.card, self.reference.n, self.width + 1, self.embedder, why, "reference photos")
        known = root(self.reference.covariance)

        def at(blocks: list[Moments]) -> float:
            return frechet_between(_together(blocks), self.reference, known)

        blocks = [block for block in self.blocks if block.n]
        value = _extrapolated(blocks, at)
        left_out = [_extrapolated(blocks[:k] + blocks[k + 1 :], at) for k in range(len(blocks))]
        k = len(left_out)
        mean = sum(left_out) / k
        error = math.sqrt((k - 1) / k * sum((one - mean) ** 2 for one in left_out))
        half = t_quantile(k - 1) * error
        detail: dict[str, object] = {"at n": at(blocks), "photos": self.reference.n}
        if self._photos is None:
            detail["real_reason"] = "only moments of the photos were given"
        else:
            detail |= real_baseline(
                lambda a, b: frechet_between(Moments.of(a), Moments.of(b)), self._photos, self.n, repeats=4
            )
        return evidence(self.card, self.n, Measured(value, (value - half, value + half), detail), self.embedder)


def _together(blocks: list[Moments]) -> Moments:
    return reduce(Moments.merged, blocks)


def _extrapolated(blocks: list[Moments], at: Callable[[list[Moments]], float]) -> float:
    """The distance at 1/n = 0, from all blocks and from the first and the last half of them."""
    size = (len(blocks) + 1) // 2
    halves = [blocks[:size], blocks[-size:]]
    all_n, half_n = sum(b.n for b in blocks), sum(b.n for half in halves for b in half) / 2
    whole, half = at(blocks), sum(map(at, halves)) / 2
    return float((all_n * whole - half_n * half) / (all_n - half_n))
