"""Simulated participants: who looks as a network does, who rates with known effects, who flips a coin, and who does not care."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from entoptic.study.client import Reply
from entoptic.study.machine_scores import choice_chances
from entoptic.study.records import RATED, Task, Trial
from entoptic.study.statistics.bootstrap import generator
from entoptic.study.statistics.machine import ALPHA
from entoptic.study.statistics.planted import Spread
from entoptic.study.statistics.ratings import level_chances

CUTS = (-1.386, -0.405, 0.405, 1.386)
"""Thresholds of a rating whose effect is 0: all five levels are alike."""


class Observer(Protocol):
    """Answers trials."""

    @property
    def name(self) -> str:
        """Of the kind."""
        ...

    @property
    def instruction_seconds(self) -> float:
        """On the instructions."""
        ...

    def answer(self, trial: Trial, task: Task, draw: np.random.Generator) -> Reply:
        """Returns the answer to a trial."""
        ...


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Planted effects, in logits: what simulated people find in the pictures of each method.

    Attributes:
        methods: by name; 0 is an average method.
        natural: of real photos, in tasks with a right answer.
        none: without references.
        base: of a method with effect 0, in tasks with a right answer.
        spread: of persons, units and unit × method.
    """

    methods: Mapping[str, float]
    natural: float = 2.0
    none: float = -0.2
    base: float = 1.0
    spread: Spread = field(default_factory=Spread)


