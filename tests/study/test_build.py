"""From runs to a study."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.study import build as building
from entoptic.study import fresh_folder
from entoptic.study.answers import manifest_of, read_plan, read_study
from entoptic.study.design import Design
from entoptic.study.records import Trial
from study.conftest import SMALL, Make, fill_run


def trials_of(study: Path, *kinds: str) -> list[Trial]:
    return [one for own in read_plan(study).assignments for one in own.trials if one.kind in (kinds or ("main",))]


def test_the_default_study_has_a_natural_and_a_no_reference_arm(study: Path) -> None:
    record = read_study(study)
    assert record.preset == "default"
    assert [task.kind for task in record.tasks] == ["2afc", "intruder", "preference"]
    assert [arm.name for arm in record.arms if arm.task == "2afc"] == ["natural", "fourier", "vital", "none"]
    assert record.registration.primary.task == "2afc"
    assert record.plan_sha256 == hashlib.sha256((study / "plan.json").read_bytes()).hexdigest()
    assert manifest_of(study) == hashlib.sha256((study / "study.json").read_bytes()).hexdigest()


def test_the_pre_registration_tells_no_answer_and_no_picture(study: Path) -> None:
    text = (study / "study.json").read_text()
    assert not [name for name in (one.name for one in read_plan(study).stimuli) if name in text]
    assert "right" not in json.loads(text)
    assert str(study.parent) not in text


def test_pictures_have_names_and_bytes_that_tell_nothing(study: Path) -> None:
    plan = read_plan(study)
    files = sorted(file.stem for file in (study / "pictures").iterdir())
    assert files == sorted(one.name for one in plan.stimuli)
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in files)
    sha256 = {one.name: one.sha256 for one in plan.stimuli}
    for trial in trials_of(study, "main", "practice", "catch"):  # a copy in a catch trial is found by eye alone
        assert len({sha256[one.stimulus] for one in trial.pictures}) == len(trial.pictures)
    for one in plan.stimuli:
        file = study / "pictures" / f"{one.name}.png"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == one.sha256
        with Image.open(file) as image:
            assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
            assert image.size == (one.width, one.height)


def test_a_picture_of_a_run_keeps_its_pixels(study: Path, run_folder: Path) -> None:
    by_key = {json.loads(file.read_text())["key"]: file for file in run_folder.glob("pictures/*/*.json")}
    checked = 0
    for one in read_plan(study).stimuli:
        if one.source in by_key:
            with (
                Image.open(study / "pictures" / f"{one.name}.png") as shown,
                Image.open(by_key[one.source].with_suffix(".png")) as made,
            ):
                # A copy for a catch trial differs in the lowest bit of a few pixels.
                assert max(abs(a - b) for a, b in zip(shown.tobytes(), made.convert("RGB").tobytes())) <= 1
                checked += shown.tobytes() == made.convert("RGB").tobytes()
    assert checked > 20


def test_trials_of_2afc(study: Path) -> None:
    plan = read_plan(study)
    stimuli = {one.name: one for one in plan.stimuli}
    seen = Counter(trial.arm for trial in trials_of(study) if trial.task == "2afc")
    assert set(seen) == {"natural", "fourier", "vital", "none"}
    for trial in trials_of(study):
        if trial.task != "2afc":
            continue
        roles = Counter(one.role for one in trial.pictures)
        assert roles == ({"query": 2} if trial.arm == "none" else {"high": 3, "low": 3, "query": 2})
        queries = [stimuli[one.stimulus] for one in trial.choices]
        assert all(one.origin == "natural" and one.rank for one in queries)
        (right,) = trial.right
        assert queries[right].score > queries[1 - right].score  # type: ignore[operator]
        high = [stimuli[one.stimulus] for one in trial.pictures if one.role == "high"]
        assert {one.method for one in high} == ({trial.method} if high else set())
        assert not {one.source for one in queries} & {stimuli[p.stimulus].source for p in trial.pictures[:-2]}


def test_trials_of_intruder_and_preference(study: Path) -> None:
    stimuli = {one.name: one for one in read_plan(study).stimuli}
    for trial in trials_of(study):
        units = [stimuli[one.stimulus].unit for one in trial.choices]
        if trial.task == "intruder":
            (right,) = trial.right
            assert len(units) == 3
            assert Counter(units)[units[right]] == 1
            assert {stimuli[one.stimulus].method for one in trial.choices} == {trial.method}
        elif trial.task == "preference":
            assert trial.right == ()
            assert sorted(one.method for one in trial.choices) == ["fourier", "vital"]
            assert len(set(units)) == 1


def test_trials_of_the_vital_preset(vital_study: Path) -> None:
    record = read_study(vital_study)
    assert [task.kind for task in record.tasks] == ["describe", "inner-match", "class-match"]
    for assignment in read_plan(vital_study).assignments:
        main = [trial for trial in assignment.trials if trial.kind == "main"]
        assert list(dict.fromkeys(trial.task for trial in main)) == ["describe", "inner-match", "class-match"]
        assert len({trial.unit for trial in main}) == len(main)
        for trial in main:
            assert trial.pictures[-1].role == "target"
            assert trial.word == (trial.label if trial.task == "class-match" else "")
            assert len(trial.pictures) == (4 if trial.task == "inner-match" else 1)
            assert trial.right == ()


def test_practice_and_catch_units_are_kept_apart(study: Path) -> None:
    frame = read_study(study).units
    asked = {f"{one.model} {one.unit}" for one in trials_of(study)}
    checks = {f"{one.model} {one.unit}" for one in trials_of(study, "practice", "catch")}
    assert asked == set(frame.units)
    assert checks == set(frame.practice)
    assert not asked & checks
    assert all(one.right for one in trials_of(study, "practice", "catch"))


def test_places_of_the_right_answer_are_balanced(make: Make) -> None:
    built = make(tasks=("2afc",), design=replace(SMALL, participants=6))
    for assignment in read_plan(built.path).assignments:  # type: ignore[arg-type]
        rights = Counter(one.right for one in assignment.trials if one.kind != "practice")
        assert abs(rights[0,] - rights[1,]) <= 1


def test_trial_ids_and_names_are_random_and_the_design_is_from_the_seed(make: Make) -> None:
    plans = [read_plan(make(out, tasks=("preference",)).path) for out in ("a", "b")]  # type: ignore[arg-type]
    designs = [
        [[(t.arm, t.unit, t.kind, [s.method for s in t.pictures]) for t in a.trials] for a in p.assignments]
        for p in plans
    ]
    assert designs[0] == designs[1]
    ids = [{t.id for a in p.assignments for t in a.trials} for p in plans]
    assert not ids[0] & ids[1]
    other = read_plan(make("c", tasks=("preference",), design=replace(SMALL, seed=7)).path)  # type: ignore[arg-type]
    assert [[t.unit for t in a.trials] for a in other.assignments] != [
        [t.unit for t in a.trials] for a in plans[0].assignments
    ]


def test_photos_come_only_when_asked(make: Make) -> None:
    built = make(tasks=("preference",), with_photos=False)
    assert {one.origin for one in read_plan(built.path).stimuli} == {"synthetic", "noise"}  # type: ignore[arg-type]
    for tasks in ((), ("inner-match",)):
        with pytest.raises(UserError, match="only with --with-photos"):
            make("other", tasks=tasks, with_photos=False)


def test_references_from_the_run_itself(make: Make) -> None:
    built = make(tasks=("inner-match",), photos=None)
    natural = [one for one in read_plan(built.path).stimuli if one.origin == "natural"]  # type: ignore[arg-type]
    assert {one.source for one in natural} == {"top-1.jpg", "top-2.jpg"}


def test_the_natural_arm_of_intruder_needs_photos_enough(make: Make) -> None:
    one_reference = replace(SMALL, references=1, options=4, trials=6)
    built = make(tasks=("intruder",), design=one_reference)  # the strongest photos, however few are references
    assert [arm.name for arm in built.size.arms["intruder"]] == ["natural", "fourier", "vital"]
    natural = [one for one in trials_of(built.path) if one.arm == "natural"]  # type: ignore[arg-type]
    stimuli = {one.name: one for one in read_plan(built.path).stimuli}  # type: ignore[arg-type]
    assert {stimuli[one.stimulus].origin for trial in natural for one in trial.choices} == {"natural"}
    # The run's own copies are two a unit: too few for three pictures, enough for two.
    for options, arms in ((4, ["fourier", "vital"]), (3, ["natural", "fourier", "vital"])):
        made = make(f"own{options}", tasks=("intruder",), photos=None, design=replace(one_reference, options=options))
        assert [arm.name for arm in made.size.arms["intruder"]] == arms


def test_one_method_is_not_compared_with_itself(make: Make, tmp_path: Path, network: Model) -> None:
    run = fill_run(tmp_path / "run", weights=str(network.card.weights_sha256), samples=3, methods=("vital",))
    built = make(run=run, dry_run=True)
    assert [task.kind for task in built.size.tasks] == ["2afc", "intruder"]
    assert built.notes[0] == "the runs hold one method (vital), so preference is not asked"


def test_a_dry_run_writes_nothing(make: Make, tmp_path: Path) -> None:
    built = make(dry_run=True)
    assert built.path is None
    assert not (tmp_path / "study").exists()
    assert "3 participants, about " in str(built.size)
    assert "2afc: 5 trials a person and 1 catch trial, conditions natural, fourier, vital, none" in str(built.size)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"tasks": ("2acf",)}, 'did you mean "2afc"'),
    ({"tasks": ("2afc", "2afc")}, "given twice"),
    ({"preset": "vitla"}, 'did you mean "vital"'),
    ({"photos": None}, "give --photos FOLDER"),
    ({"design": replace(SMALL, references=9)}, "give --references 4"),
    ({"design": replace(SMALL, options=6)}, "--n 5"),
    ({"design": replace(SMALL, trials=5)}, "more --trials"),
    ({"design": replace(SMALL, batches=20)}, "photos are too few"),
    ({"design": replace(SMALL, practice_units=10)}, "leaves none of the 10 units"),
    ({"proposed": "vitl"}, 'did you mean "vital"'),
    ({"languages": ("fr",)}, 'no texts in the language "fr"'),
]


@pytest.mark.parametrize(("options", "said"), REFUSALS)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    make: Make, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        make(**options)
    assert not (tmp_path / "study").exists()


def test_runs_that_lack_what_a_study_needs(make: Make, tmp_path: Path) -> None:
    few = fill_run(tmp_path / "few", units=3, samples=4)
    with pytest.raises(UserError, match="too few for the balance"):
        make(run=few, tasks=("intruder", "preference"), with_photos=False, photos=None)
    one = fill_run(tmp_path / "one", units=3, samples=1, methods=("vital",))
    with pytest.raises(UserError, match="the runs hold one"):
        make(run=one, tasks=("preference",))
    nameless = fill_run(tmp_path / "nameless", units=3, samples=1, labels=False, photos=False)
    with pytest.raises(UserError, match="units with a name"):
        make(run=nameless, tasks=("describe",))
    with pytest.raises(UserError, match="inner-match needs photos"):
        make(run=nameless, tasks=("inner-match",), photos=None)
    with pytest.raises(UserError, match="is no run folder"):
        make(run=tmp_path / "nowhere")
    shown = fill_run(tmp_path / "shown", units=3, samples=1, methods=("retrieval",))
    with pytest.raises(UserError, match="no picture of a unit by a method"):
        make(run=shown)


def test_other_weights_are_refused(make: Make, tmp_path: Path, network: Model) -> None:
    other = fill_run(tmp_path / "other", weights="cd" * 32, samples=4)
    with pytest.raises(UserError, match="other weights now than in the run"):
        make(run=other, model=network)


def test_units_that_one_method_lacks_are_left_out(make: Make, tmp_path: Path) -> None:
    run = fill_run(tmp_path / "run", units=8, samples=1)
    for file in (run / "pictures" / "stage2-3").glob("fourier*"):
        file.unlink()
    built = make(run=run, tasks=("describe",))
    assert built.size.left_out == ("stage2:3: no picture by fourier",)


def test_a_folder_that_holds_something_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="holds something already"):
        make(tasks=("describe",))
    assert [one.name for one in (tmp_path / "study").iterdir()] == ["mine.txt"]


def test_a_build_that_fails_leaves_nothing(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(building, "Plan", fail)
    with pytest.raises(RuntimeError):
        make(tasks=("describe",))
    assert not (tmp_path / "study").exists()


def test_a_build_that_was_killed_is_begun_anew(make: Make, tmp_path: Path) -> None:
    left = tmp_path / "study"
    make(tasks=("describe",))
    before = {file.name for file in (left / "pictures").iterdir()}
    (left / "study.json").unlink()  # it is written last
    (left / "pictures" / ".half.part").touch()
    (left / ".json.part").touch()
    (left / fresh_folder.MARK).touch()
    make(tasks=("describe",))
    after = {file.name for file in (left / "pictures").iterdir()}
    assert after == {f"{one.name}.png" for one in read_plan(left).stimuli}
    assert not before & after
    assert {file.name for file in left.iterdir()} == {"pictures", "wording", "plan.json", "study.json"}


def test_what_is_not_of_a_study_is_never_deleted(make: Make, tmp_path: Path) -> None:
    left = tmp_path / "study"
    (left / "pictures").mkdir(parents=True)
    (left / ".unfinished").touch()
    (left / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"holds other files \(mine.txt\)"):
        make(tasks=("describe",))
    assert (left / "mine.txt").read_text() == "kept"


def test_a_changed_plan_is_refused(study: Path) -> None:
    text = (study / "plan.json").read_text()
    (study / "plan.json").unlink()
    (study / "plan.json").write_text(text.replace('"main"', '"catch"', 1))
    with pytest.raises(UserError, match="not the plan that was registered"):
        read_plan(study)


def test_the_consent_page_is_read_from_a_file(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "consent.json"
    file.write_text(json.dumps({"title": "Pictures", "contact": "A. Person"}))
    built = make(tasks=("describe",), consent=file)
    assert read_study(built.path).consent.title == "Pictures"  # type: ignore[arg-type]
    assert any("not stated" in note and "ethics" in note and "contact" not in note for note in built.notes)
    file.write_text(json.dumps({"ethic": "none"}))
    with pytest.raises(UserError, match='did you mean "ethics"'):
        make("other", consent=file)


def test_the_design_checks_itself() -> None:
    for bad in (
        {"participants": 0},
        {"low": "none at all"},
        {"query": "0.6"},
        {"query": "xtreme"},
        {"references": 10},
        {"level": 1.0},
        {"interval": "robst"},
    ):
        with pytest.raises(UserError):
            Design(**bad)  # type: ignore[arg-type]


def test_the_level_and_the_interval_are_registered(make: Make, tmp_path: Path) -> None:
    make(design=replace(SMALL, level=0.99, interval="robust"))
    registration = read_study(tmp_path / "study").registration
    assert (registration.alpha, registration.interval) == (0.01, "robust")
    assert "cluster-robust variance" in registration.analysis
    assert "99 % interval" in registration.analysis
