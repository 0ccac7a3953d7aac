"""Records as JSON and back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from entoptic.errors import Unreadable
from entoptic.study.json_form import from_json, to_json
from entoptic.study.records import Contrast, ExclusionRules, Plan, Shown, Stimulus, Trial

PLAN = Plan(
    stimuli=(Stimulus(name="a" * 32, sha256="b" * 64, width=4, height=4, origin="natural", score=0.5, rank=3),),
    assignments=(),
)


@pytest.mark.parametrize(
    "record", [PLAN, ExclusionRules(min_catch_share=None), Contrast(task="2afc", outcome="correct", arm="a")]
)
def test_what_is_written_is_read_back(record: Any) -> None:
    assert from_json(type(record), json.loads(json.dumps(to_json(record))), "it") == record


def test_a_field_that_is_not_there_takes_its_default_and_others_are_ignored() -> None:
    assert from_json(Contrast, {"task": "2afc", "outcome": "correct", "arm": "a", "new": 1}, "it").versus == ""


DAMAGE: list[tuple[list[Any], Any, str]] = [
    (["stimuli"], None, "expected a list"),
    (["stimuli", 0, "width"], "4", "expected int"),
    (["stimuli", 0, "width"], True, "expected int"),
    (["stimuli", 0, "origin"], "drawn", "expected one of synthetic, natural, noise"),
    (["stimuli", 0, "score"], float("nan"), "expected float"),
    (["stimuli", 0], 3, "expected an object"),
]


@pytest.mark.parametrize(("place", "value", "said"), DAMAGE)
def test_damage_is_refused_with_its_place(place: list[Any], value: Any, said: str) -> None:
    record = copy.deepcopy(to_json(PLAN))
    inside = record
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    with pytest.raises(Unreadable, match=said):
        from_json(Plan, record, "plan.json")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(Unreadable, match='it has no "arm"'):
        from_json(Contrast, {"task": "2afc", "outcome": "correct"}, "it")


def test_choices_of_a_trial_are_its_queries_and_options() -> None:
    shown = [Shown(role=role, stimulus=role) for role in ("high", "low", "query", "option")]  # type: ignore[arg-type]
    trial = Trial(id="a", task="2afc", kind="main", arm="natural", method="", unit="u", pictures=tuple(shown))
    assert [one.stimulus for one in trial.choices] == ["query", "option"]
