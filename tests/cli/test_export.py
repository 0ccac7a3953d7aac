"""`entoptic export`: a public copy of a run."""

from __future__ import annotations

from pathlib import Path

from cli.conftest import Say, refusal, see
from entoptic.runs.store import Run


def test_a_copy_is_made_and_verifies(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    run, copy = tmp_path / "r", tmp_path / "public"
    say(*see("logits:0", "--method", "fourier,retrieval", "--photos", photo_folder, "--verifiers", "", "--out", run))
    code, out, err = say("export", run, "--out", copy)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("it is a real photo")
    assert out.splitlines()[1].startswith(f"1 picture in {copy}, 1 left out; look at ")
    assert [picture.method for picture in Run.open(copy)] == ["fourier"]
    code, out, _ = say("verify", copy)
    assert code == 0
    assert "not recomputed: this is a public copy without paths and photos" in out
    assert say("export", run, "--out", tmp_path / "all", "--with-photos")[0] == 0
    assert len(Run.open(tmp_path / "all")) == 2
    assert "holds something already" in refusal(say("export", run, "--out", copy))
    assert "no run folder" in refusal(say("export", tmp_path / "none", "--out", tmp_path / "x"))
