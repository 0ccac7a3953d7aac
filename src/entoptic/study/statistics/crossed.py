"""Answers as tables: what every person answered for every unit, in sums that resampling can weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entoptic.errors import OutOfReach


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Sums of K quantities over the answers of each person to each unit.

    A statistic of a study is a function of the K totals: a mean is sum / count, a difference of two conditions needs four.

    Attributes:
        cells_KPU: the sums, K quantities × P persons × U units.
        persons: names, in the order of the second axis.
        units: names, in the order of the third axis.
        answers: how many went in.
    """

    cells_KPU: np.ndarray
    persons: tuple[str, ...]
    units: tuple[str, ...]
    answers: int

    @property
    def totals_K(self) -> np.ndarray:
        """The quantities over all answers."""
        return self.cells_KPU.sum((1, 2))


def cross(persons: Sequence[str], units: Sequence[str], quantities_NK: np.ndarray) -> Crossed:
    """Returns the sums of answers by person and unit.

    Args:
        persons: who gave each of the N answers.
        units: what each answer is about.
        quantities_NK: K finite numbers of each answer, such as (value, 1).

    Raises:
        OutOfReach: there are no answers, or the numbers are not finite or not one row an answer.
    """
    quantities = np.asarray(quantities_NK, float)
    if not len(persons) or len(persons) != len(units) or quantities.ndim != 2 or len(quantities) != len(persons):
        raise OutOfReach(
            f"expected a person, a unit and a row of numbers for each of at least one answer, got {len(persons)}, "
            f"{len(units)} and an array of {'×'.join(map(str, quantities.shape))}"
        )
    if not np.isfinite(quantities).all():
        raise OutOfReach("an answer holds a number that is not finite")
    who, person_N = np.unique(np.asarray(persons, str), return_inverse=True)
    what, unit_N = np.unique(np.asarray(units, str), return_inverse=True)
    cells = np.zeros((quantities.shape[1], len(who), len(what)))
    for k, column_N in enumerate(quantities.T):
        np.add.at(cells[k], (person_N, unit_N), column_N)
    return Crossed(
        cells_KPU=cells, persons=tuple(map(str, who)), units=tuple(map(str, what)), answers=len(quantities)
    )  # fmt: skip


def conditions(
    persons: Sequence[str], units: Sequence[str], conditions: Sequence[str], values_N: np.ndarray, names: Sequence[str]
) -> Crossed:
    """Returns the sums for means of several conditions: K = (sum, count) of each, in the order of `names`.

    Args:
        persons: who gave each of the N answers.
        units: what each answer is about.
        conditions: the condition of each answer; answers of others than `names` are left out.
        values_N: of the answers.
        names: of the conditions.
    """
    given, values = np.asarray(conditions, str), np.asarray(values_N, float)
    kept = np.isin(given, list(names))
    columns = []
    for name in names:
        of_it = (given == name)[kept].astype(float)
        columns += [of_it * values[kept], of_it]
    people, what = np.asarray(persons, str)[kept], np.asarray(units, str)[kept]
    return cross(people.tolist(), what.tolist(), np.stack(columns, 1) if columns else np.zeros((0, 0)))


def mean(totals_DK: np.ndarray) -> np.ndarray:
    """The mean of each draw from totals (sum, count)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals_DK[..., 0] / totals_DK[..., 1]


def difference(totals_DK: np.ndarray) -> np.ndarray:
    """The mean of the first condition minus that of the second, from totals (sum, count, sum, count)."""
    return mean(totals_DK[..., :2]) - mean(totals_DK[..., 2:])
