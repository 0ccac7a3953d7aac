"""The permutation test of two conditions: their labels are exchanged within persons, all of one person's answers at once.

The design gives every person both conditions, on units that rotate between them. Where the condition makes no difference, a
person could as well have had the other list: exchanging the two labels of all of a person's answers leaves every answer and the
person's lists of units as they were. The test is of these units; it says nothing of others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entoptic.errors import OutOfReach
from entoptic.study.statistics.bootstrap import generator

DRAWS = 10_000
_ALL = 12
"""Persons up to whom every exchange is tried."""
_CHUNK = 1000


def exchange_test(
    persons: Sequence[str], conditions: Sequence[str], values_N: np.ndarray, pair: tuple[str, str], *, seed: str = "",
    draws: int = DRAWS,
) -> float:  # fmt: skip
    """Returns the two-sided p-value of a difference of means between two conditions.

    Args:
        persons: who gave each of the N answers.
        conditions: of each; answers of others than the pair are left out.
        values_N: of the answers.
        pair: the two conditions.
        seed: a text; the same text gives the same draws.
        draws: exchanges at random, where there are more than 12 persons; with fewer persons all are tried.

    Raises:
        OutOfReach: a condition has no answers, or no person answered.
    """
    given, values = np.asarray(conditions, str), np.asarray(values_N, float)
    who, person_N = np.unique(np.asarray(persons, str), return_inverse=True)
    sums_P4 = np.zeros((len(who), 4))  # sum and count of the first condition, then of the second
    for k, name in enumerate(pair):
        of_it = given == name
        np.add.at(sums_P4[:, 2 * k], person_N[of_it], values[of_it])
        np.add.at(sums_P4[:, 2 * k + 1], person_N[of_it], 1.0)
    sums_P4 = sums_P4[sums_P4[:, 1] + sums_P4[:, 3] > 0]
    if not len(sums_P4) or 0 in sums_P4.sum(0)[[1, 3]]:
        raise OutOfReach("a condition has no answers, so there are no labels to exchange")
    swapped_P4 = sums_P4[:, [2, 3, 0, 1]]
    observed = abs(_difference(sums_P4.sum(0)[None])[0])
    beyond = tried = 0
    for exchanged_DP in _exchanges(len(sums_P4), seed, draws):
        totals = (~exchanged_DP) @ sums_P4 + exchanged_DP @ swapped_P4
        found = np.abs(_difference(totals))
        found = found[np.isfinite(found)]
        beyond, tried = beyond + int((found >= observed - 1e-12).sum()), tried + len(found)
    if len(sums_P4) <= _ALL:  # what was observed is among them
        return beyond / tried
    return (1 + beyond) / (1 + tried)


def _exchanges(persons: int, seed: str, draws: int) -> list[np.ndarray]:
    if persons <= _ALL:
        numbers = np.arange(2**persons)
        return [(numbers[:, None] >> np.arange(persons)) & 1 > 0]
    draw = generator("exchange", seed)
    return [draw.random((min(_CHUNK, draws - start), persons)) < 0.5 for start in range(0, draws, _CHUNK)]


def _difference(totals_D4: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals_D4[:, 0] / totals_D4[:, 1] - totals_D4[:, 2] / totals_D4[:, 3]
