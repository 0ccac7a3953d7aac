"""The static bundle, and the answer files that come back."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from entoptic.errors import UserError
from entoptic.study.answers import manifest_of, read_answers, read_participations, read_plan
from entoptic.study.bundle import LIMITS, export
from entoptic.study.wording_files import SHIPPED


@pytest.fixture
def bundle(study: Path, tmp_path: Path) -> Path:
    return export(study, tmp_path / "bundle").parent


def data_of(bundle: Path) -> dict[str, Any]:
    text = (bundle / "data.js").read_text()
    return json.loads(text.removeprefix("window.STUDY = ").removesuffix(";\n"))  # type: ignore[no-any-return]


def test_a_bundle_is_one_page_that_asks_no_other_host(bundle: Path, study: Path) -> None:
    page = (bundle / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert named
    assert all((bundle / name).is_file() for name in named)
    text = "".join(file.read_text() for file in bundle.glob("*.*") if file.suffix in (".html", ".js", ".css"))
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    pictures = {file.name for file in (bundle / "pictures").iterdir()}
    assert pictures == {file.name for file in (study / "pictures").iterdir()}
    assert str(study.parent) not in text


def test_right_answers_of_main_and_catch_trials_are_not_in_it(bundle: Path, study: Path) -> None:
    kinds = {trial.id: trial.kind for own in read_plan(study).assignments for trial in own.trials}
    seen = set()
    for slot in data_of(bundle)["slots"]:
        for trial in slot:
            seen.add(kinds[trial["id"]])
            assert ("right" in trial) == (kinds[trial["id"]] == "practice")
            assert not {"arm", "method", "unit", "kind"} & set(trial)
    assert seen == {"main", "catch", "practice"}
    assert not {"private.json", "plan.json", "study.json"} & {file.name for file in bundle.rglob("*")}


def test_nothing_ends_the_script(study: Path, tmp_path: Path) -> None:
    text = (export(study, tmp_path / "bundle").parent / "data.js").read_text()
    assert "<" not in text
    assert ">" not in text


def test_what_it_cannot_guard_against_is_on_the_first_page() -> None:
    text = json.loads((SHIPPED / "en.json").read_text())["bundle.warning"]
    assert "twice" in text
    assert "codes" in text
    assert len(LIMITS) == 3


@pytest.mark.parametrize(
    ("url", "said"), [("ftp://x", "must begin with https://"), ("javascript:alert(1)", "must begin")]
)
def test_addresses_that_cannot_be_posted_to(study: Path, tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        export(study, tmp_path / "bundle", post_url=url)


def test_a_folder_that_holds_something_is_refused(study: Path, bundle: Path) -> None:
    with pytest.raises(UserError, match="holds something already"):
        export(study, bundle)


def test_an_export_that_fails_leaves_nothing(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.study import bundle

    monkeypatch.setattr(bundle, "_page", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(study, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# --- answer files -----------------------------------------------------------------------------------------------


def returned(study: Path, name: str = "one", *, crc: str = "", **changes: Any) -> Path:
    """An answer file of the person in place 0, who answered two trials of practice."""
    trials = read_plan(study).assignments[0].trials[:2]
    answers = [
        {"trial": one.id, "nonce": "12345678", "choice": one.right[0], "confidence": 3, "shown_ms": 1.0, "answered_ms": 900.0,
         "received": "2026-01-02T03:04:05.000Z", "viewport": [390, 844]}
        for one in trials
    ]  # fmt: skip
    record = {
        "manifest": manifest_of(study), "slot": 0, "participant": "0" * 32, "language": "en", "started": "2026-01-02T03:00:00.000Z",
        "finished": "", "instruction_seconds": 20, "open_data": True, "automated": False, "comments": "", "stage": "trials",
        "answers": answers,
    } | changes  # fmt: skip
    payload = json.dumps(record)
    file = study / "returned" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"payload": payload, "crc32": crc or f"{zlib.crc32(payload.encode()):08x}"}))
    return file


def test_answers_come_back_scored(study: Path) -> None:
    returned(study)
    answers = read_answers(study)
    assert [one.correct for one in answers] == [True, True]
    assert (answers[0].source, answers[0].rt_ms, answers[0].received) == ("bundle", 899.0, "2026-01-02T03:04:05Z")
    (person,) = read_participations(study)
    assert (person.stage, person.open_data, person.instruction_seconds) == ("trials", True, 20.0)


@pytest.mark.parametrize(
    "received", ["2026-01-02T03:04:05", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x", 5, None]
)
def test_times_of_any_browser_are_read(study: Path, received: Any) -> None:
    full = json.loads(json.loads(returned(study).read_text())["payload"])["answers"]
    returned(study, answers=[full[0], full[1] | {"received": received}])
    assert len(read_answers(study)) == 2
    (person,) = read_participations(study)
    assert person.main_seconds is None  # both are of practice


def test_the_fuller_file_of_a_person_counts(study: Path) -> None:
    full = json.loads(json.loads(returned(study, "b").read_text())["payload"])["answers"]
    returned(study, "a", answers=full[:1])
    returned(study, "c", answers=[])
    assert len(read_answers(study)) == 2
    assert len(read_participations(study)) == 1


DAMAGE: list[tuple[dict[str, Any], str]] = [
    ({"crc": "00000000"}, "checksum differs"),
    ({"manifest": "a" * 64}, "another study"),
    ({"slot": 99}, "none of this study"),
    ({"participant": "../../x"}, "none of this study"),
    ({"answers": [1]}, "none of this study"),
    ({"answers": [{"trial": "0" * 32, "nonce": "12345678", "choice": 0}]}, "none that its trial can have"),
    ({"comments": 5}, "comments"),
    ({"comments": "x" * 5000}, "more than a person"),
]


@pytest.mark.parametrize(("changes", "said"), DAMAGE)
def test_damaged_files_are_refused_by_name(study: Path, changes: dict[str, Any], said: str) -> None:
    file = returned(study, **changes)
    with pytest.raises(UserError, match=said) as error:
        read_answers(study)
    assert str(file) in str(error.value)


def test_other_files_are_refused(study: Path) -> None:
    (study / "returned").mkdir()
    (study / "returned" / "x.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="no answer file"):
        read_answers(study)
