"""`entoptic see`: pictures, plans, and what becomes of a run that is interrupted or refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Say, refusal, see
from entoptic.base import files
from entoptic.runs.store import Run


def test_see_verify_and_gallery(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    run = tmp_path / "r"
    words = see(
        'logits:"stripe"', "stage1:1-2", "--method", "fourier,pixels", "--photos", photo_folder, "--n", 2, "--out", run
    )
    code, out, err = say(*words)
    progress = re.compile(r"(fourier|pixels): [\d.]+ of 6 pictures, .* so far")  # what a slow machine says
    assert (code, [line for line in err.splitlines() if not progress.match(line)]) == (0, [])
    assert "12 pictures in" in out
    assert "logits:2 (stripe) by fourier: drives the unit more than" in out
    assert (run / "gallery" / "index.html").is_file()
    assert json.loads(next(run.glob("pictures/logits-2/fourier*.json")).read_text())["config"]["steps"] == 3
    code, out, err = say("verify", run, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "all as recorded" in out
    shutil.rmtree(run / "gallery")
    code, out, _ = say("gallery", run)
    assert code == 0
    assert Path(out.strip()).is_file()
    (victim,) = run.glob("pictures/logits-2/fourier-0-*.json")
    victim.write_text(victim.read_text().replace('"n": 40', '"n": 41', 1))
    code, out, _ = say("verify", run)
    assert code == 2
    assert "differs: " in out
    assert "recomputed n = 40" in out


def test_the_command_in_a_sidecar_makes_the_picture_again(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    import shlex

    say("see", "tiny:net", "logits:1", "--method", "vital", "--vital.layers", "stem", "stage1", "--vital.no-flip",
        "--vital.steps", "4", "--photos", photo_folder, "--n", "2", "--seed", "5", "--out", tmp_path / "a")  # fmt: skip
    first = {p.sample: p for p in Run.open(tmp_path / "a")}
    words = shlex.split(first[1].record["command"])
    assert words[0] == "entoptic"
    code, _, err = say(*words[1:], "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    second = {p.sample: p for p in Run.open(tmp_path / "b")}
    assert second[1].record["key"] == first[1].record["key"]
    assert second[1].path.read_bytes() == first[1].path.read_bytes()


def test_dry_run_prints_the_plan_and_writes_nothing(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    words = see("logits:0-2", "--method", "fourier,retrieval", "--photos", photo_folder, "--out", tmp_path / "r")
    code, out, err = say("see", "tiny:net", *words[2:-4], "--fourier.steps", "50", "--dry-run")
    assert (code, err) == (0, "")
    assert "fourier: 3 to make, 0 there, 50 steps" in out
    assert "retrieval: 3 to make" in out
    assert "peak memory" in out
    assert re.search(r"evidence rests on 1 picture a unit and method; \d+ photos to compare with; 0 verifiers", out)
    assert " s a picture" in out
    assert not (tmp_path / "r").exists()
    say(*see("logits:0", "--method", "fourier", "--out", tmp_path / "r"))
    before = sorted(p for p in (tmp_path / "r").rglob("*"))
    code, out, _ = say(*see("logits:0-1", "--method", "fourier", "--out", tmp_path / "r"), "--dry-run")
    assert "fourier: 1 to make, 1 there" in out
    assert sorted(p for p in (tmp_path / "r").rglob("*")) == before


def test_photos_that_cannot_serve(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    vital = ("--method", "vital", "--out", tmp_path / "r")
    some = tmp_path / "some"
    shutil.copytree(photo_folder / "circle", some / "circle")
    shutil.copytree(photo_folder / "square", some / "sqare")
    assert say(*see("logits:1", "--method", "vital", "--out", tmp_path / "near", "--photos", some))[0] == 0
    (picture,) = Run(tmp_path / "near")
    (note,) = [text for text in picture.record["trace"]["notes"] if "no photos of square" in text]
    assert 'did you mean "sqare"?' in note
    (tmp_path / "empty").mkdir()
    assert "no photos in" in refusal(say(*see("logits:0", *vital, "--photos", tmp_path / "empty")))
    assert "some" in refusal(say(*see("logits:0", *vital, "--photos", tmp_path / "som")))
    bad = tmp_path / "bad" / "circle"
    bad.mkdir(parents=True)
    (bad / "a.png").write_bytes(b"no picture")
    assert "bad" in refusal(say(*see("logits:0", *vital, "--photos", tmp_path / "bad")))
    assert "--photos DIR" in refusal(say(*see("logits:0", *vital)))
    assert list(Run(tmp_path / "r")) == []


def test_a_truncated_photo_is_skipped_and_counted(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    victim = photos / "circle" / "3.png"
    victim.write_bytes(victim.read_bytes()[:600])
    code, _, err = say(*see("logits:0", "--method", "vital", "--photos", photos, "--out", tmp_path / "r"))
    assert code == 0, err
    (picture,) = Run.open(tmp_path / "r")
    assert picture.record["references"]["n"] == 7
    assert picture.evidence["percentile"]["n"] == 39


def test_output_that_cannot_be_written(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    fourier = ("--method", "fourier", "--out")
    assert "is a file; give --out a folder" in refusal(say(*see("logits:0", *fourier, tmp_path / "file")))
    assert "cannot be written" in refusal(say(*see("logits:0", *fourier, tmp_path / "file" / "r")))
    assert "holds other files (file)" in refusal(say(*see("logits:0", *fourier, tmp_path)))

    def read_only(*args: Any, **more: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "r"))

    monkeypatch.setattr(files.tempfile, "mkstemp", read_only)
    message = refusal(say(*see("logits:0", *fourier, tmp_path / "r")))
    assert "cannot be written (Permission denied" in message
    assert "give another --out" in message


def test_a_full_disk_keeps_what_is_finished_and_stops_at_once(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, writes = files.os.replace, []

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == "progress.json":  # how far the run is: not counted here
            return real(source, target)
        writes.append(str(target))
        if len(writes) > 7:  # run.json, two pictures with their maps and sidecars
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    words = see("logits:0-4", "--method", "fourier", "--out", tmp_path / "r", "--batch-size", "1")
    message = refusal(say(*words))
    assert "No space left on device" in message
    assert "finished are safe" in message
    assert len([w for w in writes if "/maps/" in w]) == 3  # a map comes first, and no fourth picture was tried
    assert sorted(p.unit for p in Run.open(tmp_path / "r")) == ["logits:0", "logits:1"]
    assert list((tmp_path / "r").rglob("*.part")) == []
    monkeypatch.setattr(files.os, "replace", real)
    code, out, _ = say(*words)
    assert code == 0
    assert "5 pictures in" in out


def test_two_processes_writing_one_run(say: Say, tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    with run.writing({}):
        message = refusal(say(*see("logits:0", "--method", "fourier", "--out", run.path)))
    assert f"is being written by another process (pid {os.getpid()} on" in message


def test_a_unit_that_fails_among_others(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    words = see("logits:0", "stage1:0", "--method", "deep-inversion", "--photos", photo_folder, "--out", tmp_path / "r")
    code, out, err = say(*words)
    assert code == 2
    assert err == "warning: deep-inversion shows logit units, not stage1:0 (channel)\n"
    assert "1 picture in" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("see", "tiny:net", "logits:0", "--method", "fourier", "--vital.steps", "7"),
            "--vital.steps was given, and .* by fourier",
        ),
        (
            ("see", "tiny:net", "logits:0", "--quick", "--fourier.lr", "2"),
            "--fourier.lr was given, and the pictures are by vital",
        ),
        (
            ("frontier", "tiny:net", "logits:0", "--caricature.lr", "2"),
            "by klsc, best-of; leave it out, or name caricature",
        ),
        (("interpolate", "tiny:net", "logits:0", "logits:1", "--maco.crops", "2"), "--maco.crops was given"),
    ],
)
def test_options_of_a_method_that_makes_nothing_are_refused(
    say: Say, tmp_path: Path, words: Sequence[str], said: str
) -> None:
    code, _, err = say(*words, "--out", tmp_path / "r")
    assert code == 2
    assert re.search(said, err), err
    assert not (tmp_path / "r").exists()
