"""A public copy of a run: no path of this machine, no photo, and what `verify` still checks of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.stored import asked

import entoptic
from entoptic import Run, UserError
from entoptic.gallery.publish import export
from entoptic.inversion.steer import Steer
from entoptic.methods.contract import Failure
from entoptic.metrics.evidence import Evidence
from entoptic.models.sources import SOURCES
from entoptic.runs.failures import write_failures
from entoptic.runs.results import write_result
from entoptic.runs.verify import verify
from fake_run import FakeRun, evidence

pytest.importorskip("diffusers")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored folder in a folder whose name has a space; the working directory is another."""
    folder = tmp_path / "my stored things"
    shutil.copytree(asked.HERE, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("ENTOPTIC_CACHE", str(folder / "cache"))
    monkeypatch.setitem(SOURCES, "tiny", asked.networks(folder))
    return folder


def with_absolute_paths(folder: Path, kind: str) -> Run:
    """A run whose request names everything by absolute paths."""
    out = folder / "made" / kind
    quick: dict[str, Any] = {"verifiers": "tiny:7", "device": "cpu", "progress": False, "out": out}
    photo, inverter = str(folder / "photos" / "circle" / "0.png"), f"file:{folder / 'inverter'}"
    prior, dictionary = f"file:{folder / 'prior'}", str(folder / "four.safetensors")
    if kind == "see":
        entoptic.see(
            "tiny:0", ["logits:0", "stage1:3", f"dict({dictionary}):1"], method="fourier,retrieval,vital", steps=2,
            photos=str(folder / "photos"), references=4, **quick,
        )  # fmt: skip
        return entoptic.see("tiny:0", "logits:0", method="best-of", prior=prior, bank=64, **quick)
    if kind == "frontier":
        return Run.open(folder / "runs" / "frontier")
    if kind == "invert":
        others = {"mix": str(folder / "photos" / "dot" / "1.png"), "weights": [0.5]}
        entoptic.invert("tiny:0", "stage2", photo, inverter=inverter, prior=prior, steps=2, n=1, **others, **quick)
        return entoptic.invert("tiny:0", "stage2", photo, inverter=inverter, prior=prior, steps=2, n=2, **quick)
    del quick["verifiers"]
    return entoptic.steer(
        "tiny:0", "stage2", photo, dictionary=dictionary, concepts=[0], inverter=inverter, prior=prior,
        config=Steer(n=2, nulls=4, level=0.4, scales=(0.0, 1.0)), **quick,
    )  # fmt: skip


def traces(folder: Path, *secrets: str) -> list[str]:
    """Files of a folder that hold a text in their bytes or names, also as links and names of folders write it."""
    written = [form for one in secrets for form in (one, one.replace(" ", "%20"), one.strip("/").replace("/", "-"))]
    wanted = [form.encode() for form in written if "/" in form or len(form) > 12]  # "root" alone is no path
    found = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        data = file.read_bytes() if file.is_file() else b""
        found += [f"{name}: {one.decode()}" for one in wanted if one in data or one in name.encode()]
    return found


@pytest.mark.parametrize("kind", ["see", "frontier", "invert", "steer"])
def test_no_path_of_this_machine_is_in_a_copy(stored: Path, tmp_path: Path, kind: str) -> None:
    run = with_absolute_paths(stored, kind)
    secrets = (str(tmp_path), str(Path.home()), "my stored things", os.path.expanduser("~"))
    if kind != "frontier":
        assert traces(run.path, str(stored))  # there was something to take out
    for with_photos in (False, True):
        made = export(run, tmp_path / f"public {with_photos}", with_photos=with_photos)
        assert traces(made.path, *secrets) == []
        assert (made.path / "gallery" / "index.html").is_file()
        assert not list(made.path.rglob(".lock"))  # whoever writes a run leaves the machine's name there
        if len(host := socket.gethostname().encode()) > 8:
            assert not [file for file in made.path.rglob("*") if file.is_file() and host in file.read_bytes()]
        assert made.pictures == len(Run.open(made.path)) == len((made.path / "metadata.jsonl").read_text().splitlines())


@pytest.mark.parametrize("kind", ["see", "invert", "steer"])
def test_pictures_and_numbers_are_those_of_the_run(stored: Path, tmp_path: Path, kind: str) -> None:
    run = with_absolute_paths(stored, kind)
    made = export(run, tmp_path / "public")
    before = {picture.record["key"]: picture for picture in run}
    copied = Run.open(made.path)
    assert len(copied) == sum(picture.method != "retrieval" for picture in run)
    for picture in copied:
        old = before[picture.record["key"]]
        assert np.array_equal(picture.pixels, old.pixels)
        values = [(e["name"], e["value"], e["interval"], e["n"]) for e in old.record["evidence"]]
        assert [(e["name"], e["value"], e["interval"], e["n"]) for e in picture.record["evidence"]] == values
        assert "command" in picture.record["exported"]
    assert run.path.is_dir()
    assert all("exported" not in picture.record for picture in run)


def test_without_photos_there_is_none(stored: Path, tmp_path: Path) -> None:
    made = {}
    for kind in ("see", "invert", "steer"):
        run = with_absolute_paths(stored, kind)
        made[kind] = export(run, tmp_path / kind)
        copied = Run.open(made[kind].path)
        assert not (copied.path / "context").exists()
        assert not list(copied.path.rglob("*.photo.png"))
        assert not list(copied.path.rglob("*.jpg"))
        assert "retrieval" not in {picture.method for picture in copied}
        both = export(run, tmp_path / f"{kind} with", with_photos=True)
        assert both.pictures == len(run)
        assert list(both.path.glob("context/*/*.jpg" if kind != "steer" else "maps/*/*.photo.png"))
    assert any("it is a real photo" in line for line in made["see"].left_out)


def test_verify_says_what_it_still_checks_and_why_not_the_rest(stored: Path, tmp_path: Path) -> None:
    for kind in ("see", "invert", "steer"):
        run = with_absolute_paths(stored, kind)
        made = export(run, tmp_path / kind)
        found = verify(made.path)
        assert found.ok, found.drift
        said = "\n".join(found.skipped)
        assert "this is a public copy without paths and photos" in said
        if kind == "see":
            assert found.numbers > 20
            assert "give them with --photos" in said
            assert "the file of its unit is not part of this public copy" in said
        else:
            assert "inverter" in said
    victim = Run.open(tmp_path / "see")["logits:0"][0]
    victim.evidence["activation"]["value"] += 1
    victim.path.with_suffix(".json").write_text(json.dumps(victim.record))
    victim.path.write_bytes(victim.path.read_bytes() + b"\0")
    drift = verify(tmp_path / "see").drift
    assert any("activation says" in line for line in drift)
    assert any("sha256 differs" in line for line in drift)


def test_with_its_photos_and_files_a_copy_verifies_in_full(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("see", "invert", "steer"):
        made = export(with_absolute_paths(stored, kind), tmp_path / kind)
        monkeypatch.chdir(stored)  # where "file:inverter" and "dict(four.safetensors)" are found
        found = verify(made.path, photos=str(stored / "photos"))
        assert found.ok, found.drift
        assert found.pictures == made.pictures
        keys = [line for line in found.skipped if "its key follows from the path" in line]
        assert len(keys) == (made.pictures if kind == "invert" else 0)
        monkeypatch.chdir(tmp_path / "elsewhere")


def test_the_frontier_is_drawn_again_and_lists_what_is_there(stored: Path, tmp_path: Path) -> None:
    made = export(stored / "runs" / "frontier", tmp_path / "public")
    record = json.loads((made.path / "frontier" / "logits-0.json").read_text())
    listed = [one for place in record["places"] for one in place.get("pictures", [])]
    assert listed
    assert all((made.path / one).is_file() for one in listed)
    assert {file.name for file in (made.path / "frontier").iterdir()} == {
        "logits-0.json", "logits-0.svg", "logits-0.png", "table.md",
    }  # fmt: skip
    assert verify(made.path).ok


# --- what is left out, and what is refused ---------------------------------------------------------------------------


def test_methods_that_are_not_known_and_priors_of_photos_are_left_out(fake: FakeRun, tmp_path: Path) -> None:
    fake.add("logits:1", "a-method-of-others")
    fake.add("logits:2", "best-of", prior="photos:/data/photos", evidence=[evidence("rank", 1)])
    (fake.folder / "pictures" / "logits-1" / "damaged.json").write_text("{")
    with pytest.raises(UserError, match=r"nothing of .* can be copied: .*not installed"):
        export(fake.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failures_and_dictionaries_go_along_and_results_do_not(stored: Path, tmp_path: Path) -> None:
    run = Run.open(stored / "runs" / "steer")
    (run.path / "dictionaries").mkdir()
    shutil.copy(stored / "four.safetensors", run.path / "dictionaries")
    (run.path / "dictionaries" / "broken.safetensors").write_text("no")
    with run.writing({}):
        write_failures(run, [Failure(unit="logits:1", text=f"no photo in {stored / 'photos'}")])
        write_result(run, "circuit", "a", "k", files={"f": b"x"}, evidence=[Evidence("kept", 1.0)])
    made = export(run.path, tmp_path / "public")
    (failure,) = Run.open(made.path).problems
    assert failure.text == "no photo in photos"
    assert [file.name for file in (made.path / "dictionaries").iterdir()] == ["four.safetensors"]
    assert not (made.path / "results").exists()
    assert any(line.startswith("results: ") for line in made.left_out)
    assert any("broken.safetensors" in line for line in made.left_out)
    assert str(tmp_path) not in "".join(made.left_out)


def test_a_folder_that_holds_something_is_left_alone(stored: Path, tmp_path: Path) -> None:
    run = stored / "runs" / "steer"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    for out in (tmp_path / "mine", run, run / "run.json"):
        with pytest.raises(UserError, match="holds something already"):
            export(run, out)
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["a.txt"]
    (tmp_path / "empty").mkdir()
    assert export(run, tmp_path / "empty").pictures == 2


def test_a_failure_leaves_nothing_behind(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("no")

    monkeypatch.setattr("entoptic.runs.export._Export.rest", fail)
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new" / "deep", tmp_path / "empty"):
        with pytest.raises(UserError, match="no"):
            export(stored / "runs" / "steer", out)
    assert not (tmp_path / "new" / "deep").exists()
    assert [one.name for one in (tmp_path / "empty").iterdir() if one.name != ".lock"] == []


def test_damaged_maps_and_frontiers_are_left_out(stored: Path, tmp_path: Path) -> None:
    see = stored / "runs" / "see"
    first, second = sorted(see.glob("maps/logits-0/*.where.png"))[:2]
    first.write_bytes(b"no picture")
    second.unlink()
    made = export(see, tmp_path / "see")
    assert sum("its map where" in line for line in made.left_out) == 2
    record = json.loads((stored / "runs" / "frontier" / "frontier" / "logits-0.json").read_text())
    (stored / "runs" / "frontier" / "frontier" / "logits-0.json").write_text(
        json.dumps(record | {"frontier": {"points": 3}})
    )
    (stored / "runs" / "frontier" / "frontier" / "b.json").write_text("{")
    left = export(stored / "runs" / "frontier", tmp_path / "frontier").left_out
    assert [line.split(":")[0] for line in left] == ["frontier/b.json", "frontier/logits-0.json"]
