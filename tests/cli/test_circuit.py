"""`entoptic circuit`: what it prints, where it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuits.conftest import fitted_module
from cli.conftest import Say, refusal
from conftest import tiny_card
from entoptic.models import sources


@pytest.fixture(autouse=True)
def _fitted_source(monkeypatch: pytest.MonkeyPatch, photo_folder: Path) -> None:
    monkeypatch.setitem(
        sources.SOURCES, "fitted", lambda name, pretrained: (fitted_module(photo_folder), tiny_card(name="fitted:net"))
    )


def words(photos: Path, *more: object) -> tuple[object, ...]:
    return ("circuit", "fitted:net", "logits:4", "--photos", photos, "--n", 4, "--others", 4, *more)


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    say: Say, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(*words(photo_folder, "--dry-run"))
    assert code == 0
    assert "logits:4: 5 nodes (blocks), 4 edges; found on 4 photos, judged on 4, 4 of other classes" in out
    assert "forward passes of one picture (runs" in out
    assert not list(tmp_path.iterdir())


def test_a_circuit_is_printed_and_its_page_written(say: Say, photo_folder: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "run"
    more = ("--out", out_folder, "--groups", 2, "--certify", "--deletion", 0.3, "--tau", 0.6, "--samples", 200)
    code, out, _ = say(*words(photo_folder, *more))
    assert code == 0
    assert "accuracy_kept" in out
    assert "certified: " in out
    assert f"look at {out_folder / 'gallery' / 'circuits.html'}" in out
    assert (out_folder / "gallery" / "circuits.html").is_file()
    page = out_folder / "gallery" / "circuits.html"
    page.unlink()
    assert say("gallery", out_folder) == (0, f"{page}\n", "")
    assert page.is_file()
    code, _, _ = say(*words(photo_folder, *more))
    assert code == 0
    assert len(list((out_folder / "results" / "circuit").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--finder", "eapig"), 'did you mean "eap-ig"'),
        (("--corrupt", "blurr"), 'did you mean "blur"'),
        (("--nodes", "head"), 'did you mean "heads"'),
        (("--nodes", "heads"), "Take whole blocks as nodes: --nodes blocks"),
        (("--keep", "2"), "keep must be at least 0 and at most 1"),
        (("--certify", "--tau", "0.2"), "tau must be at least 0.5"),
        (("--masks", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    say: Say, photo_folder: Path, tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    assert said in refusal(say(*words(photo_folder, "--out", tmp_path / "run", *more)))
    assert not (tmp_path / "run").exists()


def test_a_stored_circuit_is_steered(say: Say, photo_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert say(*words(photo_folder, "--finder", "eap", "--groups", 2, "--reruns", 0, "--out", run))[0] == 0
    (folder,) = (run / "results" / "circuit").iterdir()
    code, out, _ = say("circuit", "--steer", folder, "--alpha", 1, "--device", "cpu")
    assert code == 0
    assert "taken_for_unit_steered" in out
    assert "answers_kept" in out
    assert len(list((run / "results" / "steering").iterdir())) == 1
    assert "there is no" in refusal(say("circuit", "--steer", tmp_path / "nowhere"))
    assert "--certify does not go with --steer" in refusal(say("circuit", "--steer", folder, "--certify"))
    assert "MODEL is missing" in refusal(say("circuit"))
    assert "UNIT is missing" in refusal(say("circuit", "fitted:net", "--photos", photo_folder))
