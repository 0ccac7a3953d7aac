"""Estimates find what was planted, and say why where there is nothing to estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')

from entoptic.study.estimates import analyse_sample, compare, sample_of, secondary
from entoptic.study.records import Answer, Contrast, Study
from entoptic.study.registration import register
from entoptic.study.report import verdict
from entoptic.study.results import Analysis
from entoptic.study.text_scores import score_texts
from entoptic.study.words import p_text, shift_span
from study.made_answers import METHODS, RATINGS, SHARES, LetterEncoder, made_answers, made_study

DRAWS = 300


@pytest.fixture(scope="module")
def study() -> Study:
    return made_study(units=12, participants=30)


@pytest.fixture(scope="module")
def answers(study: Study) -> list[Answer]:
    return made_answers(study, careless=0)[0]


@pytest.fixture(scope="module")
def found(study: Study, answers: list[Answer]) -> Analysis:
    texts = score_texts([one for one in answers if one.task == "describe"], LetterEncoder())
    return analyse_sample(sample_of(study, answers, {one.participant for one in answers}, texts, draws=DRAWS))


def test_arms_have_the_planted_shares(found: Analysis) -> None:
    arms = {one.arm: one for one in found.arms if one.task == "2afc"}
    assert list(arms) == list(SHARES)
    for name, share in SHARES.items():
        result = arms[name].outcome.found
        assert result is not None
        assert result.interval[0] <= share <= result.interval[1]
        assert (arms[name].persons, arms[name].units, arms[name].chance) == (30, 12, 0.5)
        assert [one.name for one in arms[name].more] == ["d prime", "seconds", "confidence"]
    assert sum(one.answers for one in arms.values()) == 360


def test_the_registered_comparison_finds_the_planted_difference(found: Analysis) -> None:
    primary = found.primary
    assert (primary.first, primary.second, primary.adjusted_p) == ("vital", "fourier", None)
    assert primary.found is not None
    assert primary.found.interval[0] < 0.25 < primary.found.interval[1]
    widest = next(one for one in found.comparisons if (one.task, one.first, one.second) == ("2afc", "natural", "none"))
    assert widest.found is not None
    assert widest.found.p < 0.01


def test_ratings_have_means_and_superiority(found: Analysis) -> None:
    arms = {one.arm: one.outcome.found for one in found.arms if one.task == "class-match"}
    for name, rating in RATINGS.items():
        result = arms[name]
        assert result is not None
        assert abs(result.value - rating) < 0.25
    best = next(
        one for one in found.comparisons if (one.task, one.first, one.second) == ("class-match", "vital", "pixels")
    )
    assert best.superiority is not None
    assert best.superiority.value > 0.95


def test_secondary_comparisons_are_corrected_together(study: Study, found: Analysis) -> None:
    names = {(one.task, one.first, one.second) for one in found.comparisons}
    assert ("2afc", "vital", "fourier") not in names  # the registered one is alone
    assert len(names) == len(secondary(study)) == 9 + 3 + 3 + 3
    adjusted = [one.adjusted_p for one in found.comparisons]
    assert all(
        a is not None and one.found is not None and a >= one.found.p for a, one in zip(adjusted, found.comparisons)
    )


def test_preferences_order_the_methods(found: Analysis) -> None:
    liked = found.preferences
    assert liked is not None
    assert liked.interval is not None
    assert liked.methods == METHODS
    assert sorted(liked.strength, reverse=True) == list(liked.strength)
    truth = np.array(list(RATINGS.values()))
    for strength, (low, high) in zip(truth - truth.mean(), liked.interval):
        assert low <= strength <= high
    assert abs(liked.ties - 0.1) < 0.06


def test_texts_are_scored_above_chance(found: Analysis) -> None:
    arms = {one.arm: one for one in found.arms if one.task == "describe"}
    values = [arms[name].outcome.found.value for name in METHODS]  # type: ignore[union-attr]
    assert values == sorted(values, reverse=True)
    more = {one.name: one.found for one in arms["vital"].more}
    exact = more["exact label"]
    assert exact is not None
    assert abs(exact.value - 0.8) < 0.12
    assert more["normalised similarity"] is not None
    assert {"raw similarity", "chance similarity", "reciprocal rank", "label first"} <= set(more)


def test_agreement_and_confidence(found: Analysis) -> None:
    by_task = {one.task: one for one in found.agreement}
    assert by_task["class-match"].found is not None
    assert by_task["class-match"].found.level == "ordinal"
    assert by_task["class-match"].found.alpha > 0.5
    assert by_task["preference"].found is not None
    assert by_task["preference"].found.level == "nominal"
    rows = found.confidence["2afc"]
    assert rows["3"] == (rows["3"][1], rows["3"][1])
    assert rows["2"][0] == 0


def test_units_have_intervals_of_their_own(found: Analysis) -> None:
    cells = [one for one in found.units if one.task == "2afc"]
    assert len(cells) == 60
    assert all(one.n == 6 and one.interval and one.interval[0] < one.value + 1e-9 for one in cells)
    assert all(one.adjusted_p is not None and one.p is not None and one.adjusted_p >= one.p for one in cells)
    rated = [one for one in found.units if one.task == "class-match"]
    assert all(one.interval and 1 <= one.interval[0] <= one.value <= one.interval[1] <= 5 for one in rated)
    won = [one for one in found.units if one.task == "preference" and one.method == "vital"]
    assert len(won) == 12
    assert {one.label for one in won} >= {"church"}


def test_where_answers_are_missing_the_reason_stands(study: Study, answers: list[Answer]) -> None:
    one_person = [one for one in answers if one.participant == "person-000"]
    found = analyse_sample(sample_of(study, one_person, {"person-000"}, None, text_note="no encoder", draws=DRAWS))
    assert found.primary.found is None
    assert "at least 2 of each" in found.primary.reason
    texts = next(one for one in found.arms if one.task == "describe")
    assert texts.outcome.reason == "no encoder"
    nobody = analyse_sample(sample_of(study, [], set(), None, draws=DRAWS))
    assert nobody.primary.found is None
    assert nobody.primary.reason
    assert nobody.preferences is not None
    assert "0 pairs" in nobody.preferences.reason


def test_all_answers_right_is_no_certainty(study: Study, answers: list[Answer]) -> None:
    right = [replace(one, correct=True) if one.task == "2afc" else one for one in answers]
    found = analyse_sample(sample_of(study, right, {one.participant for one in right}, None, draws=DRAWS))
    natural = next(one for one in found.arms if (one.task, one.arm) == ("2afc", "natural"))
    assert natural.outcome.found is not None
    assert natural.outcome.found.interval[0] < 0.8
    assert "12 independent answers" in natural.outcome.note


@pytest.mark.parametrize("arm", ["vital", "vital|fourier"])
def test_a_registered_preference(study: Study, answers: list[Answer], arm: str) -> None:
    sample = sample_of(study, answers, {one.participant for one in answers}, None, draws=DRAWS)
    versus = "" if "|" in arm else "fourier"
    found = compare(sample, Contrast(task="preference", outcome="preferred", arm=arm, versus=versus)).found
    assert found is not None
    assert 0.1 < found.value < 0.5
    chosen = replace(
        study,
        registration=replace(
            study.registration, primary=Contrast(task="preference", outcome="preferred", arm=arm, versus=versus)
        ),
    )
    assert ("preference", "vital|fourier") not in {(one.task, one.arm) for one in secondary(chosen)}


def test_technical_failures_are_counted_apart(study: Study, answers: list[Answer]) -> None:
    broken = [replace(one, technical=True, choice=None, correct=None) if one.order == 0 else one for one in answers]
    found = analyse_sample(sample_of(study, broken, {one.participant for one in broken}, None, draws=DRAWS))
    assert sum(one.technical for one in found.arms) == 30
    assert sum(one.answers for one in found.arms if one.task == "2afc") == 330


def test_the_design_chooses_the_level_and_the_interval_of_the_registered_test(
    study: Study, answers: list[Answer]
) -> None:
    found = {}
    for level, interval in ((0.95, "bootstrap"), (0.8, "bootstrap"), (0.95, "robust")):
        registration = register(
            ["2afc"], {"2afc": [arm for arm in study.arms if arm.task == "2afc"]}, METHODS, participants=20, level=level,
            interval=interval,  # type: ignore[arg-type]
        )  # fmt: skip
        assert f"{100 * level:g} % interval" in registration.analysis
        assert ("cluster-robust" in registration.analysis) == (interval == "robust")
        asked = replace(study, registration=registration)
        analysis = analyse_sample(sample_of(asked, answers, {one.participant for one in answers}, None, draws=400))
        assert analysis.primary.found is not None
        assert analysis.primary.found.level == pytest.approx(level)
        assert {one.found.level for one in analysis.comparisons if one.found} == {0.95}
        told = verdict(asked, analysis.primary, None, registration.alpha)
        found[level, interval] = analysis.primary.found, told
    wide, narrow = (found[level, "bootstrap"][0].interval for level in (0.95, 0.8))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    one, told = found[0.95, "robust"]
    assert shift_span(one.robust, "correct") in told.sentence
    assert p_text(one.robust_p) in told.sentence
    assert [name for name, _ in told.rows if "registered" in name] == ["Two-way cluster-robust variance (registered)"]


def test_comparisons_have_a_permutation_test(found: Analysis) -> None:
    assert found.primary.exchange_p is not None
    assert max(one.exchange_p or 0 for one in found.comparisons if one.task == "class-match") < 0.01
    for one in found.comparisons:
        assert (one.exchange_p is None) == (one.found is None or not (one.second or one.task == "preference"))
