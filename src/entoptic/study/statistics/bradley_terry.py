"""Preferences as strengths: Bradley and Terry's model, with Davidson's ties and one term for the side shown first.

In a pair (i first, j second) the three outcomes have log weights λ_i + γ, λ_j and log ν + (λ_i + λ_j + γ)/2, with Σλ = 0. It is an
exponential family, so the likelihood has one maximum, which Newton's method finds for all bootstrap draws together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from scipy.sparse.csgraph import connected_components

from entoptic.errors import OutOfReach
from entoptic.study.statistics.bootstrap import DRAWS, totals_of_draws
from entoptic.study.statistics.crossed import Crossed

FIRST, SECOND, TIE = 0, 1, 2
_ROUNDS, _LARGEST_STEP = 60, 3.0
_RUNS_AWAY = 6.0  # log odds that no finite number of answers here can tell from infinity


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """Fitted strengths.

    Attributes:
        items: names.
        strength: λ of each, with sum 0.
        se: of each, as if answers were independent.
        interval: 95 % of each over persons and units; None where no table by person and unit was given.
        first_shown: γ, how much the side that is shown first is favoured, in log odds.
        ties: ν, 0 where nobody was unsure.
        wins: share of pairs won against each other item, ties counted half, by the model: items × items.
        components: groups of items, the strongest first, where some never lost to others; one group where all is well.
        halved: whether ½ was added to every outcome of every pair, without which there is no finite solution.
        triads: circles among three items (A before B before C before A) by majority.
        lost_draws: bootstrap draws that needed the ½ as well.
        answers: pairs judged.
    """

    items: tuple[str, ...]
    strength: tuple[float, ...]
    se: tuple[float, ...]
    interval: tuple[tuple[float, float], ...] | None
    first_shown: float
    ties: float
    wins: np.ndarray
    components: tuple[tuple[str, ...], ...]
    halved: bool
    triads: int
    lost_draws: int
    answers: int


def outcome_columns(items: tuple[str, ...]) -> dict[tuple[str, str, int], int]:
    """Returns the column of each (first, second, outcome) in the totals that `fit` takes."""
    return {
        (first, second, outcome): 3 * k + outcome
        for k, (first, second) in enumerate(permutations(items, 2))
        for outcome in (FIRST, SECOND, TIE)
    }


def quantities(items: tuple[str, ...], outcomes: list[tuple[str, str, int]]) -> np.ndarray:
    """Returns one row of counts an answer, for `cross`.

    Args:
        items: names of all items.
        outcomes: of each answer: the item shown first, the other, and `FIRST`, `SECOND` or `TIE`.
    """
    columns = outcome_columns(items)
    rows = np.zeros((len(outcomes), len(columns)))
    rows[np.arange(len(outcomes)), [columns[one] for one in outcomes]] = 1
    return rows


def fit(items: tuple[str, ...], totals_K: np.ndarray, *, position: bool = False) -> Strengths:
    """Returns the strengths for counts of outcomes, without intervals over persons and units.

    Args:
        items: at least two names.
        totals_K: counts in the order of `outcome_columns`.
        position: whether a term for the side shown first is fitted.

    Raises:
        OutOfReach: there are fewer than two items, or nobody chose.
    """
    counts = np.asarray(totals_K, float)
    if len(items) < 2 or counts.sum() <= 0:
        raise OutOfReach(f"strengths need answers to pairs of at least two items, there are {len(items)} items")
    groups = _components(items, counts)
    ties = bool(_ties(counts).any())
    thetas, information, halves = _solve(len(items), counts[None], ties=ties, position=position)
    halved = bool(halves[0])
    theta, covariance = thetas[0], np.linalg.pinv(information[0])
    lift = np.vstack([np.eye(len(items) - 1), -np.ones(len(items) - 1)])
    spread = lift @ covariance[: len(items) - 1, : len(items) - 1] @ lift.T
    strength = lift @ theta[: len(items) - 1]
    log_nu = theta[len(items) - 1] if ties else -np.inf
    gaps = strength[:, None] - strength[None]
    nu = float(np.exp(log_nu))
    weight = np.exp(gaps / 2) + np.exp(-gaps / 2) + nu
    return Strengths(
        items=items,
        strength=tuple(map(float, strength)),
        se=tuple(map(float, np.sqrt(np.diag(spread)))),
        interval=None,
        first_shown=float(theta[-1]) if position else 0.0,
        ties=nu,
        wins=(np.exp(gaps / 2) + nu / 2) / weight,
        components=groups,
        halved=halved,
        triads=_triads(len(items), counts),
        lost_draws=0,
        answers=round(counts.sum()),
    )


def fit_crossed(
    items: tuple[str, ...], table: Crossed, *, position: bool = False, seed: str = "", draws: int = DRAWS
) -> Strengths:
    """Returns the strengths with intervals by the two-way bootstrap.

    Args:
        items: names.
        table: counts of outcomes by person and unit, from `quantities`.
        position: whether a term for the side shown first is fitted.
        seed: a text; the same text gives the same draws.
        draws: of the bootstrap.
    """
    found = fit(items, table.totals_K, position=position)
    if min(table.cells_KPU.shape[1:]) < 2:
        return found
    totals = totals_of_draws(table, seed=seed, draws=draws)
    totals = totals[totals.sum(1) > 0]
    theta, _, apart = _solve(len(items), totals, ties=found.ties > 0, position=position)
    own = theta[:, : len(items) - 1]
    strengths = np.concatenate([own, -own.sum(1, keepdims=True)], 1)
    low, high = np.quantile(strengths, (0.025, 0.975), axis=0)
    return Strengths(
        items=items,
        strength=found.strength,
        se=found.se,
        interval=tuple((float(a), float(b)) for a, b in zip(low, high)),
        first_shown=found.first_shown,
        ties=found.ties,
        wins=found.wins,
        components=found.components,
        halved=found.halved,
        triads=found.triads,
        lost_draws=int(apart.sum()),
        answers=found.answers,
    )


def _features(items: int, ties: bool, position: bool) -> np.ndarray:
    """What each outcome of each ordered pair says of the parameters: pairs × 3 × Q."""
    own = items - 1
    size = own + ties + position
    strength = np.vstack([np.eye(own), -np.ones(own)])  # the last item's is minus the sum of the others
    rows = np.zeros((items * own, 3, size))
    for k, (i, j) in enumerate(permutations(range(items), 2)):
        rows[k, FIRST, :own], rows[k, SECOND, :own] = strength[i], strength[j]
        rows[k, TIE, :own] = (strength[i] + strength[j]) / 2
        if ties:
            rows[k, TIE, own] = 1
        if position:
            rows[k, FIRST, -1], rows[k, TIE, -1] = 1, 0.5
    return rows


def _solve(
    items: int, totals_DK: np.ndarray, *, ties: bool, position: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum likelihood of each draw, with ½ added where there is no finite solution; gives too which draws those are.

    There is none where some items never lost to others, and, with a term for the side shown first, where the side alone can
    explain all answers: then the parameters run away.
    """
    totals = totals_DK.copy()
    halves = np.array([not _connected(items, row) for row in totals])
    totals[halves] = _with_halves(totals[halves], items)
    theta, information = _newton(items, totals, ties=ties, position=position)
    own = np.delete(theta, items - 1, 1) if ties else theta  # ν may be small without harm
    away = (np.abs(own).max(1) > _RUNS_AWAY) & ~halves
    if away.any():
        totals[away] = _with_halves(totals[away], items)
        theta[away], information[away] = _newton(items, totals[away], ties=ties, position=position)
    return theta, information, halves | away


