"""`entoptic patterns`: what it prints, where it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal
from entoptic.models import sources
from entoptic.planted.shortcut import plant_shortcut, shortcut_network


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_shortcut(tmp_path_factory.mktemp("scenes") / "photos", 400).photos


@pytest.fixture(autouse=True)
def _planted_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, pretrained: bool) -> object:
        model = shortcut_network(name == "yes")
        return model.module, model.card.with_(name=f"shortcut:{name}")

    monkeypatch.setitem(sources.SOURCES, "shortcut", make)


def words(photos: Path, *more: object) -> tuple[object, ...]:
    few = ("--quantile", 0.8, "--shuffles", 3, "--sets", 3)
    return ("patterns", "shortcut:yes", "shown", "--photos", photos, *few, *more)


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    say: Say, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(*words(scenes, "--dry-run"))
    assert code == 0
    assert "shown errors: 6 units on 400 photos" in out
    assert "forward passes of one photo (400 to read units" in out
    assert not list(tmp_path.iterdir())


def test_patterns_are_printed_and_their_page_written(say: Say, scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, _ = say(*words(scenes, "--out", folder))
    assert code == 0
    assert "shown errors: 6 units, 387 right, 13 wrong" in out
    for said in ("shown:1", "shown:5", "13 of 13", "0 of 387", "0 % to 100 %"):
        assert said in out
    assert "found with shuffled groups: 0 of 3 searches found anything (0 to 56 %)" in out
    page = folder / "gallery" / "patterns.html"
    assert f"1 pattern in {folder}" in out
    assert str(page) in out
    page.unlink()
    assert say("gallery", folder) == (0, f"{page}\n", "")
    assert page.is_file()
    code, _, _ = say(*words(scenes, "--out", folder))
    assert code == 0
    assert len(list((folder / "results" / "patterns").iterdir())) == 1


def test_two_checkpoints(say: Say, scenes: Path, tmp_path: Path) -> None:
    code, out, _ = say(*words(scenes, "--against", "shortcut:no", "--out", tmp_path / "run"))
    assert code == 0  # their units are the same: the shortcut lies behind them
    assert "0 patterns in" in out
    assert "found against itself: 0 of 10 searches" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--between", "ring", "disc", "cross"), "--between takes one label or two, got 3"),
        (("--between", "rng"), 'has the label "rng"; did you mean "ring"'),
        (("--of", "ring", "--every-class"), "errors (--of, --taken-for) and every class (--every-class) are questions"),
        (("--ablate", "nothing"), 'to their "mean" or to "zero"'),
        (("--quantile", "1"), "quantile must be above 0 and below 1"),
        (("--level", "2"), "level must be at least 0 and at most 1"),
        (("--run", "nowhere"), "nowhere is no run folder"),
        (("--against", "shortcut:yes"), "is compared with itself"),
        (("--taken-for", "disc"), "the network gets 0 photos wrong of the"),
    ],
)
def test_bad_input_is_one_sentence(say: Say, scenes: Path, tmp_path: Path, more: tuple[object, ...], said: str) -> None:
    assert said in refusal(say(*words(scenes, "--out", tmp_path / "run", *more)))
    assert not (tmp_path / "run").exists()
