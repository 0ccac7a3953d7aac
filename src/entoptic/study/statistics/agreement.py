"""Agreement between people: Krippendorff's alpha with missing values, and correlations within classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from entoptic.errors import OutOfReach

Level = Literal["nominal", "ordinal", "interval", "ratio"]
_LARGEST = 1 - 1e-9  # of a correlation, for Fisher's scale


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Krippendorff's alpha: 1 is full agreement, 0 is what chance gives.

    Attributes:
        alpha: the estimate.
        interval: 95 %, by a jackknife over units; None with fewer than three units, and where the agreement is full.
        units: with at least two values.
        values: in them.
        raters: people who gave them.
        level: of measurement.
    """

    alpha: float
    interval: tuple[float, float] | None
    units: int
    values: int
    raters: int
    level: Level


def krippendorff(ratings_RU: np.ndarray, level: Level) -> Agreement:
    """Returns the agreement of raters on units.

    Args:
        ratings_RU: R raters × U units, NaN where a rater gave no value. Nominal values are numbers of categories.
        level: "nominal", "ordinal", "interval" or "ratio".

    Raises:
        OutOfReach: no unit has two values, or all values are the same.
    """
    ratings = np.asarray(ratings_RU, float)
    given = np.isfinite(ratings)
    kept = given.sum(0) >= 2
    if not kept.any():
        raise OutOfReach("agreement needs units with answers of at least two people; there is none")
    ratings, given = ratings[:, kept], given[:, kept]
    values_C = np.unique(ratings[given])
    counts_UC = np.stack([((ratings == value) & given).sum(0) for value in values_C], 1).astype(float)
    alpha = float(_alpha(counts_UC, np.ones((1, len(counts_UC))), values_C, level)[0])
    if not np.isfinite(alpha):
        raise OutOfReach(f"agreement is not defined: all {int(given.sum())} answers are the same")
    return Agreement(
        alpha=alpha,
        interval=_interval(counts_UC, values_C, level, alpha),
        units=len(counts_UC),
        values=int(given.sum()),
        raters=int(given.any(1).sum()),
        level=level,
    )


def matrix(raters: Sequence[str], units: Sequence[str], values_N: np.ndarray) -> np.ndarray:
    """Returns answers as R raters × U units, NaN where there is none; of several answers of one to one, the last counts."""
    who, rater_N = np.unique(np.asarray(raters, str), return_inverse=True)
    what, unit_N = np.unique(np.asarray(units, str), return_inverse=True)
    table = np.full((len(who), len(what)), np.nan)
    table[rater_N, unit_N] = np.asarray(values_N, float)
    return table


def _interval(counts_UC: np.ndarray, values_C: np.ndarray, level: Level, alpha: float) -> tuple[float, float] | None:
    """Student's interval of jackknife pseudo-values on Fisher's scale, units left out one at a time.

    The pseudo-values also take out most of the bias of few units. Percentiles of a bootstrap over units held the truth in only
    80 to 87 % of simulated studies.
    """
    units = len(counts_UC)
    if units < 3 or alpha >= 1:
        return None
    without_U = _alpha(counts_UC, 1 - np.eye(units), values_C, level)
    if not np.isfinite(without_U).all():
        return None
    z, z_U = (np.arctanh(np.clip(one, -_LARGEST, _LARGEST)) for one in (alpha, without_U))
    pseudo_U = units * z - (units - 1) * z_U
    half = stats.t.ppf(0.975, units - 1) * pseudo_U.std(ddof=1) / math.sqrt(units)
    return float(np.tanh(pseudo_U.mean() - half)), float(np.tanh(pseudo_U.mean() + half))


def _alpha(counts_UC: np.ndarray, times_DU: np.ndarray, values_C: np.ndarray, level: Level) -> np.ndarray:
    """Alpha of draws in which unit u counts times_DU[d, u] times: 1 − (N − 1)·Σ o δ² / Σ n n δ²."""
    m_U = counts_UC.sum(1)
    totals_DC = times_DU @ counts_UC
    n_D = totals_DC.sum(1)
    apart_DCC = _squared_distances(values_C, totals_DC, level)
    # pairs of values inside a unit, each weighted by 1/(m − 1); a value makes no pair with itself, whose distance is 0 anyway
    pairs_UCC = counts_UC[:, :, None] * counts_UC[:, None] / (m_U - 1)[:, None, None]
    if len(apart_DCC) == 1:
        observed_D = times_DU @ (pairs_UCC * apart_DCC).sum((1, 2))
    else:
        observed_D = (np.tensordot(times_DU, pairs_UCC, 1) * apart_DCC).sum((1, 2))
    expected_D = (totals_DC[:, :, None] * totals_DC[:, None] * apart_DCC).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (n_D - 1) * observed_D / expected_D


def _squared_distances(values_C: np.ndarray, totals_DC: np.ndarray, level: Level) -> np.ndarray:
    """δ² between categories, D×C×C, or 1×C×C where it does not depend on how often they occur."""
    first, second = values_C[:, None], values_C[None]
    if level == "nominal":
        return (first != second).astype(float)[None]
    if level == "interval":
        return ((first - second) ** 2)[None]
    if level == "ratio":
        both = first + second
        return np.where(both == 0, 0.0, ((first - second) / np.where(both == 0, 1.0, both)) ** 2)[None]
    below_DC = np.cumsum(totals_DC, 1)  # of categories up to and with c
    middle_DC = below_DC - totals_DC / 2  # the rank mass between two categories, with half of each end
    return (middle_DC[:, :, None] - middle_DC[:, None]) ** 2


@dataclass(frozen=True, kw_only=True)
class Intraclass:
    """Intraclass correlations after Shrout and Fleiss: which share of the variance is between targets.

    Attributes:
        one_way: ICC(1,1), every target has judges of its own.
        random: ICC(2,1), judges are a random sample.
        fixed: ICC(3,1), these judges alone matter.
        one_way_mean: ICC(1,k), of the mean of k judges.
        random_mean: ICC(2,k).
        fixed_mean: ICC(3,k).
    """

    one_way: float
    random: float
    fixed: float
    one_way_mean: float
    random_mean: float
    fixed_mean: float


def intraclass(ratings_TJ: np.ndarray) -> Intraclass:
    """Returns the intraclass correlations of complete ratings.

    Args:
        ratings_TJ: T targets × J judges, without gaps.

    Raises:
        OutOfReach: there are gaps, or fewer than two targets or judges.
    """
    ratings = np.asarray(ratings_TJ, float)
    if ratings.ndim != 2 or min(ratings.shape) < 2 or not np.isfinite(ratings).all():
        raise OutOfReach("correlations within classes need at least two targets and two judges, without gaps")
    targets, judges = ratings.shape
    centred = ratings - ratings.mean()
    between = judges * (centred.mean(1) ** 2).sum() / (targets - 1)  # BMS
    of_judges = targets * (centred.mean(0) ** 2).sum() / (judges - 1)  # JMS
    within = ((ratings - ratings.mean(1, keepdims=True)) ** 2).sum() / (targets * (judges - 1))  # WMS
    rest = (within * targets * (judges - 1) - of_judges * (judges - 1)) / ((targets - 1) * (judges - 1))  # EMS
    return Intraclass(
        one_way=float((between - within) / (between + (judges - 1) * within)),
        random=float((between - rest) / (between + (judges - 1) * rest + judges * (of_judges - rest) / targets)),
        fixed=float((between - rest) / (between + (judges - 1) * rest)),
        one_way_mean=float((between - within) / between),
        random_mean=float((between - rest) / (between + (of_judges - rest) / targets)),
        fixed_mean=float((between - rest) / between),
    )
