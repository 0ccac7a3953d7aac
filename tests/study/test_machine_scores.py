"""The machine score of a study: the right choice by distances, beside people's answers to the same trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')

from entoptic.study.machine_scores import choice_chances, machine_scores
from entoptic.study.picture_features import PictureFeatures, with_right_answer
from entoptic.study.records import Answer, Assignment, Plan, Shown, Study, Trial
from study.made_answers import made_answers, made_study


def plan_of(answers: list[Answer], clear: dict[str, float]) -> tuple[Plan, PictureFeatures]:
    """A plan of the 2-AFC trials, and features by which the right query is as clear as its unit says."""
    features: dict[str, np.ndarray] = {}
    trials = []
    for one in answers:
        if one.task != "2afc" or one.kind != "main":
            continue
        names = [f"{one.trial}-{role}" for role in ("high", "low", "right", "wrong")]
        angles = (0.0, np.pi / 2, np.pi / 4 * (1 - clear[one.unit]), np.pi / 4 * (1 + clear[one.unit]))
        features |= {name: np.array([np.cos(angle), np.sin(angle)]) for name, angle in zip(names, angles)}
        pictures = [Shown(role=role, stimulus=name) for role, name in zip(("high", "low", "query", "query"), names)]  # type: ignore[arg-type]
        if one.arm == "none":
            pictures = pictures[2:]
        trials.append(
            Trial(
                id=one.trial, task="2afc", kind="main", arm=one.arm, method=one.method, unit=one.unit, pictures=tuple(pictures),
                right=(0,),
            )
        )  # fmt: skip
    plan = Plan(stimuli=(), assignments=(Assignment(slot=0, trials=tuple(trials)),))
    return plan, PictureFeatures(by_name=features, network="tiny", weights_sha256="a" * 64)


@pytest.fixture(scope="module")
def made() -> tuple[Study, list[Answer], Plan, PictureFeatures]:
    study = made_study(units=10, participants=20)
    answers, _ = made_answers(study, careless=0)
    clear = {unit: k / 9 for k, unit in enumerate(study.units.units)}
    answers = [  # people find what is clear too
        replace(one, correct=int(one.participant[-2:]) < 20 * clear[one.unit])
        if one.task == "2afc" and one.kind == "main"
        else one
        for one in answers
    ]
    return study, answers, *plan_of(answers, clear)


def test_the_score_is_the_mean_chance_of_the_right_choice(
    made: tuple[Study, list[Answer], Plan, PictureFeatures],
) -> None:
    study, answers, plan, features = made
    main = [one for one in answers if one.kind == "main"]
    found = {one.arm: one for one in machine_scores(study, plan, main, features).arms}
    assert set(found) == {"natural", "vital", "fourier", "pixels", "none"}
    trials = {trial.id: trial for trial in plan.assignments[0].trials}
    own = [one for one in main if (one.task, one.arm) == ("2afc", "vital")]
    chances = [choice_chances(trials[one.trial], features.by_name)[0] for one in own]
    assert found["vital"].score == pytest.approx(np.mean(chances))
    assert found["vital"].people == pytest.approx(np.mean([one.correct for one in own]))
    assert found["vital"].answers == len(own)
    assert found["none"].score == 0.5  # without references it guesses
    assert found["none"].correlation is None


def test_where_units_are_clear_to_both_the_correlation_is_high(
    made: tuple[Study, list[Answer], Plan, PictureFeatures],
) -> None:
    study, answers, plan, features = made
    natural = machine_scores(study, plan, [one for one in answers if one.kind == "main"], features).arms[0]
    assert natural.units == 10
    assert natural.correlation is not None
    assert natural.interval is not None
    assert natural.interval[0] < natural.correlation < natural.interval[1]
    assert natural.correlation > 0.8
    few = [one for one in answers if one.unit in study.units.units[:4]]
    assert machine_scores(study, plan, few, features).arms[0].correlation is None


def test_the_sharpness_is_that_of_the_score(made: tuple[Study, list[Answer], Plan, PictureFeatures]) -> None:
    study, answers, plan, features = made
    assert machine_scores(study, plan, answers, features, alpha=0.0).arms[0].score == 0.5
    assert len(with_right_answer(plan)) == len({one.stimulus for t in plan.assignments[0].trials for one in t.pictures})
