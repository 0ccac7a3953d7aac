"""`entoptic study simulate`, `analyse` and `power`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')
pytest.importorskip("sqlmodel", reason='needs the extra "study"')
pytest.importorskip("httpx", reason='needs the extra "study"')

from cli.conftest import Say, refusal
from conftest import tiny_card, tiny_module
from entoptic.gallery.read_run import read_run
from entoptic.models.model import Model
from entoptic.study import needs
from entoptic.study.build import build
from entoptic.study.design import Design
from study.conftest import fill_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a study of its pictures."""
    place = tmp_path_factory.mktemp("study-answers")
    network = Model(tiny_module(), tiny_card(name="tiny:net"), device="cpu")
    fill_run(place / "run", weights=str(network.card.weights_sha256), samples=1)
    design = Design(participants=5, trials=4, practice_units=1)
    assert build([place / "run"], place / "study", design, tasks=("class-match", "preference"), model=network).path
    return place


def test_from_simulated_people_to_a_report_and_the_gallery(
    say: Say, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code, out, err = say("study", "simulate", "study", "--participants", "4", "--careless", "0", "--coins", "0")
    assert code == 0, err
    assert "4 simulated participants (4 rater)" in out
    assert "next, `entoptic study analyse study --simulated --out report`" in out
    code, out, err = say(
        "study", "analyse", "study", "--simulated", "--out", "report", "--draws", "100", "--runs", "run"
    )
    assert code == 0, err
    assert "4 of 4 participants are simulated: this says nothing about people" in out
    assert "4 people in the primary analysis, 0 left out" in out
    assert Path("report", "report.html").is_file()
    names = {reading.name for one in read_run(Path("run")).pictures for reading in one.readings}
    assert {"people_class_match", "people_preferred"} <= names
    said = refusal(say("study", "analyse", "study", "--out", "other"))
    assert "has no answers yet" in said  # those of people are elsewhere
    assert not Path("other").exists()


def test_bad_input_is_one_sentence(say: Say, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert "is no study" in refusal(say("study", "analyse", "run", "--out", "r"))
    assert "is no study" in refusal(say("study", "simulate", "absent"))
    fresh = Path("fresh")
    shutil.copytree("study", fresh, ignore=shutil.ignore_patterns("*.sqlite*"))
    assert "`entoptic study simulate fresh` makes them" in refusal(
        say("study", "analyse", "fresh", "--simulated", "--out", "r")
    )
    assert not list(fresh.glob("*.sqlite*"))
    assert "not both" in refusal(
        say("study", "analyse", "study", "--simulated", "--database", "sqlite:///x.sqlite", "--out", "r")
    )
    assert "draws" in refusal(say("study", "analyse", "study", "--out", "r", "--draws", "5"))
    assert "add up to at most 1" in refusal(say("study", "simulate", "study", "--coins", "0.9", "--careless", "0.9"))
    assert "between 0 and 1" in refusal(say("study", "power", "--baseline", "0.95"))
    assert "at least 2" in refusal(say("study", "power", "--units", "1"))
    assert not Path("r").exists()


def test_power_of_given_designs(say: Say) -> None:
    code, out, _ = say(
        "study", "power", "--effect", "0.2", "--units", "12", "--participants", "8", "16", "--simulations", "10"
    )
    assert code == 0
    rows = re.findall(r"^ +(\d+) +12 +12 +(\d+) %", out, flags=re.MULTILINE)
    assert [int(persons) for persons, _ in rows] == [8, 16]
    assert "a lower bound, no plan" in out


def test_power_searches_the_fewest_participants(say: Say) -> None:
    code, out, _ = say(
        "study", "power", "--ratings", "--effect", "2", "--units", "10", "--simulations", "10", "--most", "16"
    )
    assert code == 0
    ((persons, share),) = re.findall(r"^ +(\d+) +10 +10 +(\d+) %", out, flags=re.MULTILINE)
    assert int(persons) <= 16
    assert int(share) >= 80 or "not reached with 16 participants" in out
    assert "lower bound" not in out


def test_a_missing_package_is_named(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    assert "pip install 'entoptic[study]'" in refusal(say("study", "power"))
