"""Timelines for jsPsych: what they tell, and that answers come back by jsPsych itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from entoptic.cli.main import main
from entoptic.errors import UserError
from entoptic.study.answers import read_answers, read_plan
from entoptic.study.jspsych import export_jspsych


@pytest.fixture
def exported(study: Path, tmp_path: Path) -> Path:
    return export_jspsych(study, tmp_path / "lab").parent


def test_every_place_has_its_trials_with_a_meaning_for_each_button(exported: Path, study: Path) -> None:
    plan = read_plan(study)
    for language in ("en", "de"):
        told = json.loads((exported / f"timeline-{language}.json").read_text())
        assert told["language"] == language
        for assignment, trials in zip(plan.assignments, told["slots"], strict=True):
            own = [one for one in assignment.trials if one.round == 0]
            assert [one["data"]["trial"] for one in trials] == [one.id for one in own]
            for trial, made in zip(own, trials):
                assert made["type"] == "html-button-response"
                assert (
                    len(made["choices"])
                    == len(made["data"]["means"])
                    == {"2afc": 6, "intruder": 9, "preference": 3}[trial.task]
                )
                assert made["preload"] == [f"pictures/{one.stimulus}.png" for one in trial.pictures]
                assert all((exported / file).is_file() and file in made["stimulus"] for file in made["preload"])


def test_right_answers_and_conditions_are_not_in_it(exported: Path, study: Path) -> None:
    plan = read_plan(study)
    text = (exported / "timeline-en.json").read_text()
    for word in ("vital", "fourier", "natural", "catch", "stage2"):
        assert word not in text.replace("Photos", "")
    rights = [
        one["data"].get("right") for slot in json.loads(text)["slots"] for one in slot if not one["data"]["practice"]
    ]
    assert set(rights) == {None}
    assert plan.stimuli


def test_ratings_words_and_texts(vital_study: Path, tmp_path: Path) -> None:
    export_jspsych(vital_study, tmp_path / "lab")
    trials = json.loads((tmp_path / "lab" / "timeline-en.json").read_text())["slots"][0]
    kinds = {one["data"]["task"]: one for one in trials}
    assert kinds["describe"]["type"] == "survey-text"
    assert kinds["class-match"]["data"]["means"] == [{"rating": i} for i in range(1, 6)]
    assert "thing" in kinds["class-match"]["stimulus"]


def test_labels_are_escaped(exported: Path, study: Path) -> None:
    from dataclasses import replace

    from entoptic.study.answers import read_study
    from entoptic.study.jspsych import _trial

    plan, told = read_plan(study), read_study(study)
    trial = next(one for one in plan.assignments[0].trials if one.task == "preference")
    words = json.loads((study / "wording" / "en.json").read_text())
    made = _trial(told, replace(trial, word='<script>&"'), {one.name: one for one in plan.stimuli}, words)
    assert "<script>" not in made["stimulus"]
    assert "&lt;script&gt;" in made["stimulus"]


def test_by_the_command_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "export", str(study), "--out", str(tmp_path / "lab"), "--form", "jspsych"]) == 0
    assert "jsPsych" in capsys.readouterr().out
    assert main(["study", "export", str(study), "--out", str(tmp_path / "lab"), "--form", "jspsych"]) == 2
    with pytest.raises(UserError, match="holds"):
        export_jspsych(study, tmp_path / "lab")
    asked = [
        "study",
        "export",
        str(study),
        "--out",
        str(tmp_path / "b"),
        "--form",
        "jspsych",
        "--post-url",
        "https://a.example",
    ]
    assert main(asked) == 2


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js to run the page's script")
def test_answers_of_jspsych_come_back(exported: Path, study: Path) -> None:
    told = json.loads((exported / "timeline-en.json").read_text())
    rows: list[dict[str, Any]] = [{"trial_type": "preload", "success": True, "rt": None}]
    more = {"rt": 900, "received": "2026-01-02T03:04Z"}
    rows += [
        one["data"] | more | {"response": i % len(one["choices"]), "time_elapsed": 1000 * (i + 1)}
        for i, one in enumerate(told["slots"][1])
    ]  # fmt: skip
    script = (
        "globalThis.window = globalThis; window.innerWidth = 390; window.innerHeight = 844;"
        f"{(exported / 'entoptic.js').read_text()}"
        f"; const told = JSON.parse(require('fs').readFileSync({json.dumps(str(exported / 'timeline-en.json'))}));"
        f"console.log(Entoptic.answerFile(told, 1, {json.dumps(rows)}, {{started: '2026-01-02T03:00:00Z'}}));"
        "if (Entoptic.timeline(told, 1, {preload: 1, 'html-button-response': 2}).length !== told.slots[1].length + 1) throw 1;"
    )
    made = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60, check=True)
    (study / "returned").mkdir()
    (study / "returned" / "one.json").write_text(made.stdout)
    answers = read_answers(study)
    assert len(answers) == len(rows) - 1
    meant = [one["data"]["means"][i % len(one["choices"])] for i, one in enumerate(told["slots"][1])]
    assert [one.choice for one in answers] == [one.get("choice") for one in meant]
    assert [one.confidence for one in answers] == [one.get("confidence") for one in meant]
    assert {one.rt_ms for one in answers} == {900.0}
