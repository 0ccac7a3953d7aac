"""`entoptic figure`: the pictures of a run as a figure for a paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from entoptic.runs.store import Run
from fake_run import FakeRun, evidence


@pytest.fixture
def run(fake: FakeRun) -> Run:
    for unit in ("logits:207", "logits:497"):
        for method in ("vital", "maco"):
            fake.add(unit, method, evidence=[evidence("percentile", 99.97, scale="%"), evidence("mine_own", -0.5)])
    return Run.open(fake.folder)


def test_the_verb_draws(say: Say, run: Run, tmp_path: Path) -> None:
    words = ("figure", run.path, "logits:497", "--method", "vital,maco", "--where", "percentile>50")
    for name in ("a.pdf", "a.svg", "a.png"):
        code, out, err = say(*words, "--out", tmp_path / name, "--captions", "headline", "--dpi", 100)
        assert (code, out.strip(), err) == (0, str(tmp_path / name), "")
    assert (tmp_path / "a.svg").read_text().count("<image") == 2
    assert say("figure", run.path, "--out", tmp_path / "b.svg", "--captions", "mine_own", "--title", "All")[0] == 0
    assert (tmp_path / "b.svg").read_text().count("<image") == 4


def test_the_verb_refuses_in_a_sentence(say: Say, run: Run, tmp_path: Path) -> None:
    assert "did you mean logits:497" in refusal(say("figure", run.path, "logits:498", "--out", tmp_path / "a.pdf"))
    assert "is written as" in refusal(say("figure", run.path, "--out", tmp_path / "a.jpg"))
    assert "no run folder" in refusal(say("figure", tmp_path / "none", "--out", tmp_path / "a.pdf"))
    assert not list(tmp_path.glob("a.*"))
