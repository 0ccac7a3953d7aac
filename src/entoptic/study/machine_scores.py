"""The machine interpretability score of a study: the trials that people answered, answered by distances in a network's features.

It is no result about people. It stands beside theirs, to see whether it could screen units for the next study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from entoptic.study.picture_features import PictureFeatures
from entoptic.study.records import WITH_RIGHT_ANSWER, Answer, Plan, Study, TaskKind, Trial
from entoptic.study.statistics.machine import ALPHA, odd_chances, query_chances

LEAST_UNITS = 5


@dataclass(frozen=True, kw_only=True)
class MachineArm:
    """The score of one condition beside the answers of people to the same trials.

    Attributes:
        task: kind of question.
        arm: name of the condition.
        score: mean chance of the right choice.
        people: share of right answers of people.
        answers: behind both.
        units: behind the correlation.
        correlation: Spearman's, of the two over units; None with fewer than `LEAST_UNITS` units or where one does not vary.
        interval: 95 % of the correlation over units.
    """

    task: TaskKind
    arm: str
    score: float
    people: float
    answers: int
    units: int
    correlation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class MachineScores:
    """Scores of all conditions with a right answer.

    Attributes:
        network: whose features answer.
        weights_sha256: of the network.
        alpha: sharpness of its choices.
        arms: the conditions.
    """

    network: str
    weights_sha256: str
    alpha: float
    arms: tuple[MachineArm, ...]


def choice_chances(trial: Trial, features: Mapping[str, np.ndarray], *, alpha: float = ALPHA) -> np.ndarray:
    """Returns the chance with which distances in features take each choice of a 2-AFC or intruder trial.

    Args:
        trial: of the study.
        features: by the picture's name.
        alpha: sharpness.
    """

    def of(role: str) -> np.ndarray:
        rows = [features[one.stimulus] for one in trial.pictures if one.role == role]
        return np.stack(rows) if rows else np.zeros((0, 1))

    if trial.task == "intruder":
        return odd_chances(of("option"), alpha=alpha)
    low = of("low")
    return query_chances(of("query"), of("high"), low if len(low) else None, alpha=alpha)


def machine_scores(
    study: Study, plan: Plan, answers: Sequence[Answer], features: PictureFeatures, *, alpha: float = ALPHA
) -> MachineScores:
    """Returns the score of each condition with a right answer, over the trials that people answered.

    Args:
        study: pre-registration.
        plan: trials.
        answers: that count; only main trials are scored.
        features: of the pictures.
        alpha: sharpness.
    """
    trials = {trial.id: trial for one in plan.assignments for trial in one.trials}
    found = []
    for arm in study.arms:
        rows = [
            one
            for one in answers
            if (one.task, one.arm, one.kind) == (arm.task, arm.name, "main")
            and arm.task in WITH_RIGHT_ANSWER
            and one.correct is not None
        ]
        if not rows:
            continue
        machine = np.array([_right(trials[one.trial], features.by_name, alpha) for one in rows])
        people = np.array([float(bool(one.correct)) for one in rows])
        units = np.array([one.unit for one in rows])
        names = sorted(set(units.tolist()))
        pairs = np.array([(machine[units == name].mean(), people[units == name].mean()) for name in names])
        correlation, interval = _spearman(pairs)
        found.append(
            MachineArm(
                task=arm.task, arm=arm.name, score=float(machine.mean()), people=float(people.mean()), answers=len(rows),
                units=len(names), correlation=correlation, interval=interval,
            )
        )  # fmt: skip
    return MachineScores(
        network=features.network, weights_sha256=features.weights_sha256, alpha=alpha, arms=tuple(found)
    )  # fmt: skip


def _right(trial: Trial, features: Mapping[str, np.ndarray], alpha: float) -> float:
    chances = choice_chances(trial, features, alpha=alpha)
    return float(sum(chances[k] for k in trial.right))


def _spearman(pairs_U2: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """With its interval on Fisher's scale (Fieller's standard error)."""
    n = len(pairs_U2)
    if n < LEAST_UNITS or (np.ptp(pairs_U2, axis=0) == 0).any():
        return None, None
    value = float(stats.spearmanr(pairs_U2[:, 0], pairs_U2[:, 1]).statistic)
    z = math.atanh(min(max(value, -1 + 1e-9), 1 - 1e-9))
    half = 1.959964 * 1.03 / math.sqrt(n - 3)
    return value, (math.tanh(z - half), math.tanh(z + half))
