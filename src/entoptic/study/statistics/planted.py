"""Answers with known effects, persons and units random: what power is simulated with, and what estimators are tested on.

The effect of an answer is on the logit scale: logit P = β_method + a_person + b_unit + c_unit×method + d_person×method. Shares are
those of the population of persons and units, so a planted share is what an endless study would find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from entoptic.errors import OutOfReach
from entoptic.study.statistics.ratings import level_chances

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of the random effects, in logits. The defaults are read off a published laboratory study.

    Attributes:
        person: of a.
        unit: of b.
        unit_method: of c; a guess, to be varied from 0.25 to 1.
        person_method: of d.
    """

    person: float = 0.25
    unit: float = 1.0
    unit_method: float = 0.5
    person_method: float = 0.0

    @property
    def total(self) -> float:
        """The standard deviation of their sum."""
        return (self.person**2 + self.unit**2 + self.unit_method**2 + self.person_method**2) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers, one entry each.

    Attributes:
        persons: who gave it.
        units: what it is about.
        methods: that made the pictures.
        values_N: 1 and 0 for right and wrong, or a rating.
    """

    persons: list[str]
    units: list[str]
    methods: list[str]
    values_N: np.ndarray


def marginal(logit: float, sd: float) -> float:
    """Returns the share of a population whose logits are normal."""
    return float(_WEIGHTS @ (1 / (1 + np.exp(-(logit + sd * _NODES)))))


def logit_for(share: float, sd: float) -> float:
    """Returns the mean logit of a population with a share.

    Raises:
        OutOfReach: the share is not inside (0, 1).
    """
    if not 0.001 <= share <= 0.999:
        raise OutOfReach(f"expected a share between 0.001 and 0.999, got {share:g}")
    return float(optimize.brentq(lambda x: marginal(x, sd) - share, -60, 60))


def marginal_levels(cuts: Sequence[float], effect: float, sd: float) -> np.ndarray:
    """Returns the shares of rating levels in a population whose effects are normal."""
    return _WEIGHTS @ level_chances(cuts, effect + sd * _NODES)


def choices(
    shares: Mapping[str, float], *, persons: int, units: int, trials: int, spread: Spread, draw: np.random.Generator
) -> Answers:
    """Returns right and wrong answers of a study.

    Args:
        shares: of right answers in the population, by method.
        persons: P.
        units: U.
        trials: of each person, at most `units`.
        spread: of the random effects.
        draw: generator.
    """
    who, what, which = design(persons, units, trials, len(shares), draw)
    base = np.array([logit_for(share, spread.total) for share in shares.values()])
    logits = base[which] + _effects(who, what, which, persons, units, len(shares), spread, draw)
    values = (draw.random(len(who)) < 1 / (1 + np.exp(-logits))).astype(float)
    return _answers(who, what, which, list(shares), values)


def ratings(
    effects: Mapping[str, float], cuts: Sequence[float], *, persons: int, units: int, trials: int, spread: Spread,
    draw: np.random.Generator,
) -> Answers:  # fmt: skip
    """Returns ratings of a study, from a cumulative-logit model.

    Args:
        effects: of the methods, in logits.
        cuts: thresholds, see `ratings.thresholds`.
        persons: P.
        units: U.
        trials: of each person, at most `units`.
        spread: of the random effects.
        draw: generator.
    """
    who, what, which = design(persons, units, trials, len(effects), draw)
    effect = np.array(list(effects.values()))[which]
    effect = effect + _effects(who, what, which, persons, units, len(effects), spread, draw)
    edges = np.cumsum(level_chances(cuts, effect), 1)
    values = 1.0 + (draw.random(len(who))[:, None] > edges[:, :-1]).sum(1)
    return _answers(who, what, which, list(effects), values)


def design(
    persons: int, units: int, trials: int, methods: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns person, unit and method of every answer: nobody sees a unit twice, units are dealt from decks, methods rotate.

    Args:
        persons: P.
        units: U.
        trials: of each person, at most `units`.
        methods: M.
        draw: generator.
    """
    if not 1 <= trials <= units:
        raise OutOfReach(f"nobody sees a unit twice: expected 1 to {units} trials a person, got {trials}")
    who = np.repeat(np.arange(persons), trials)
    if trials == units:
        what = np.tile(np.arange(units), persons)
    else:  # a window that moves along one shuffled circle of units: everybody has different ones, and counts differ by at most 1
        circle = draw.permutation(units)
        what = circle[(np.arange(persons * trials)) % units]
    which = (what + who) % methods if trials == units else (what + who + np.arange(len(who)) // units) % methods
    return who, what, which


def _effects(
    who: np.ndarray, what: np.ndarray, which: np.ndarray, persons: int, units: int, methods: int, spread: Spread,
    draw: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    return (
        draw.normal(0, spread.person, persons)[who]
        + draw.normal(0, spread.unit, units)[what]
        + draw.normal(0, spread.unit_method, (units, methods))[what, which]
        + draw.normal(0, spread.person_method, (persons, methods))[who, which]
    )


def _answers(who: np.ndarray, what: np.ndarray, which: np.ndarray, names: list[str], values: np.ndarray) -> Answers:
    return Answers(
        persons=[f"p{p}" for p in who],
        units=[f"u{u}" for u in what],
        methods=[names[m] for m in which],
        values_N=values,
    )
