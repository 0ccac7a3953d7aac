"""What people answered stands beside a run, and its damage costs nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from entoptic.errors import Unreadable, UserError
from entoptic.gallery.read_run import read_run
from entoptic.gallery.site import build
from entoptic.metrics import METRICS
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.people import PEOPLE
from entoptic.models.model import Model
from entoptic.runs.export import export_run
from entoptic.runs.listing import SEAL
from entoptic.runs.merge import merge_runs
from entoptic.runs.people import FILE, Answered, StudyOfRun, read_people, write_people
from entoptic.runs.see import see
from entoptic.runs.verify import verify
from fake_run import NASTY, FakeRun

MODEL = "tiny:net"


def answered(unit: str = "logits:1", method: str = "vital", value: float = 0.8, **detail: object) -> Answered:
    evidence = Evidence("people_2afc", value, 20, (0.58, 0.92), "higher", detail={"study": "first", **detail})
    return Answered(model=MODEL, unit=unit, method=method, evidence=evidence)


def study(*entries: Answered, manifest: str = "a" * 64, simulated: int = 0) -> StudyOfRun:
    return StudyOfRun(
        study="first", manifest=manifest, analysed="2026-01-02", participants=20, simulated=simulated, answered=entries
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fake = FakeRun(tmp_path / "run")
    for unit in ("logits:1", "logits:2"):
        for method in ("vital", "maco"):
            fake.add(unit=unit, method=method, model={"name": MODEL})
    return fake.folder


def test_answers_reach_the_pictures_of_their_unit_and_method(run: Path) -> None:
    assert write_people(run, study(answered(), answered(unit="logits:9"))) == 1
    found = {(one.unit, one.method): [r.name for r in one.readings] for one in read_run(run).pictures}
    assert "people_2afc" in found["logits:1", "vital"]
    assert not [key for key, names in found.items() if "people_2afc" in names and key != ("logits:1", "vital")]


def test_the_page_of_the_unit_says_what_people_found(run: Path) -> None:
    beside = {"real photos": 0.9, "no references": 0.45, "chance": 0.5}
    write_people(run, study(answered(**beside)))
    page = (build(run).parent / "unit-logits-1.html").read_text()
    assert "People found the photo that drives the unit in 80" in page
    assert "with real photos" in page
    assert "without references" in page
    assert "Whether people understand from the pictures" in page
    write_people(run, study(answered(**beside, simulated=3)))
    page = (build(run).parent / "unit-logits-1.html").read_text()
    assert "Simulated participants found" in page
    assert "People found the photo" not in page
    assert "People find its photos (simulated)" in page  # also where only the table is read


def test_an_analysis_replaces_itself_and_no_other(run: Path) -> None:
    write_people(run, study(answered(value=0.8)))
    write_people(run, study(answered(value=0.6), manifest="b" * 64))
    write_people(run, study(answered(value=0.7)))
    values = [one["value"] for one in read_people(run)[MODEL, "logits:1", "vital"]]
    assert sorted(values) == [0.6, 0.7]


def test_nothing_is_written_where_nothing_was_judged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no picture of .* was judged in the study first"):
        write_people(run, study(answered(unit="logits:9")))
    with pytest.raises(UserError, match="no answer about pictures counts"):
        write_people(run, study())
    with pytest.raises(UserError, match="is no run"):
        write_people(tmp_path / "absent", study(answered()))
    assert not (run / FILE).exists()
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"format": 2, "studies": []}', '{"format": 1, "studies": [1]}', '{"format": 1, "studies": [{"study": "a"}]}',
     '{"format": 1, "studies": [{"study": "a", "manifest": "b", "answered": [{"model": "m"}]}]}'],
)  # fmt: skip
def test_a_damaged_file_is_named_and_the_gallery_goes_on(run: Path, content: str) -> None:
    (run / FILE).write_text(content)
    with pytest.raises(Unreadable):
        read_people(run)
    found = read_run(run)
    assert len(found.pictures) == 4
    assert [one.name for one in found.left_out] == [FILE]


def test_nothing_behind_a_link_is_read(run: Path, tmp_path: Path) -> None:
    write_people(run, study(answered()))
    (tmp_path / "secret.json").write_text((run / FILE).read_text())
    (run / FILE).unlink()
    (run / FILE).symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match="symbolic link"):
        read_people(run)
    assert [one.name for one in read_run(run).left_out] == [FILE]


def test_verify_finds_an_edit_and_it_is_not_passed_on(tiny: Model, tmp_path: Path) -> None:
    made = see(tiny, "logits:1", method="fourier", steps=1, verifiers="", out=tmp_path / "made", progress=False)
    name = str(made[0].record["model"]["name"])
    entry = replace(answered(method="fourier"), model=name)
    write_people(made.path, study(entry))
    write_people(made.path, study(entry, manifest="b" * 64))
    assert verify(made.path, model=tiny).ok
    copy = export_run(made.path, tmp_path / "copy")
    assert not verify(copy.path, model=tiny).drift
    held = json.loads((made.path / FILE).read_text())
    held["studies"][1]["answered"][0]["evidence"]["value"] = 0.95
    (made.path / FILE).write_text(json.dumps(held))
    assert verify(made.path, model=tiny).drift == [
        f"{FILE}: what the study 'first' found was changed after it was written ({SEAL} differs)"
    ]
    merged = merge_runs([made.path], tmp_path / "all")
    assert [one for one in merged.failures if "was changed after it was written" in one]
    assert not (merged.path / FILE).exists()
    (made.path / FILE).write_text("{")
    assert any(one.startswith(f"{FILE} cannot be read") for one in verify(made.path, model=tiny).drift)


def test_answers_of_earlier_versions_are_verified_with_a_note(tiny: Model, tmp_path: Path) -> None:
    made = see(tiny, "logits:1", method="fourier", steps=1, verifiers="", out=tmp_path / "made", progress=False)
    write_people(made.path, study(replace(answered(method="fourier"), model=str(made[0].record["model"]["name"]))))
    held = json.loads((made.path / FILE).read_text())
    del held["studies"][0][SEAL]
    (made.path / FILE).write_text(json.dumps(held))
    found = verify(made.path, model=tiny)
    assert found.ok
    assert any("1 record of a version that kept no hash" in note for note in found.notes)


def test_a_name_of_a_study_is_escaped(run: Path) -> None:
    one = answered()
    write_people(run, study(replace(one, evidence=replace(one.evidence, detail={"study": NASTY}))))
    assert json.loads((run / FILE).read_text())["studies"][0]["answered"][0]["evidence"]["detail"]["study"] == NASTY
    page = (build(run).parent / "unit-logits-1.html").read_text()
    assert NASTY not in page


def test_every_task_has_a_card_that_no_file_can_tell_again() -> None:
    for name, title in PEOPLE.values():
        assert METRICS[name].title == title
        assert not METRICS[name].recomputable


def test_a_public_copy_keeps_what_people_answered(tiny: Model, tmp_path: Path) -> None:
    made = see(
        tiny, "logits:1", method="fourier", steps=1, verifiers="", out=tmp_path / "made", progress=False
    )  # fmt: skip
    name = str(made[0].record["model"]["name"])
    write_people(made.path, study(replace(answered(method="fourier"), model=name)))
    copy = export_run(made.path, tmp_path / "copy")
    assert [one["value"] for one in read_people(copy.path)[name, "logits:1", "fourier"]] == [0.8]
    assert "people_2afc" in {reading.name for reading in read_run(copy.path).pictures[0].readings}


def merged_parts(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of one network, a unit each."""
    folders = []
    for unit in ("logits:1", "logits:2"):
        fake = FakeRun(tmp_path / unit.replace(":", "-"))
        fake.add(unit=unit, model={"name": MODEL})
        folders.append(fake.folder)
    return folders[0], folders[1]


