"""`entoptic merge`: runs and indexes, told apart by what the folders hold."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from cli.conftest import Say, refusal, see
from entoptic.base.files import sha256_of
from entoptic.errors import UserError
from entoptic.images import build_index
from entoptic.images.index import ActivationIndex
from entoptic.methods.contract import Failure
from entoptic.runs.failures import read_failures, write_failures
from entoptic.runs.merge import merge_runs
from entoptic.runs.results import find_result, write_result
from entoptic.runs.store import Run


@pytest.fixture
def runs(say: Say, tmp_path: Path) -> tuple[Path, Path]:
    """A picture of one unit each."""
    for i in range(2):
        assert say(*see(f"logits:{i}", "--method", "fourier", "--out", tmp_path / f"run{i}", "--verifiers", ""))[0] == 0
    return tmp_path / "run0", tmp_path / "run1"


@pytest.fixture
def shards(say: Say, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Both halves of an index."""
    monkeypatch.setattr(build_index, "BLOCK", 8)
    for i in range(2):
        words = ("index", "tiny:net", "--layers", "stage1", "--photos", photo_folder, "--out", tmp_path / f"part{i}")
        assert say(*words, "--shard", f"{i}/2")[0] == 0
    return tmp_path / "part0", tmp_path / "part1"


def test_runs_become_one_run(say: Say, runs: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, _ = say("merge", *runs, "--out", tmp_path / "all")
    assert code == 0
    assert f"2 pictures in {tmp_path / 'all'}" in out
    merged = Run.open(tmp_path / "all")
    assert {p.unit: p.path.read_bytes() for p in merged} == {p.unit: p.path.read_bytes() for r in runs for p in Run(r)}
    assert (tmp_path / "all" / "gallery" / "index.html").is_file()
    # The same requests find their pictures there.
    before = [p.path.stat().st_mtime_ns for p in merged]
    assert say(*see("logits:0-1", "--method", "fourier", "--out", tmp_path / "all", "--verifiers", ""))[0] == 0
    assert [p.path.stat().st_mtime_ns for p in merged] == before


def test_what_is_damaged_is_named(say: Say, runs: tuple[Path, Path], tmp_path: Path) -> None:
    (picture,) = Run.open(runs[0])
    picture.path.write_bytes(b"no picture")
    code, out, err = say("merge", *runs, "--out", tmp_path / "all")
    assert code == 2
    assert f"not merged: {runs[0]}: {picture.path.relative_to(runs[0])}: it is damaged or not finished" in err
    assert "1 picture in" in out


def test_shards_become_one_index(say: Say, shards: tuple[Path, Path], tmp_path: Path) -> None:
    assert say("merge", *shards, "--out", tmp_path / "index")[0] == 0
    assert ActivationIndex.open(tmp_path / "index").whole


def test_other_folders_are_refused(
    say: Say, runs: tuple[Path, Path], shards: tuple[Path, Path], photo_folder: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "all")
    mixed = refusal(say("merge", shards[0], runs[0], *out))
    assert f"{runs[0]} is a run and {shards[0]} an index; merge takes runs or shards of an index, not both" in mixed
    for folder in (photo_folder, tmp_path / "nowhere"):
        assert f"{folder} is neither a run nor an index" in refusal(say("merge", runs[0], folder, *out))
    assert not (tmp_path / "all").exists()


def test_films_are_carried_along(say: Say, tmp_path: Path) -> None:
    words = ("logits:0", "--method", "fourier", "--out", tmp_path / "run", "--verifiers", "", "--film", "gif")
    assert say(*see(*words))[0] == 0
    assert say("merge", tmp_path / "run", "--out", tmp_path / "all")[0] == 0
    (film,) = (tmp_path / "all" / "films").rglob("*.gif")
    assert film.read_bytes() == (tmp_path / "run" / film.relative_to(tmp_path / "all")).read_bytes()


def test_a_picture_of_one_key_and_other_bytes_is_that_of_the_first_run_and_said(
    say: Say, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    (picture,) = Run.open(other)
    picture.path.write_bytes(picture.path.read_bytes() + b"rounding")  # what another number of threads may do
    record = json.loads(picture.path.with_suffix(".json").read_text())
    record["image"]["sha256"] = sha256_of(picture.path)
    picture.path.with_suffix(".json").write_text(json.dumps(record))
    name = picture.path.relative_to(other).as_posix()
    with pytest.warns(UserWarning, match=f"1 file of several runs has other bytes in each.*: {name}"):
        merged = merge_runs([runs[0], other], tmp_path / "all")
    (first,) = Run.open(runs[0])
    assert [p.path.read_bytes() for p in merged] == [first.path.read_bytes()]
    assert not merged.failures, "nothing is lost that was asked for"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_runs([runs[0], runs[1], runs[0]], tmp_path / "again")


def test_a_failure_that_another_run_has_made_good_is_dropped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def fail(folder: Path, *failures: Failure) -> None:
        run = Run.open(folder)
        with run.writing({}):
            write_failures(run, failures)

    good = Failure(unit="logits:0", method="fourier", text="logits:0 by fourier: its worker was killed")
    kept = Failure(unit="logits:0", method="maco", text="logits:0 by maco: nothing is to be had")
    unit = Failure(unit="logits:1", text="logits:1: no photos here")
    whole = Failure(text="no verifier could be loaded")
    fail(runs[1], good, kept, whole)
    fail(runs[0], unit)
    merge_runs(runs, tmp_path / "all")
    assert {f.text for f in read_failures(Run.open(tmp_path / "all"))} == {kept.text, whole.text}
    # What a run lists as failed beside a picture of the same unit is not made good by that.
    fail(runs[0], good)
    fail(runs[1])
    merge_runs(runs, tmp_path / "one")
    assert [f.text for f in read_failures(Run.open(tmp_path / "one"))] == [good.text]
    # One that fails wherever it is made stays.
    both = tmp_path / "both"
    shutil.copytree(runs[0], both)
    merge_runs([runs[0], both], tmp_path / "two")
    assert [f.text for f in read_failures(Run.open(tmp_path / "two"))] == [good.text]


def test_frontiers_of_both_runs_are_in_one_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def place(folder: Path, unit: str, note: str) -> None:
        record = {"unit": unit, "places": [], "notes": [note], "failures": []}
        (folder / "frontier").mkdir(exist_ok=True)
        (folder / "frontier" / f"{unit.replace(':', '-')}.json").write_text(json.dumps(record))
        (folder / "frontier" / "table.md").write_text(note)

    place(runs[0], "logits:0", "first")
    place(runs[1], "logits:1", "second")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_runs(runs, tmp_path / "all")
    table = (tmp_path / "all" / "frontier" / "table.md").read_text()
    assert "## logits:0" in table
    assert "## logits:1" in table
    place(runs[1], "logits:0", "with another budget")
    with pytest.warns(UserWarning, match="that of the first was kept: frontier/logits-0.json"):
        merge_runs(runs, tmp_path / "other")
    assert "- first" in (tmp_path / "other" / "frontier" / "table.md").read_text()


def test_photos_beside_a_unit_belong_to_one_record(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for folder, photo in zip(runs, ("a", "b")):
        Run(folder).write_context("logits-0", {"strongest": [{"file": f"{photo}.jpg"}]}, {f"{photo}.jpg": b"photo"})
    with pytest.warns(UserWarning, match="context/logits-0/context.json"):
        merge_runs(runs, tmp_path / "all")
    assert {f.name for f in (tmp_path / "all" / "context" / "logits-0").iterdir()} == {"a.jpg", "context.json"}


def test_results_are_whole_or_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    keys = ("ab" * 32, "cd" * 32)
    for key in keys:
        with Run(runs[0]).writing({}):
            made = write_result(Run(runs[0]), "circuit", "logits:0", key, files={"edges.json": key.encode()})
    made.file("edges.json").write_bytes(b"changed")
    out = tmp_path / "all"
    with Run(out).writing({}):  # a part of the first, which was interrupted
        Run(out).put(
            out / made.path.relative_to(runs[0]).parent.with_name(f"logits-0-{keys[0][:12]}") / "edges.json", b"half"
        )
    merged = merge_runs(runs, out)
    assert find_result(merged, "circuit", "logits:0", keys[0]) is not None
    assert [f.split(": ", 1)[1] for f in merged.failures] == [
        f"results/circuit/logits-0-{keys[1][:12]}: its file edges.json is missing or was changed"
    ]


def test_runs_that_are_none(say: Say, runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run was named"):
        merge_runs([], tmp_path / "all")
    (runs[1] / "run.json").write_text("{")
    code, out, err = say("merge", *runs, "--out", tmp_path / "all")
    assert (code, err) == (0, ""), "what is in it is whole"
    assert "2 pictures in" in out
    assert "run.json" in refusal(say("merge", runs[1], runs[0], "--out", tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_several_versions_are_said(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (picture,) = Run.open(runs[1])
    sidecar = picture.path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    before = record["versions"]["torch"]
    record["versions"]["torch"] = "99.0"
    sidecar.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="several versions of torch ") as told:
        merged = merge_runs(runs, tmp_path / "all")
    assert f"torch ({', '.join(sorted([before, '99.0']))})" in str(told[0].message)
    assert len(merged) == 2
