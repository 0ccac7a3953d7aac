"""Ratings on a few ordered levels: superiority, thresholds, and tests of paired means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from entoptic.errors import OutOfReach
from entoptic.study.statistics.bootstrap import Statistic
from entoptic.study.statistics.crossed import Crossed, cross


def superiority_table(
    persons: Sequence[str], units: Sequence[str], conditions: Sequence[str], ratings_N: np.ndarray,
    pair: tuple[str, str], levels: int = 5,
) -> tuple[Crossed, Statistic]:  # fmt: skip
    """Returns the counts of each level in two conditions, and the statistic P(first above second) + ½ P(tie) of them.

    Args:
        persons: who gave each of the N ratings.
        units: what each is about.
        conditions: of each.
        ratings_N: whole numbers from 1.
        pair: the two conditions.
        levels: of the scale.
    """
    rating, given = np.asarray(ratings_N, float), np.asarray(conditions, str)
    kept = np.isin(given, pair)
    counts = np.zeros((int(kept.sum()), 2 * levels))
    column = (rating[kept].astype(int) - 1) + levels * (given[kept] == pair[1])
    counts[np.arange(len(counts)), column] = 1
    table = cross(np.asarray(persons, str)[kept].tolist(), np.asarray(units, str)[kept].tolist(), counts)
    return table, superiority


def superiority(totals_DK: np.ndarray) -> np.ndarray:
    """The probability that the first condition is rated above the second, ties counted half, from counts of levels."""
    levels = totals_DK.shape[-1] // 2
    first, second = totals_DK[..., :levels], totals_DK[..., levels:]
    below = np.cumsum(second, -1) - second / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return (first * below).sum(-1) / (first.sum(-1) * second.sum(-1))


def thresholds(counts: Sequence[float]) -> list[float]:
    """Returns the thresholds of a cumulative-logit model without predictors: logits of cumulative shares.

    Args:
        counts: of each level, the lowest first.

    Raises:
        OutOfReach: the lowest or the highest level was never used, which puts a threshold at infinity.
    """
    if len(counts) < 2 or min(counts[0], counts[-1]) <= 0:
        raise OutOfReach(f"thresholds need answers at both ends of the scale, got counts {list(counts)}")
    shares = np.cumsum(counts)[:-1] / np.sum(counts)
    return [float(one) for one in np.log(shares / (1 - shares))]


def level_chances(cuts: Sequence[float], effect_N: np.ndarray) -> np.ndarray:
    """Returns the chance of each level, N×levels, under logit P(Y ≤ k) = θ_k − effect.

    Args:
        cuts: the thresholds θ, rising.
        effect_N: of each answer, in logits; more gives higher ratings.
    """
    at_most = 1 / (1 + np.exp(-(np.asarray(cuts)[None] - np.asarray(effect_N)[:, None])))
    edges = np.concatenate([np.zeros((len(at_most), 1)), at_most, np.ones((len(at_most), 1))], 1)
    return np.diff(edges, axis=1)


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Returns the exact two-sided p of Wilcoxon's signed ranks, zeros left out, for one difference a person (or a unit)."""
    kept = [d for d in differences if d]
    if not kept:
        return 1.0
    ranks = stats.rankdata(np.abs(kept))
    reached = float(sum(rank for rank, d in zip(ranks, kept) if d > 0))
    chances = {0.0: 1.0}  # of every sum of ranks, by adding one rank after the other; midranks are allowed
    for rank in ranks:
        grown: dict[float, float] = {}
        for total, chance in chances.items():
            for value in (total, total + float(rank)):
                grown[value] = grown.get(value, 0.0) + chance / 2
        chances = grown
    low = sum(chance for total, chance in chances.items() if total <= reached + 1e-9)
    high = sum(chance for total, chance in chances.items() if total >= reached - 1e-9)
    return min(1.0, 2 * min(low, high))


def rank_biserial(differences: Sequence[float]) -> float:
    """Returns the matched-pairs rank-biserial correlation, the effect size beside `wilcoxon_p`, in [−1, 1]."""
    kept = [d for d in differences if d]
    ranks = stats.rankdata(np.abs(kept))
    return float(sum(rank * np.sign(d) for rank, d in zip(ranks, kept)) / ranks.sum()) if kept else 0.0