def _newton(items: int, totals_DK: np.ndarray, *, ties: bool, position: bool) -> tuple[np.ndarray, np.ndarray]:
    """Maximum likelihood of each draw; gives the parameters D×Q and the information D×Q×Q."""
    features = _features(items, ties, position)
    counts = totals_DK.reshape(len(totals_DK), -1, 3)
    n = counts.sum(2)
    theta = np.zeros((len(counts), features.shape[2]))
    off = np.where(np.array([0.0, 0.0, 0.0 if ties else -np.inf]) == 0, 0.0, -np.inf)  # no ties: their weight is 0
    observed = np.einsum("dpo,poq->dq", counts if ties else counts * [1, 1, 0], features)
    information = np.zeros((len(counts), theta.shape[1], theta.shape[1]))
    for _ in range(_ROUNDS):
        logits = np.einsum("dq,poq->dpo", theta, features) + off
        chance = np.exp(logits - logits.max(2, keepdims=True))
        chance /= chance.sum(2, keepdims=True)
        mean = np.einsum("dpo,poq->dpq", chance, features)
        slope = observed - np.einsum("dp,dpq->dq", n, mean)
        information = np.einsum("dp,dpo,poq,por->dqr", n, chance, features, features, optimize=True)
        information -= np.einsum("dp,dpq,dpr->dqr", n, mean, mean, optimize=True)
        eased = information + 1e-9 * np.eye(theta.shape[1])
        step = np.linalg.solve(eased, slope[..., None])[..., 0]
        size = np.abs(step).max(1, keepdims=True)
        theta += step * np.minimum(1.0, _LARGEST_STEP / np.maximum(size, 1e-30))
        if size.max() < 1e-10:
            break
    return theta, information


def _wins(items: int, totals_K: np.ndarray) -> np.ndarray:
    """Wins of row over column, ties counted half."""
    wins = np.zeros((items, items))
    for k, (i, j) in enumerate(permutations(range(items), 2)):
        first, second, tie = totals_K[3 * k : 3 * k + 3]
        wins[i, j] += first + tie / 2
        wins[j, i] += second + tie / 2
    return wins


def _ties(totals_K: np.ndarray) -> np.ndarray:
    return totals_K.reshape(-1, 3)[:, TIE]


def _with_halves(totals_DK: np.ndarray, items: int) -> np.ndarray:
    """½ for each win of either item in every pair that can occur, split over the two orders."""
    added = totals_DK.reshape(len(totals_DK), items * (items - 1), 3).copy()
    added[:, :, :2] += 0.25
    return added.reshape(totals_DK.shape)


def _connected(items: int, totals_K: np.ndarray) -> bool:
    return connected_components(_wins(items, totals_K) > 0, connection="strong", return_labels=False) == 1


def _components(items: tuple[str, ...], totals_K: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Groups inside which everybody was beaten by way of somebody; the groups that beat most others come first."""
    wins = _wins(len(items), totals_K)
    number, label = connected_components(wins > 0, connection="strong")
    groups = [[i for i in range(len(items)) if label[i] == k] for k in range(number)]
    groups.sort(key=lambda group: -(wins[group].sum() - wins[:, group].sum()) / len(group))
    return tuple(tuple(items[i] for i in group) for group in groups)


def _triads(items: int, totals_K: np.ndarray) -> int:
    wins = _wins(items, totals_K)
    before = wins > wins.T
    return sum(
        bool((before[a, b] and before[b, c] and before[c, a]) or (before[b, a] and before[c, b] and before[a, c]))
        for a, b, c in combinations(range(items), 3)
    )