def spaced_effects(methods: Sequence[str], width: float = 1.5) -> Effects:
    """Returns effects that fall evenly from the first method to the last.

    Args:
        methods: names.
        width: between first and last, in logits.
    """
    steps = np.linspace(width / 2, -width / 2, len(methods)) if len(methods) > 1 else [0.0]
    return Effects(methods={name: float(step) for name, step in zip(methods, steps)})


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Answers every task by planted effects.

    Attributes:
        person: identifier, which the person's effect is drawn by.
        seed: of the units' effects, which all people share.
        effects: planted.
        labels: of all units; wrong descriptions are taken from them.
        care: chance to answer a practice or catch trial right.
        name: of the kind.
        instruction_seconds: on the instructions.
    """

    person: str
    seed: str
    effects: Effects
    labels: Sequence[str] = ()
    care: float = 0.98
    name: str = "rater"
    instruction_seconds: float = 40.0

    def answer(self, trial: Trial, task: Task, draw: np.random.Generator) -> Reply:
        """Returns the answer to a trial."""
        seconds = float(np.exp(draw.normal(np.log(7.0), 0.35)))
        if trial.kind != "main" and trial.right:
            return self._obvious(trial, task, draw, seconds)
        if trial.task in RATED:
            chances = level_chances(CUTS, np.array([self._effect(trial, trial.method)]))[0]
            return Reply(rating=_level(chances, task.scale, draw), seconds=seconds)
        if trial.task == "describe":
            return Reply(text=self._words(trial, draw), seconds=2 * seconds)
        if trial.task == "preference":
            return self._preference(trial, task, draw, seconds)
        right = draw.random() < _logistic(self._effect_of_arm(trial))
        return Reply(choice=_choice(trial, right, draw), confidence=_confidence(task, right, draw), seconds=seconds)

    def _obvious(self, trial: Trial, task: Task, draw: np.random.Generator, seconds: float) -> Reply:
        right = bool(draw.random() < self.care)
        if trial.task in RATED:
            wrong = [k for k in range(1, task.scale + 1) if k not in trial.right] or list(trial.right)
            return Reply(rating=int(draw.choice(trial.right if right else wrong)), seconds=seconds)
        return Reply(choice=_choice(trial, right, draw), confidence=_confidence(task, right, draw), seconds=seconds)

    def _effect(self, trial: Trial, method: str) -> float:
        """Of a method, with those of person, unit and unit × method."""
        return self.effects.methods.get(method, 0.0) + self._random(trial, method)

    def _effect_of_arm(self, trial: Trial) -> float:
        fixed = {"natural": self.effects.natural, "none": self.effects.none}.get(trial.arm)
        if fixed is None:
            return self.effects.base + self._effect(trial, trial.method)
        return fixed + self._random(trial, trial.arm)

    def _random(self, trial: Trial, method: str) -> float:
        spread = self.effects.spread
        return float(
            generator("person", self.seed, self.person).normal(0, spread.person)
            + generator("unit", self.seed, trial.unit).normal(0, spread.unit)
            + generator("unit method", self.seed, trial.unit, method).normal(0, spread.unit_method)
        )

    def _words(self, trial: Trial, draw: np.random.Generator) -> str:
        if trial.label and draw.random() < _logistic(self._effect(trial, trial.method)):
            return _first_name(trial.label)
        others = [one for one in self.labels if one != trial.label]
        return _first_name(str(draw.choice(others))) if others and draw.random() < 0.8 else "don't know"

    def _preference(self, trial: Trial, task: Task, draw: np.random.Generator, seconds: float) -> Reply:
        if task.not_sure and draw.random() < 0.1:
            return Reply(not_sure=True, seconds=seconds)
        first, second = (self._effect(trial, one.method) for one in trial.choices[:2])
        return Reply(choice=int(draw.random() >= _logistic(first - second)), seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class ModelObserver:
    """Looks as a network does: features of the pictures answer 2-AFC and intruder trials; other tasks are left to a rater.

    Attributes:
        rater: answers what features cannot.
        features: of each picture, by its name.
        alpha: sharpness of its choices.
        name: of the kind.
        instruction_seconds: on the instructions.
    """

    rater: Rater
    features: Mapping[str, np.ndarray]
    alpha: float = ALPHA
    name: str = "model"
    instruction_seconds: float = 40.0

    def chances(self, trial: Trial) -> np.ndarray:
        """Returns the chance of each choice of a 2-AFC or intruder trial."""
        return choice_chances(trial, self.features, alpha=self.alpha)

    def answer(self, trial: Trial, task: Task, draw: np.random.Generator) -> Reply:
        """Returns the answer to a trial."""
        if trial.task not in ("2afc", "intruder") or (trial.kind != "main" and trial.right):
            return self.rater.answer(trial, task, draw)
        chances = self.chances(trial)
        choice = int(draw.choice(len(chances), p=chances))
        sure = 1 + int(np.digitize(chances[choice], (0.6, 0.8)))
        seconds = float(np.exp(draw.normal(np.log(7.0), 0.35)))
        return Reply(choice=choice, confidence=min(sure, task.confidence) if task.confidence else None, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Coin:
    """Flips a coin: every answer is as likely as any other."""

    labels: Sequence[str] = ()
    name: str = "coin"
    instruction_seconds: float = 25.0

    def answer(self, trial: Trial, task: Task, draw: np.random.Generator) -> Reply:
        """Returns the answer to a trial."""
        seconds = float(np.exp(draw.normal(np.log(5.0), 0.3)))
        if trial.task in RATED:
            return Reply(rating=int(draw.integers(1, task.scale + 1)), seconds=seconds)
        if trial.task == "describe":
            return Reply(
                text=_first_name(str(draw.choice(list(self.labels)))) if self.labels else "thing", seconds=seconds
            )
        confidence = int(draw.integers(1, task.confidence + 1)) if task.confidence else None
        return Reply(choice=int(draw.integers(len(trial.choices))), confidence=confidence, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Careless:
    """Passes the practice, then clicks the first answer as fast as it can."""

    rater: Rater
    name: str = "careless"
    instruction_seconds: float = 4.0

    def answer(self, trial: Trial, task: Task, draw: np.random.Generator) -> Reply:
        """Returns the answer to a trial."""
        if trial.kind == "practice":
            return self.rater.answer(trial, task, draw)
        if trial.task in RATED:
            return Reply(rating=(task.scale + 1) // 2, seconds=0.8)
        if trial.task == "describe":
            return Reply(text="picture", seconds=0.8)
        return Reply(choice=0, confidence=1 if task.confidence else None, seconds=0.8)


def _choice(trial: Trial, right: bool, draw: np.random.Generator) -> int:
    count = len(trial.choices)
    fitting = [k for k in range(count) if (k in trial.right) == right]
    return int(draw.choice(fitting or list(range(count))))


def _confidence(task: Task, right: bool, draw: np.random.Generator) -> int | None:
    if not task.confidence:
        return None
    return int(np.clip(round(draw.normal(0.8 if right else 0.5, 0.25) * task.confidence), 1, task.confidence))


def _level(chances: np.ndarray, scale: int, draw: np.random.Generator) -> int:
    """A rating from 1 to `scale`, from chances of five levels."""
    level = int(draw.choice(len(chances), p=chances / chances.sum()))
    return 1 + round(level * (scale - 1) / (len(chances) - 1))


def _first_name(label: str) -> str:
    return label.split(",")[0].strip()


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
