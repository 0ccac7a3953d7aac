"""The two-way bootstrap: persons and, independently, units are drawn again with replacement.

The weight of an answer is the product of how often its person and its unit were drawn. Because persons and units both vary, the
interval is of the population of persons and of the frame of units, not of these persons and these units. The answer's own noise is
counted up to three times (Owen 2007), so intervals are wide rather than narrow; `robust` is the closed form without that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from entoptic.errors import OutOfReach
from entoptic.study.statistics.crossed import Crossed

Statistic = Callable[[np.ndarray], np.ndarray]
"""Takes totals D×K, gives one number a draw (D), NaN where it is not defined."""
Interval = tuple[float, float]
DRAWS = 10_000
_CHUNK = 1000
FEWEST = 2
"""Persons, and units, without which nothing is said of the population."""


@dataclass(frozen=True, kw_only=True)
class Bootstrapped:
    """An estimate with its intervals over persons and units.

    Attributes:
        value: on all answers.
        se: standard deviation of the draws.
        interval: at `level`, percentiles of the two-way draws; the one to report.
        bca: the same, corrected for bias and skew; None where that has no answer.
        persons_only: units taken as fixed.
        units_only: persons taken as fixed.
        robust: Student's, from the two-way cluster-robust variance of the linearised statistic.
        p: two-sided, that the statistic is `null`: twice the smaller share of draws beyond it.
        persons: P.
        units: U.
        answers: how many went in.
        draws: in which the statistic was defined.
        robust_p: as `p`, by Student's distribution and the cluster-robust variance.
        level: of the intervals.
    """

    value: float
    se: float
    interval: Interval
    bca: Interval | None
    persons_only: Interval
    units_only: Interval
    robust: Interval
    p: float
    persons: int
    units: int
    answers: int
    draws: int
    robust_p: float = 1.0
    level: float = 0.95


def two_way(
    table: Crossed, statistic: Statistic, *, seed: str = "", draws: int = DRAWS, null: float = 0.0, level: float = 0.95
) -> Bootstrapped:
    """Returns a statistic of answers with its intervals.

    Args:
        table: sums by person and unit.
        statistic: of the totals.
        seed: a text; the same text gives the same draws.
        draws: of the bootstrap.
        null: value that `p` tests.
        level: of the intervals.

    Raises:
        OutOfReach: there are fewer than two persons or units, or the statistic is not defined on these answers.
    """
    persons, units = table.cells_KPU.shape[1:]
    if persons < FEWEST or units < FEWEST:
        raise OutOfReach(
            f"an interval over persons and units needs at least {FEWEST} of each, there are {persons} and {units}"
        )
    value = float(statistic(table.totals_K[None])[0])
    if not math.isfinite(value):
        raise OutOfReach("it is not defined on these answers: a condition has none")
    both, over_persons, over_units = [], [], []
    for totals, by_person, by_unit in _draw(table, seed, draws):
        both.append(statistic(totals))
        over_persons.append(statistic(by_person))
        over_units.append(statistic(by_unit))
    drawn = _finite(np.concatenate(both))
    outside = (1 - level) / 2
    return Bootstrapped(
        value=value,
        se=float(drawn.std(ddof=1)),
        interval=_percentiles(drawn, outside),
        bca=_bca(table, statistic, value, drawn, outside),
        persons_only=_percentiles(_finite(np.concatenate(over_persons)), outside),
        units_only=_percentiles(_finite(np.concatenate(over_units)), outside),
        robust=robust_interval(table, statistic, level=level),
        p=_p_value(drawn, null),
        persons=persons,
        units=units,
        answers=table.answers,
        draws=len(drawn),
        robust_p=robust_p(table, statistic, null=null),
        level=level,
    )


def totals_of_draws(table: Crossed, *, seed: str = "", draws: int = DRAWS) -> np.ndarray:
    """Returns the totals D×K of two-way draws, for statistics that have several values.

    Args:
        table: sums by person and unit.
        seed: a text; the same text gives the same draws as `two_way`.
        draws: D.
    """
    return np.concatenate([totals for totals, _, _ in _draw(table, seed, draws)])


def generator(*parts: object) -> np.random.Generator:
    """Returns a counter-based generator (Philox) whose key is a hash of `parts`."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "backslashreplace")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def robust_variance(table: Crossed, statistic: Statistic) -> float:
    """Returns the two-way cluster-robust variance of a statistic, V_persons + V_units − V_answers.

    The statistic is linearised at the totals. Where the difference is smaller than the larger of the first two, that one is
    returned: with few persons or units the difference can be too small, even negative.

    Args:
        table: sums by person and unit.
        statistic: of the totals.
    """
    influence_PU = np.einsum("k,kpu->pu", _gradient(statistic, table.totals_K), table.cells_KPU)
    persons, units = influence_PU.shape
    by_person = (influence_PU.sum(1) ** 2).sum() * persons / (persons - 1)
    by_unit = (influence_PU.sum(0) ** 2).sum() * units / (units - 1)
    by_answer = (influence_PU**2).sum()
    return float(max(by_person + by_unit - by_answer, by_person, by_unit))


