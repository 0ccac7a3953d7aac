"""`entoptic verify` and `entoptic gallery`: what only reads a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal, see
from entoptic.runs.store import Run


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


def test_what_only_reads_a_run_needs_no_lock(say: Say, tmp_path: Path) -> None:
    say(*see("logits:0", "--method", "fourier", "--out", tmp_path / "r"))
    with Run(tmp_path / "r").writing({}):
        assert say("verify", tmp_path / "r")[0] == 0
        assert say("gallery", tmp_path / "r")[0] == 0


@pytest.mark.parametrize("name", ["index.html", "table.json", "runs"])
def test_what_lies_in_a_benchmark_is_answered_with_it(say: Say, tmp_path: Path, name: str) -> None:
    (tmp_path / "bench" / "runs").mkdir(parents=True)
    for file in ("bench.json", "index.html", "table.json"):
        (tmp_path / "bench" / file).write_text("{}")
    said = refusal(say("verify", tmp_path / "bench" / name))
    assert f"; it lies inside of {tmp_path / 'bench'}, which is a benchmark\n" in said
