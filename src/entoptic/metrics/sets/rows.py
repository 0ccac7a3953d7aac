"""Metrics that need every picture's features: the rows that are kept, and a metric made of one statistic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval
from entoptic.base.randomness import generator_for
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets.contract import Measured, SetCard, check_alike, checked, evidence, too_few

REPEATS = 8
"""Random halves of the reference behind a real-vs-real baseline."""


class Rows:
    """Rows of features in an order that does not depend on the order in which they came: by the hash of each row."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add(self, features_NC: Tensor) -> None:
        """Takes rows, N×C."""
        width = self._parts[0].shape[1] if self._parts else None
        self._parts.append(checked(features_NC, width))

    def merge(self, other: Rows) -> None:
        """Takes the rows of another."""
        for part in list(other._parts):
            self.add(part)

    def table(self) -> Tensor:
        """Returns all rows, N×C float32."""
        rows = torch.cat(self._parts)
        names = row_hashes(rows)
        return rows[sorted(range(len(rows)), key=names.__getitem__)]


def row_hashes(rows_NC: Tensor) -> list[bytes]:
    """Returns a hash of 8 bytes for each row of a float32 table."""
    return [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows_NC.contiguous().numpy()]


Statistic = Callable[[Tensor, Tensor | None], Measured]


@dataclass(kw_only=True)
class RowMetric:
    """A metric that is one statistic of all rows, and of a reference where it compares two sets.

    Attributes:
        card: what is said of it.
        embedder: name of the network whose features it takes.
        least: fewest pictures, and fewest photos, for which it has a value.
        statistic: of the pictures' N×C and the reference's M×C.
        reference: features of real photos, M×C. None where the metric is of the pictures alone.
        settings: words that tell it from the same metric with other settings.
        why: what goes wrong with fewer pictures, a clause.
        rows: what it has seen.
        baselines: by number of pictures, what real photos reach against other real photos: computed once.
    """

    card: SetCard
    embedder: str
    least: int
    statistic: Statistic
    reference: Tensor | None = None
    settings: str = ""
    why: str = ""
    rows: Rows = field(default_factory=Rows)
    baselines: dict[int, dict[str, object]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.reference is not None:
            self.reference = checked(self.reference)

    @property
    def n(self) -> int:
        """How many pictures it has seen."""
        return len(self.rows)

    def empty(self) -> Self:
        """Returns the same metric before its first picture. What is known of the reference is shared, not computed again."""
        other = copy(self)
        other.rows = Rows()
        return other

    def update(self, features: Tensor) -> None:
        """Takes the next pictures, N×C."""
        self.rows.add(checked(features, None if self.reference is None else self.reference.shape[1]))

    def merge(self, other: RowMetric) -> None:
        """Takes what another metric of the same settings has seen."""
        check_alike(self._identity(), other._identity())
        self.rows.merge(other.rows)

    def compute(self) -> Evidence:
        """Returns the value at n, with what real photos reach against other real photos at the same n in `detail`."""
        if self.n < self.least:
            return too_few(self.card, self.n, self.least, self.embedder, self.why)
        if self.reference is not None and len(self.reference) < self.least:
            return too_few(self.card, len(self.reference), self.least, self.embedder, self.why, "reference photos")
        found = self.statistic(self.rows.table(), self.reference)
        detail = dict(found.detail)
        if self.reference is not None:
            detail["photos"] = len(self.reference)
            if self.n not in self.baselines:
                self.baselines[self.n] = real_baseline(lambda a, b: self.statistic(a, b).value, self.reference, self.n)
            detail |= self.baselines[self.n]
        return evidence(self.card, self.n, Measured(found.value, found.interval, detail), self.embedder)

    def _identity(self) -> tuple[object, ...]:
        of = None if self.reference is None else hashlib.sha256(self.reference.numpy().tobytes()).hexdigest()[:12]
        return self.card.name, self.embedder, self.settings, of


def real_baseline(
    distance: Callable[[Tensor, Tensor], float], reference_MC: Tensor, n: int, repeats: int = REPEATS
) -> dict[str, object]:
    """Measures real photos against other real photos at the size of the set of pictures.

    Each time, n photos are drawn without replacement and measured against all others. No photo is on both sides.

    Args:
        distance: of two sets of features.
        reference_MC: features of real photos.
        n: pictures in the set that is measured.
        repeats: random draws.

    Returns:
        For `detail`: `real` (mean over draws) and `real_spread` (least and largest), or `real_reason`.
    """
    if len(reference_MC) < 2 * n:
        return {"real_reason": f"{n} photos against {n} others need {2 * n} photos, there are {len(reference_MC)}"}
    values = []
    for k in range(repeats):
        order = torch.randperm(len(reference_MC), generator=generator_for("real baseline", n, k))
        values.append(distance(reference_MC[order[:n]], reference_MC[order[n:]]))
    return {"real": sum(values) / repeats, "real_spread": [min(values), max(values)]}


def clipped(values: list[float], bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns Student's interval of a mean, cut at the bounds of the quantity."""
    low, high = mean_interval(values)
    return max(bounds[0], low), min(bounds[1], high)
