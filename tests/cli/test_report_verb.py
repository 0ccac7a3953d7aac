"""`entoptic report`: what it prints, where it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from conftest import tiny_card, tiny_module
from entoptic.models import sources


@pytest.fixture(autouse=True)
def _tiny_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net")))


def words(photos: Path, *more: object) -> tuple[object, ...]:
    return ("report", "tiny:net", "--photos", photos, "--method", "fourier", "--steps", 2, *more)


def test_a_dry_run_tells_the_time_and_writes_nothing(
    say: Say, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(*words(photo_folder, "--dry-run", "--classes", 2))
    assert code == 0
    assert "report on tiny:net with 40 photos" in out
    assert "2 pictures by fourier: about" in out
    assert "together about" in out
    assert not list(tmp_path.iterdir())


def test_the_page_of_named_classes_is_written(say: Say, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, _ = say(*words(photo_folder, "--classes", "stripe", "logits:0", "--out", folder))
    assert code == 0
    assert str(folder / "report.html") in out
    text = (folder / "report.html").read_text()
    assert text.count("<article>") == 2
    assert "What stripe looks for" in text
    assert "--classes logits:2 logits:0" in text
    assert say("verify", folder)[0] == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--classes", "strpe"), '"strpe" names 0 classes of tiny:net'),
        (("--classes", "0"), "give a number of at least 1"),
        (("--method", "nothing"), "nothing"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--layer", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    say: Say, photo_folder: Path, tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    assert said in refusal(say(*words(photo_folder, "--out", tmp_path / "run", *more)))
    assert not (tmp_path / "run").exists()
