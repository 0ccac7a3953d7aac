"""Help, versions, bad input and exit codes: one clear sentence, and nothing finished is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

import pytest

from cli.conftest import Say, refusal, see
from conftest import tiny_card, tiny_module
from entoptic.__main__ import run
from entoptic.base.progress import Heartbeat
from entoptic.cli.main import VERBS
from entoptic.cli.verbs import spoken
from entoptic.errors import counted
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.runs.store import Run

SOURCE = Path(__file__).parents[2] / "src"


def shell(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from entoptic.cli import main\n"
        "for words in (['--help'], ['see', '--help', 'all'], ['ls'], ['--version'], []):\n    assert main(words) == 0\n"
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


def test_version(say: Say) -> None:
    import entoptic

    code, out, err = say("--version")
    assert (code, err) == (0, "")
    assert out == f"entoptic {entoptic.__version__}, Python {python_version()}, torch {metadata.version('torch')}\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_and_takes_debug(say: Say, name: str) -> None:
    code, out, err = say(name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: entoptic {spoken(name)} " in out
    assert "--debug" in out  # read when anything fails


def test_one_picture_is_no_plural() -> None:
    assert [counted(n, "picture") for n in range(3)] == ["0 pictures", "1 picture", "2 pictures"]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]


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

    def step(self: Heartbeat, step: int, steps_: int, pictures: int) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Heartbeat, "step", step)
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


def test_ctrl_c_while_the_options_are_read(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["entoptic.cli.main"], "parse", interrupted)
    code, _, err = say("ls")
    assert code == 130
    assert err.startswith("entoptic: interrupted")


def test_ctrl_c_before_the_command_line_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("entoptic.cli.main", interrupted)
    assert run() == 130
    assert capsys.readouterr().err == "entoptic: interrupted\n"


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
    assert 'did you mean "cuda"?' in refusal(say("see", "tiny:net", "logits:0", "--device", "cdua"))
    assert "; try builtin:lite0" in refusal(say("see", "lite00", "logits:0"))
    assert "; try builtin:small-32" in refusal(
        say("see", "tiny:net", "logits:0", "--method", "klsc", "--prior", "smal-32")
    )
    assert 'no device "gpu"' in refusal(say("see", "tiny:net", "logits:0", "--device", "gpu"))
    assert not (tmp_path / "r").exists()


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
