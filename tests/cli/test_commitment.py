"""`entoptic commitment`: what it prints, where it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from conftest import TwoClasses
from entoptic.runs import commitment


@pytest.fixture(autouse=True)
def _two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "load_prior", lambda source, device: TwoClasses())


WORDS = (
    "commitment", "tiny:net", "logits:1", "--steps", 6, "--switches", 3, "--seeds", 8, "--bank", 256, "--beta", 8,
    "--quantile", 0.8,
)  # fmt: skip


def test_a_dry_run_tells_the_time_and_writes_nothing(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(*WORDS, "--dry-run")
    assert code == 0
    assert "logits:1: 4 switches on and as many off, 8 chains each" in out
    # 6 + 4 + 2 steps after the switches, the guided trunk and the window; and as many without, with one trunk
    assert "256 of its samples to score, 192 guided steps, 144 steps without guidance: about" in out
    assert not list(tmp_path.iterdir())


def test_it_prints_the_evidence_and_writes_its_page(say: Say, tmp_path: Path) -> None:
    out_folder = tmp_path / "run"
    code, out, _ = say(*WORDS, "--level", 0.6, "--out", out_folder)
    assert code == 0
    for name in ("success_guided", "tau50_on", "tau70_off", "width_on", "success_in_window"):
        assert name in out
    [page] = (out_folder / "gallery").glob("commitment-*.html")
    assert f"look at {page}" in out
    page.unlink()
    assert say("gallery", out_folder) == (0, f"{page}\n", "")
    assert page.is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sampler", "ddim"), "ancestral"),
        (("--steps", "2"), "at most 2 switches"),
        (("--seeds", "1"), "seeds"),
        (("--reduction", "median"), 'no reduction "median"'),
        (("--photos", "nowhere"), "nowhere"),
        (("--quantile", "0.999"), "fewer than 5 above it"),
    ],
)
def test_bad_input_is_refused(more: tuple[str, ...], said: str, say: Say, tmp_path: Path) -> None:
    assert said in refusal(say(*WORDS, *more, "--out", tmp_path / "run"))
