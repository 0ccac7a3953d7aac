"""`entoptic study build`, `serve` and `export`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from entoptic.cli.parse import parse
from study.conftest import fill_run, needs_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fill_run(tmp_path / "run", units=6, samples=1)


def test_a_study_is_built_and_exported(say: Say, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = ("study", "build", run, "--tasks", "describe,class-match", "--participants", 4, "--out", out)
    code, said, err = say(*words, "--dry-run")
    assert (code, err) == (0, "")
    assert "4 participants, about " in said
    assert not out.exists()
    code, said, err = say(*words)
    assert (code, err) == (0, "")
    assert "note: the consent page says “not stated” for title" in said
    assert "note: no task has a right answer" in said
    assert f"`entoptic study serve {out}`" in said
    record = json.loads((out / "study.json").read_text())
    assert (record["participants"], [one["kind"] for one in record["tasks"]]) == (4, ["describe", "class-match"])
    code, said, _ = say("study", "export", out, "--out", tmp_path / "bundle")
    assert code == 0
    assert "mind: the bundle cannot stop a person from taking part twice" in said
    assert "holds something already" in refusal(say(*words))


def test_what_is_wrong_is_one_sentence(say: Say, run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "study")
    assert 'did you mean "2afc"' in refusal(say("study", "build", run, "--tasks", "2afx", *out))
    assert "only with --with-photos" in refusal(say("study", "build", run, *out))
    assert "give --photos FOLDER" in refusal(say("study", "build", run, "--with-photos", *out))
    assert "--participants" in refusal(say("study", "build", run, "--participants", "0", *out)).replace(
        "participants must", "--participants"
    )
    assert 'did you mean "study build"?' in refusal(say("study", "biuld"))
    assert "is no study" in refusal(say("study", "export", tmp_path, "--out", tmp_path / "x"))
    needs_server()
    assert "is no study" in refusal(say("study", "serve", tmp_path))
    assert "entoptic study build --help" in say("study")[1]


def test_commands_of_the_how_to_are_read_and_work(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "study.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^entoptic (.*)$", page, flags=re.MULTILINE)]
    assert len(commands) == 6
    for words in commands:
        parse(*(("-".join(words[:2]), words[2:]) if words[0] == "study" else (words[0], words[1:])))
    monkeypatch.chdir(tmp_path)
    fill_run(tmp_path / "runs" / "fourier", units=12, samples=3, methods=("fourier",))
    for words in commands:
        if words[:2] in (["study", "build"], ["study", "export"]) and "--photos" not in words:
            assert say(*words)[0] == 0
    assert (tmp_path / "bundle" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_study_is_served_until_it_is_interrupted(say: Say, run: Path, tmp_path: Path) -> None:
    needs_server()
    import httpx

    out = tmp_path / "study"
    assert say("study", "build", run, "--tasks", "describe", "--participants", 2, "--out", out)[0] == 0
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "entoptic", "study", "serve", str(out), "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address = re.fullmatch(r"study: (http://127\.0\.0\.1:\d+)/\n", process.stdout.readline())
            assert address
            assert re.search(r"/admin with the token [0-9a-f]{32}", process.stdout.readline())
            assert httpx.get(f"{address[1]}/api/study").json()["title"] == "study"
            port = address[1].rpartition(":")[2]
            assert "give another --port" in refusal(say("study", "serve", out, "--port", port))
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
