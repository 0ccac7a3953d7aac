"""The command line: one clear sentence for bad input, exit codes, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_card, tiny_module
from entoptic import cli
from entoptic.base import files
from entoptic.base.progress import Reporter
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.runs.store import Run

SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture(autouse=True)
def _tiny_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny:net` names the tiny network."""
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net")))


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def see(*words: object) -> tuple[object, ...]:
    return ("see", "tiny:net", *words, "--steps", "3", "--device", "cpu")


def refusal(answer: tuple[int, str, str]) -> str:
    """The one sentence of bad input."""
    code, _, err = answer
    assert code == 2
    assert err.startswith("entoptic: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    return err


# --- help ----------------------------------------------------------------------------------------------------------


def shell(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from entoptic.cli import main\n"
        "for words in (['--help'], ['see', '--help'], []):\n    assert main(words) == 0\n"
        "heavy = {'torch', 'torchvision', 'timm', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = shell(code)
    assert done.returncode == 0, done.stderr
    for word in ("ls", "see", "verify", "gallery", "check", "--photos", "--dry-run", "--vital.steps", "--maco.crops"):
        assert word in done.stdout


def test_bad_input_in_a_real_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "entoptic", "verify", str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr == f"entoptic: {tmp_path} is no run folder (it has no run.json)\n"


# --- the verbs -----------------------------------------------------------------------------------------------------


def test_ls(say: Say) -> None:
    code, out, _ = say("ls")
    assert code == 0
    for word in ("builtin:", "torchvision:", "builtin:lite0", "vital", "retrieval"):
        assert word in out
    code, out, _ = say("ls", "tiny:net")
    assert code == 0
    assert "stage1.2" in out
    assert "logits" in out
    code, out, _ = say("ls", "tiny:net", "logits")
    assert "logits:2\tstripe" in out
    code, out, _ = say("ls", "tiny:net", "stage1")
    assert "12 units, 8×8 positions, ends in stage1.3" in out
    assert "stage1:0 … stage1:11" in out


def test_see_verify_and_gallery(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    run = tmp_path / "r"
    words = see(
        'logits:"stripe"', "stage1:1-2", "--method", "fourier,pixels", "--photos", photo_folder, "--n", 2, "--out", run
    )
    code, out, err = say(*words)
    assert (code, err) == (0, "")
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


def test_check(say: Say, photo_folder: Path) -> None:
    code, out, _ = say("check", "tiny:net", "--photos", photo_folder, "--n", 8)
    assert code in (0, 2)
    assert "card of tiny:net" in out
    assert "must be at least 1" in refusal(say("check", "tiny:net", "--photos", photo_folder, "--n", 0))


def test_dry_run_prints_the_plan_and_writes_nothing(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    words = see("logits:0-2", "--method", "fourier,retrieval", "--photos", photo_folder, "--out", tmp_path / "r")
    code, out, err = say("see", "tiny:net", *words[2:-4], "--fourier.steps", "50", "--dry-run")
    assert (code, err) == (0, "")
    assert "fourier: 3 to make, 0 there, 50 steps" in out
    assert "retrieval: 3 to make" in out
    assert "peak memory" in out
    assert " s a picture" in out
    assert not (tmp_path / "r").exists()
    say(*see("logits:0", "--method", "fourier", "--out", tmp_path / "r"))
    before = sorted(p for p in (tmp_path / "r").rglob("*"))
    code, out, _ = say(*see("logits:0-1", "--method", "fourier", "--out", tmp_path / "r"), "--dry-run")
    assert "fourier: 1 to make, 1 there" in out
    assert sorted(p for p in (tmp_path / "r").rglob("*")) == before


# --- bad input -----------------------------------------------------------------------------------------------------


def test_unknown_names(say: Say, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r", "--method", "fourier")
    assert 'did you mean "lite0"' in refusal(say("see", "builtin:lite00", "logits:0"))
    assert 'no model source "tny"' in refusal(say("see", "tny:net", "logits:0"))
    assert 'did you mean "resnet50"' in refusal(say("ls", "timm:resnett50"))
    assert 'did you mean "stage1" (12 channels)?' in refusal(say(*see("stage_1:0", *out)))
    assert 'no layer "stag1"' in refusal(say("ls", "tiny:net", "stag1"))
    assert 'no label "strip" in tiny:net; did you mean "stripe"?' in refusal(say(*see('logits:"strip"', *out)))
    assert "5 logits, 0 to 4; did you mean logits:4?" in refusal(say(*see("logits:5", *out)))
    assert "did you mean stage1:11?" in refusal(say(*see("stage1:99", *out)))
    assert 'did you mean logits:"stripe"' in refusal(say(*see("logits:stripe", *out)))
    assert 'did you mean "vital"' in refusal(say(*see("logits:0", "--method", "vitall")))
    assert "no method was named" in refusal(say(*see("logits:0", "--method", ",")))
    assert "no unit was named" in refusal(say(*see()))
    assert "--threads must be at least 1" in refusal(say(*see("logits:0", *out), "--threads", "0"))
    assert 'no device "gpu"' in refusal(say("see", "tiny:net", "logits:0", "--device", "gpu"))
    assert not (tmp_path / "r").exists()


def test_photos_that_cannot_serve(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    vital = ("--method", "vital", "--out", tmp_path / "r")
    some = tmp_path / "some"
    shutil.copytree(photo_folder / "circle", some / "circle")
    shutil.copytree(photo_folder / "square", some / "sqare")
    message = refusal(say(*see("logits:1", *vital, "--photos", some)))
    assert "has no photos of square for logits:1" in message
    assert 'did you mean "sqare"?' in message
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


def test_a_sidecar_edited_by_hand(say: Say, tmp_path: Path) -> None:
    run = tmp_path / "r"
    words = see("logits:0-1", "--method", "fourier", "--out", run)
    say(*words)
    victim = next(run.glob("pictures/logits-0/*.json"))
    victim.write_text(victim.read_text()[:100])
    code, out, err = say("verify", run)
    assert (code, err) == (2, "")
    assert f"differs: pictures/logits-0/{victim.name}: cannot be read" in out
    code, out, err = say(*words)
    assert (code, err) == (0, "")
    assert len(list(Run.open(run))) == 2
    assert say("verify", run)[0] == 0


def test_two_processes_writing_one_run(say: Say, tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    with run.writing({}):
        message = refusal(say(*see("logits:0", "--method", "fourier", "--out", run.path)))
    assert f"is being written by another process (pid {os.getpid()} on" in message


def test_what_only_reads_a_run_needs_no_lock(say: Say, tmp_path: Path) -> None:
    say(*see("logits:0", "--method", "fourier", "--out", tmp_path / "r"))
    with Run(tmp_path / "r").writing({}):
        assert say("verify", tmp_path / "r")[0] == 0
        assert say("gallery", tmp_path / "r")[0] == 0


def test_a_unit_that_fails_among_others(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    words = see("logits:0", "stage1:0", "--method", "deep-inversion", "--photos", photo_folder, "--out", tmp_path / "r")
    code, out, err = say(*words)
    assert code == 2
    assert err == "warning: deep-inversion shows logit units, not stage1:0 (channel)\n"
    assert "1 pictures in" in out


# --- exit codes ----------------------------------------------------------------------------------------------------


def test_debug_shows_the_traceback(say: Say) -> None:
    code, _, err = say("ls", "tny:net", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("entoptic: no model source")


def test_a_defect_gives_1(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, pretrained: bool) -> Any:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setitem(sources.SOURCES, "tiny", broken)
    code, _, err = say("ls", "tiny:net")
    assert code == 1
    assert err.startswith("entoptic: internal error, ZeroDivisionError: deep inside")
    assert "Traceback" not in err
    code, _, err = say("ls", "tiny:net", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_ctrl_c_gives_130_and_keeps_pictures(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def step(self: Reporter, step: int, steps_: int, pictures: int) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Reporter, "step", step)
    words = see("logits:0-2", "--method", "fourier", "--out", tmp_path / "r", "--batch-size", "1")
    code, _, err = say(*words)
    assert code == 130
    assert err.startswith("entoptic: interrupted; what is finished is stored")
    assert [(p.unit, p.record["complete"]) for p in Run.open(tmp_path / "r")] == [
        ("logits:0", True),
        ("logits:1", False),
    ]
    assert say(*words)[0] == 0
    assert all(p.record["complete"] for p in Run.open(tmp_path / "r"))


def test_python_says_the_same(tmp_path: Path) -> None:
    import entoptic

    assert set(entoptic.__all__) <= set(dir(entoptic))
    for name in entoptic.__all__:
        assert getattr(entoptic, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sea'"):
        entoptic.sea  # noqa: B018
    with pytest.raises(entoptic.UserError, match="never guesses"):
        entoptic.load(tiny_module())
    assert isinstance(entoptic.load(tiny_module(), tiny_card()), Model)
