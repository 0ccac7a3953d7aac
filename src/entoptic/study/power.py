"""How many people and units a study needs: whole studies are simulated, persons and units random, and analysed as registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from entoptic.base.estimates import wilson
from entoptic.errors import OutOfReach, UserError
from entoptic.study.statistics import planted
from entoptic.study.statistics.bootstrap import generator, two_way
from entoptic.study.statistics.crossed import conditions, difference
from entoptic.study.statistics.planted import Answers, Spread
from entoptic.study.statistics.proportions import independent_sample_size

SESSION = 45
"""Trials of one person where there are more units: a session of about 20 minutes."""
_DRAWS = 1000  # of the bootstrap in one simulated study
_FEWEST = 4  # persons


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is to be found, as shares of right answers in the population.

    Attributes:
        baseline: of the method that it is compared with.
        gain: by which the other method is better.
        spread: of persons, units and their interaction with the method.
    """

    baseline: float = 0.75
    gain: float = 0.1
    spread: Spread = field(default_factory=Spread)

    def __post_init__(self) -> None:
        if not 0 < self.baseline < 1 or not 0 < self.baseline + self.gain < 1:
            raise OutOfReach(
                f"expected shares between 0 and 1, got a baseline of {self.baseline:g} and an effect of {self.gain:g}"
            )

    def study(self, persons: int, units: int, trials: int, seed: str) -> Answers:
        """Returns the answers of one simulated study."""
        shares = {"first": self.baseline + self.gain, "second": self.baseline}
        draw = generator("power", persons, units, trials, seed)
        return planted.choices(shares, persons=persons, units=units, trials=trials, spread=self.spread, draw=draw)


@dataclass(frozen=True, kw_only=True)
class RatingEffect:
    """What is to be found, as a difference of ratings.

    Attributes:
        gain: by which the other method is better, in log odds of a higher rating.
        cuts: thresholds of the ratings of the baseline, of a pilot; by default all five levels are alike.
        spread: of persons, units and their interaction with the method.
    """

    gain: float = 0.5
    cuts: tuple[float, ...] = (-1.386, -0.405, 0.405, 1.386)
    spread: Spread = field(default_factory=Spread)

    def study(self, persons: int, units: int, trials: int, seed: str) -> Answers:
        """Returns the answers of one simulated study."""
        effects, draw = {"first": self.gain, "second": 0.0}, generator("power", persons, units, trials, seed)
        return planted.ratings(
            effects, self.cuts, persons=persons, units=units, trials=trials, spread=self.spread, draw=draw
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Power:
    """The power of one design.

    Attributes:
        persons: P.
        units: U.
        trials: of each person.
        found: simulated studies whose two-way bootstrap interval leaves out 0: the registered test.
        found_robust: the same by the cluster-robust interval.
        simulations: studies simulated.
    """

    persons: int
    units: int
    trials: int
    found: int
    found_robust: int
    simulations: int

    @property
    def power(self) -> float:
        """The share of studies that find the effect."""
        return self.found / self.simulations

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the simulation alone."""
        return wilson(self.found, self.simulations)


def power(
    effect: Effect | RatingEffect, persons: int, units: int, *, trials: int | None = None, simulations: int = 200,
    seed: str = "0", each: Callable[[], None] | None = None,
) -> Power:  # fmt: skip
    """Returns the power of a design.

    Args:
        effect: to be found.
        persons: P.
        units: U.
        trials: of each person; None is all units, at most `SESSION`.
        simulations: studies; 200 for a look, 1000 for a final number.
        seed: a text.
        each: called after each study.
    """
    if simulations < 1:
        raise OutOfReach(f"expected at least 1 simulated study, got {simulations}")
    per_person = min(units, SESSION) if trials is None else trials
    found = robust = 0
    for i in range(simulations):
        study = effect.study(persons, units, per_person, f"{seed}|{i}")
        table = conditions(study.persons, study.units, study.methods, study.values_N, ("first", "second"))
        try:
            result = two_way(table, difference, seed=f"{seed}|{i}", draws=_DRAWS)
        except OutOfReach:  # too few answers for an interval: nothing was found
            continue
        found += not result.interval[0] <= 0 <= result.interval[1]
        robust += not result.robust[0] <= 0 <= result.robust[1]
        if each is not None:
            each()
    return Power(
        persons=persons, units=units, trials=per_person, found=found, found_robust=robust, simulations=simulations
    )  # fmt: skip


def fewest_persons(
    effect: Effect | RatingEffect, units: int, *, target: float = 0.8, most: int = 200, trials: int | None = None,
    simulations: int = 200, seed: str = "0", each: Callable[[Power], None] | None = None,
) -> Power:  # fmt: skip
    """Returns the design with the fewest persons that reaches a power, or that with `most` persons where none does.

    Power is simulated at the ends and in the middle of an interval that is halved, so the number is as sure as the simulation:
    designs beside it have nearly the same power.

    Args:
        effect: to be found.
        units: U.
        target: power to reach.
        most: persons to try.
        trials: of each person; None is all units, at most `SESSION`.
        simulations: studies a design.
        seed: a text.
        each: called with the power of each design that was tried.

    Raises:
        UserError: the target is not inside (0, 1), or `most` is too small.
    """
    if not 0 < target < 1 or most < _FEWEST:
        raise UserError(
            f"expected a power between 0 and 1 and at least {_FEWEST} persons, got {target:g} and {most}"
        )  # fmt: skip

    def at(persons: int) -> Power:
        found = power(effect, persons, units, trials=trials, simulations=simulations, seed=seed)
        if each is not None:
            each(found)
        return found

    best = at(most)
    if best.power < target:
        return best
    low, high = _FEWEST - 1, most  # `high` reaches it, `low` is not known to
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        tried = at(middle)
        if tried.power >= target:
            best, high = tried, middle
        else:
            low = middle
    return best


def lower_bound(effect: Effect, target: float = 0.8) -> float:
    """Returns the answers a method that the closed form for independent answers asks for: fewer than any clustered study needs."""
    return independent_sample_size(effect.baseline + effect.gain, effect.baseline, power=target).pooled
