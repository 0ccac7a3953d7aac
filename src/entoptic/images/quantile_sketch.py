"""A quantile sketch of many units at once: bounded memory, mergeable, with an error bound that holds always.

A level-h item stands for 2^h values. When a sketch holds too many items, those of its lowest level are sorted and every
other one moves up a level, standing for its neighbour as well (the compactor of Karnin, Lang and Liberty 2016,
arXiv:1603.05346). All units see the same number of values, so one schedule of compactions serves them all.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CAPACITY = 2048
"""Items a sketch keeps of each unit; up to that many values it is exact."""


@dataclass(frozen=True)
class QuantileSketch:
    """Quantile sketches of U units.

    Attributes:
        levels: per level h, U×S float32 items of weight 2^h; NaN where a value was not finite.
        error: bound of the error of a rank (the number of values ≤ x) that the sketch gives, for every unit.
        start: seed of the compactions; it differs between the sketches that are merged.
    """

    levels: tuple[Tensor, ...]
    error: int = 0
    start: int = 0

    @property
    def rank_error(self) -> int:
        """Bound, in ranks, of the error of a quantile: `error` plus the weight of one item."""
        return self.error + 2 ** (len(self.levels) - 1) if self.error else 0

    def merge(self, other: QuantileSketch, device: torch.device | None = None) -> QuantileSketch:
        """Returns the sketch of both sets of values; sorting happens on `device`."""
        levels = []
        for h in range(max(len(self.levels), len(other.levels))):
            parts = [s.levels[h] for s in (self, other) if h < len(s.levels)]
            levels.append(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
        return _compress(levels, self.error + other.error, min(self.start, other.start), device)

    def rows(self, first: int, last: int) -> QuantileSketch:
        """Returns the sketches of the units first … last-1."""
        return QuantileSketch(tuple(level[first:last].contiguous() for level in self.levels), self.error, self.start)

    def items(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the finite values of one unit in ascending order (float32) and their weights."""
        values = np.concatenate([level[unit].numpy() for level in self.levels])
        weights = np.concatenate([np.full(level.shape[1], 2**h, np.int64) for h, level in enumerate(self.levels)])
        finite = np.isfinite(values)
        values, weights = values[finite], weights[finite]
        order = values.argsort(kind="stable")
        return values[order], weights[order]

    def quantiles(self, unit: int, count: int, low: float, high: float) -> Tensor:
        """Estimates `count` quantiles of one unit at even levels, by straight lines between items at their middle ranks.

        From an exact sketch they equal those of `torch.quantile`.

        Args:
            unit: number of the unit.
            count: number of quantiles, from level 0 to level 1.
            low: the unit's smallest value.
            high: the unit's largest value.

        Returns:
            `count` float32 numbers, NaN where no value is finite.
        """
        values, weights = self.items(unit)
        if not len(values):
            return torch.full((count,), torch.nan)
        middle = weights.cumsum() - (weights + 1) / 2  # of ranks 0 … n-1
        at = np.linspace(0, 1, count) * (weights.sum() - 1)
        found = np.interp(at, middle, values.astype(np.float64)).clip(low, high)
        found[0], found[-1] = low, high
        return torch.from_numpy(found.astype(np.float32))


def _compress(levels: list[Tensor], error: int, start: int, device: torch.device | None) -> QuantileSketch:
    while sum(level.shape[1] for level in levels) > CAPACITY:
        h = next(h for h, level in enumerate(levels) if level.shape[1] > 1)
        items = levels[h].to(device).sort(1).values.to(levels[h].device)  # NaN last
        pairs = items.shape[1] // 2
        # A fair coin that falls the same way whenever the same values are merged in the same tree.
        coin = zlib.crc32(f"{start} {h} {error}".encode()) & 1
        kept = items[:, coin : 2 * pairs : 2]
        levels[h] = items[:, 2 * pairs :]
        if h + 1 == len(levels):
            levels.append(kept[:, :0])
        levels[h + 1] = torch.cat([levels[h + 1], kept], 1)
        error += 2**h
    return QuantileSketch(tuple(levels), error, start)