def test_merging_runs_carries_the_answers_of_people(tmp_path: Path) -> None:
    one, two = merged_parts(tmp_path)
    write_people(one, study(answered(unit="logits:1", value=0.8)))
    write_people(two, study(answered(unit="logits:2", value=0.6)))  # the same study, about the other run
    write_people(two, study(answered(unit="logits:2", value=0.4), manifest="b" * 64))
    merged = merge_runs([one, two], tmp_path / "all")
    assert not [problem for problem in merged.failures if FILE in problem]
    found = {key: [e["value"] for e in entries] for key, entries in read_people(merged.path).items()}
    assert found == {(MODEL, "logits:1", "vital"): [0.8], (MODEL, "logits:2", "vital"): [0.6, 0.4]}
    merge_runs([one, two], tmp_path / "all")  # nothing is doubled
    assert {key: len(entries) for key, entries in read_people(merged.path).items()} == {
        k: len(v) for k, v in found.items()
    }


def test_the_later_analysis_of_a_study_counts(tmp_path: Path) -> None:
    one, two = merged_parts(tmp_path)
    write_people(one, replace(study(answered(value=0.8)), analysed="2026-02-01"))
    write_people(two, replace(study(answered(unit="logits:2", value=0.1)), analysed="2026-01-01"))
    held = json.loads((two / FILE).read_text().replace("logits:2", "logits:1"))  # an earlier analysis, of the same unit
    del held["studies"][0][SEAL]  # by a version that kept no hash
    (two / FILE).write_text(json.dumps(held))
    merged = merge_runs([one, two], tmp_path / "all")
    (entries,) = read_people(merged.path).values()
    assert [entry["value"] for entry in entries] == [0.8]


def test_answers_that_are_damaged_are_named_and_cost_nothing_else(tmp_path: Path) -> None:
    one, two = merged_parts(tmp_path)
    write_people(one, study(answered()))
    (two / FILE).write_text("{")
    merged = merge_runs([one, two], tmp_path / "all")
    assert [problem for problem in merged.failures if f"{two}: {FILE}" in problem]
    assert list(read_people(merged.path)) == [(MODEL, "logits:1", "vital")]
