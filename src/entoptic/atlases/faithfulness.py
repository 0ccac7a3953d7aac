"""How faithful a map is: whether neighbours, distances and densities on it are those of the points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from entoptic.atlases.contract import Rows
from entoptic.base.estimates import mean_interval, t_quantile
from entoptic.base.randomness import generator_for

NEAR = 10
"""Neighbours of a point."""
ANCHORS = 2000
"""Points from which is measured, drawn where there are more."""
PAIRED = 600
"""Points whose pairs are compared, drawn where there are more."""
_GROUPS = 20
_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement of a map.

    Attributes:
        name: of the measurement.
        value: between chance and 1.
        interval: 95 %.
        n: points it was measured on.
        chance: its value for a map that is random.
        means: what it says, in a sentence.
    """

    name: str
    value: float
    interval: tuple[float, float]
    n: int
    chance: float
    means: str

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.interval[0] > self.chance

    def to_json(self) -> dict[str, Any]:
        """Returns what is stored."""
        return {
            "name": self.name,
            "value": self.value,
            "interval": list(self.interval),
            "n": self.n,
            "chance": self.chance,
            "means": self.means,
        }


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """What was measured of a map.

    Attributes:
        measured: neighbours, distances, density; what is known comes last, where it was taken out.
        anchors: numbers of the points that neighbours were counted of.
        kept: of each of them, the share of its neighbours that are neighbours on the map.
    """

    measured: tuple[Measured, ...]
    anchors: np.ndarray
    kept: np.ndarray

    def __getitem__(self, name: str) -> Measured:
        return next(one for one in self.measured if one.name == name)


def measure_map(asked: Rows, shown: Rows, n: int, *, seed: int = 0, known: Rows | None = None) -> Faithfulness:
    """Measures a map.

    Args:
        asked: the distances that it is to show.
        shown: the distances on it.
        n: points.
        seed: of the points that are drawn where there are more than `ANCHORS`.
        known: distances of what was taken out.
    """
    near = min(NEAR, n - 2)
    order = torch.randperm(n, generator=generator_for("faithfulness of a map", seed, n)).numpy()
    anchors = np.sort(order[:ANCHORS])
    kept, radius, radius_shown = _neighbours(asked, shown, anchors, near)
    paired = np.sort(order[:PAIRED])
    upper = np.triu_indices(len(paired), 1)
    first, second = (rows(paired)[:, paired][upper] for rows in (asked, shown))
    group = _groups(order[: len(paired)])
    pairs = (group[upper[0]], group[upper[1]])
    value, interval = _jackknife(lambda keep: spearman(first[keep], second[keep]), pairs)
    own = _groups(order[: len(anchors)])
    logs = [np.log(np.maximum(r, 1e-12)) for r in (radius, radius_shown)]
    dense, dense_interval = _jackknife(lambda keep: pearson(logs[0][keep], logs[1][keep]), (own,))
    low, high = mean_interval(kept.tolist())
    measured = [
        Measured(
            name="neighbours",
            value=float(kept.mean()),
            interval=(max(0.0, low), min(1.0, high)),
            n=len(anchors),
            chance=near / (n - 1),
            means=f"share of each point's {near} nearest that are its {near} nearest on the map",
        ),
        Measured(
            name="distances",
            value=value,
            interval=interval,
            n=len(paired),
            chance=0.0,
            means="rank correlation of the distances of all pairs of points",
        ),
        Measured(
            name="density",
            value=dense,
            interval=dense_interval,
            n=len(anchors),
            chance=0.0,
            means=f"correlation of the logarithms of the mean distances to the {near} nearest",
        ),
    ]
    if known is not None:
        third = known(paired)[:, paired][upper]
        value, interval = _jackknife(lambda keep: spearman(third[keep], second[keep]), pairs)
        measured.append(
            Measured(
                name="known",
                value=value,
                interval=interval,
                n=len(paired),
                chance=0.0,
                means="rank correlation of the distances on the map with what was to be taken out: 0 is best",
            )
        )
    return Faithfulness(measured=tuple(measured), anchors=anchors, kept=kept)


def _groups(drawn: np.ndarray) -> np.ndarray:
    """A group for each of some points in ascending order, given in the order in which they were drawn."""
    return np.argsort(drawn) % _GROUPS


def _neighbours(asked: Rows, shown: Rows, anchors: np.ndarray, near: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each anchor the share of neighbours kept, and the mean distance to its neighbours among the points and on the map."""
    kept, radii = np.zeros(len(anchors)), np.zeros((2, len(anchors)))
    for start in range(0, len(anchors), _AT_ONCE):
        chosen = anchors[start : start + _AT_ONCE]
        found = []
        for which, rows in enumerate((asked, shown)):
            distances = np.array(rows(chosen), np.float64)
            distances[np.arange(len(chosen)), chosen] = np.inf
            nearest = np.argpartition(distances, near, axis=1)[:, :near]
            radii[which, start : start + len(chosen)] = np.take_along_axis(distances, nearest, 1).mean(1)
            found.append(nearest)
        same = (found[0][:, :, None] == found[1][:, None, :]).any(2)
        kept[start : start + len(chosen)] = same.mean(1)
    return kept, radii[0], radii[1]


def _jackknife(
    statistic: Callable[[np.ndarray], float], groups: tuple[np.ndarray, ...]
) -> tuple[float, tuple[float, float]]:
    """A statistic with its 95 % interval by leaving out groups of points: pairs share points, so they are not independent.

    Args:
        statistic: of the entries that a mask keeps.
        groups: of each entry's points.
    """
    everything = statistic(np.ones(len(groups[0]), bool))
    used = np.unique(np.concatenate(groups))
    if len(used) < 3:
        return everything, (-1.0, 1.0)
    left = [statistic(np.logical_and.reduce([of != one for of in groups])) for one in used]
    m = len(used)
    error = float(np.sqrt((m - 1) / m * np.square(np.array(left) - np.mean(left)).sum()))
    reach = t_quantile(m - 1) * error
    return everything, (max(-1.0, everything - reach), min(1.0, everything + reach))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the correlation of two lists of numbers; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float(a @ b) / size if size > 0 else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation of two lists of numbers; equal numbers share their mean rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse.reshape(-1)]