def robust_interval(table: Crossed, statistic: Statistic, *, level: float = 0.95) -> Interval:
    """Returns Student's interval from `robust_variance`, with one degree of freedom less than the fewer of persons and units."""
    value = float(statistic(table.totals_K[None])[0])
    t = float(stats.t.ppf((1 + level) / 2, min(table.cells_KPU.shape[1:]) - 1))
    half = t * math.sqrt(robust_variance(table, statistic))
    return value - half, value + half


def robust_p(table: Crossed, statistic: Statistic, *, null: float = 0.0) -> float:
    """Returns the two-sided p-value that belongs to `robust_interval`: that the statistic is `null`."""
    away = abs(float(statistic(table.totals_K[None])[0]) - null)
    se = math.sqrt(robust_variance(table, statistic))
    if se == 0:
        return 1.0 if away == 0 else 0.0
    return float(2 * stats.t.sf(away / se, min(table.cells_KPU.shape[1:]) - 1))


def _draw(table: Crossed, seed: str, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Totals D×K of draws over both, over persons alone and over units alone, a chunk at a time."""
    quantities, persons, units = table.cells_KPU.shape
    by_person_KP, by_unit_KU = table.cells_KPU.sum(2), table.cells_KPU.sum(1)
    who, what = generator("persons", seed), generator("units", seed)
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        times_DP = who.multinomial(persons, np.full(persons, 1 / persons), size).astype(float)
        times_DU = what.multinomial(units, np.full(units, 1 / units), size).astype(float)
        totals = np.empty((size, quantities))
        for k, cells_PU in enumerate(table.cells_KPU):
            totals[:, k] = ((times_DP @ cells_PU) * times_DU).sum(1)
        yield totals, times_DP @ by_person_KP.T, times_DU @ by_unit_KU.T


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    if len(kept) < len(values) / 2:
        raise OutOfReach(
            f"in {len(values) - len(kept)} of {len(values)} draws a condition has no answers: there are too few persons "
            "or units for an interval"
        )
    return kept


def _percentiles(values: np.ndarray, outside: float) -> Interval:
    low, high = np.quantile(values, (outside, 1 - outside))
    return float(low), float(high)


def _p_value(drawn: np.ndarray, null: float) -> float:
    below, above = (drawn <= null).sum(), (drawn >= null).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn))))


def _bca(table: Crossed, statistic: Statistic, value: float, drawn: np.ndarray, outside: float) -> Interval | None:
    """Bias-corrected and accelerated; persons and units are two samples, whose jackknife influences are pooled."""
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn)
    if not 0 < below < 1:
        return None
    bias = float(stats.norm.ppf(below))
    influences = []
    for axis in (2, 1):
        without = table.totals_K - table.cells_KPU.sum(axis).T
        left = statistic(without)
        if not np.isfinite(left).all():
            return None
        influences.append((len(left) - 1) / len(left) * (left.mean() - left))
    pooled = np.concatenate(influences)
    spread = float((pooled**2).sum() ** 1.5)
    if spread == 0:
        return None
    acceleration = float((pooled**3).sum() / (6 * spread))
    ends = []
    for z in (float(stats.norm.ppf(outside)), float(stats.norm.ppf(1 - outside))):
        moved = bias + (bias + z) / (1 - acceleration * (bias + z))
        ends.append(float(np.quantile(drawn, float(stats.norm.cdf(moved)))))
    return ends[0], ends[1]


def _gradient(statistic: Statistic, totals_K: np.ndarray) -> np.ndarray:
    """Central differences."""
    steps = 1e-5 * np.maximum(np.abs(totals_K), 1.0)
    moved = np.diag(steps)
    return (statistic(totals_K + moved) - statistic(totals_K - moved)) / (2 * steps)
