"""Who is left out: one test a rule, and the counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from entoptic.study.exclusions import exclude
from entoptic.study.records import Answer, ExclusionRules, Participation
from study.made_answers import MANIFEST, made_answers, made_study

OFF = ExclusionRules(
    min_catch_share=None, min_instruction_seconds=None, min_seconds_per_trial=None, max_seconds_per_trial=None,
    min_each_choice=None, max_practice_rounds=None, one_participation=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> tuple[list[Answer], list[Participation]]:
    return made_answers(made_study(participants=5), careless=0)


def change(sessions: list[Participation], **fields: object) -> list[Participation]:
    return [replace(sessions[0], **fields), *sessions[1:]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "fields", "name"),
    [
        ({"min_catch_share": 0.8}, {"catch_right": 3}, "catch"),
        ({"min_instruction_seconds": 15.0}, {"instruction_seconds": 14.0}, "instructions"),
        ({"min_seconds_per_trial": 3.0}, {"main_seconds": 10.0}, "too fast"),
        ({"max_seconds_per_trial": 55.0}, {"main_seconds": 1e5}, "too slow"),
        ({"max_practice_rounds": 3}, {"practice_rounds": 4}, "practice"),
        ({"max_practice_rounds": 3}, {"stage": "screened-out"}, "practice"),
        ({"finished_only": True}, {"stage": "trials"}, "unfinished"),
    ],
)
def test_each_rule_leaves_out_whom_it_names(
    made: tuple[list[Answer], list[Participation]], rules: dict[str, object], fields: dict[str, object], name: str
) -> None:
    answers, sessions = made
    chosen = replace(OFF, **rules)  # type: ignore[arg-type]
    assert len(exclude(chosen, answers, sessions).kept) == 5
    found = exclude(chosen, answers, change(sessions, **fields))
    assert found.reasons["person-000"] == (name,)
    assert len(found.kept) == 4
    assert [(one.rule, one.left_out, one.alone) for one in found.counts] == [(name, 1, 1)]
    assert exclude(OFF, answers, change(sessions, **fields)).kept == set(found.reasons)


def test_four_of_five_catch_trials_are_enough(made: tuple[list[Answer], list[Participation]]) -> None:
    answers, sessions = made
    rules = replace(OFF, min_catch_share=0.8)
    assert len(exclude(rules, answers, change(sessions, catch_right=4)).kept) == 5


def test_one_sided_people_are_left_out(made: tuple[list[Answer], list[Participation]]) -> None:
    answers, sessions = made
    answers = [
        replace(one, choice=0 if one.choice is not None and one.participant == "person-001" else one.choice)
        for one in answers
    ]
    found = exclude(replace(OFF, min_each_choice=0.1), answers, sessions)
    assert found.reasons["person-001"] == ("one side",)
    assert len(found.kept) == 4


def test_a_few_choices_are_not_one_sided(made: tuple[list[Answer], list[Participation]]) -> None:
    answers, sessions = made
    mine = [
        replace(one, choice=0 if one.choice is not None else None) for one in answers if one.participant == "person-001"
    ]
    choices = [one for one in mine if one.choice is not None]
    for n, kept in ((9, True), (10, False)):
        found = exclude(replace(OFF, min_each_choice=0.1), choices[:n], sessions)
        assert ("person-001" in found.kept) == kept


def test_counts_of_people_and_of_several_rules() -> None:
    answers, sessions = made_answers(made_study(participants=6), careless=2)
    sessions = [replace(sessions[0], stage="withdrawn"), *sessions[1:5], replace(sessions[5], instruction_seconds=1.0)]
    answers = [one for one in answers if one.participant != "person-000"]
    found = exclude(ExclusionRules(), answers, sessions, manifest=MANIFEST)
    assert (found.started, found.answered, found.finished, found.withdrawn) == (6, 5, 5, 1)
    assert found.kept == {"person-001", "person-002", "person-003"}
    assert exclude(ExclusionRules(), answers, [replace(one, automated=True) for one in sessions]).automated == 3
    by_rule = {one.rule: (one.left_out, one.alone) for one in found.counts}
    assert by_rule["catch"] == (2, 1)
    assert by_rule["instructions"] == (1, 0)
    assert by_rule["too slow"] == (0, 0)


def test_answers_of_another_version_or_without_a_session_do_not_count(
    made: tuple[list[Answer], list[Participation]],
) -> None:
    answers, sessions = made
    found = exclude(OFF, answers, sessions[1:], manifest=MANIFEST)
    assert found.reasons["person-000"] == ("no session",)
    assert exclude(OFF, answers, sessions, manifest="other").kept == frozenset()
    assert {one.rule for one in exclude(OFF, answers, sessions, manifest="other").counts} == {"other version"}


def test_practice_alone_is_no_answer(made: tuple[list[Answer], list[Participation]]) -> None:
    answers, sessions = made
    practice = [replace(one, kind="practice") for one in answers if one.participant == "person-002"]
    others = [one for one in answers if one.participant != "person-002"]
    found = exclude(OFF, [*others, *practice], sessions)
    assert "person-002" not in found.reasons
    assert (found.started, found.answered) == (5, 4)


def test_simulated_participants_among_people_do_not_count(made: tuple[list[Answer], list[Participation]]) -> None:
    answers, sessions = made
    name = sessions[0].participant
    marked = [replace(one, source="simulated") if one.participant == name else one for one in sessions]
    found = exclude(ExclusionRules(), answers, marked)
    assert "simulated" in found.reasons[name]
    assert {one.rule: one.left_out for one in found.counts}["simulated"] == 1
    alone = exclude(ExclusionRules(), answers, [replace(one, source="simulated") for one in sessions])
    assert not any("simulated" in reasons for reasons in alone.reasons.values())
