"""Steering a stored circuit: a planted shortcut that a written word takes is switched off, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from circuits.shortcut import coloured_photos, shortcut_network
from entoptic.circuits.words import PLACINGS, written_on
from entoptic.errors import UserError
from entoptic.runs.circuit import circuit
from entoptic.runs.circuit_steering import read_circuit, steer_circuit
from entoptic.runs.results import Result
from entoptic.runs.verify import verify


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_photos(tmp_path_factory.mktemp("coloured"))


@pytest.fixture
def stored(photos: Path, tmp_path: Path) -> Result:
    (result,) = circuit(
        shortcut_network(), "logits:3", photos=photos, corrupt="text", finder="patching", n=4, others=8, reruns=0,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    return result


def value(result: Result, name: str) -> float:
    return float(result.evidence[name]["value"])


def test_a_shortcut_that_is_steered_away_restores_accuracy(stored: Result, photos: Path) -> None:
    edges = json.loads(stored.file("circuit.json").read_text())["edges"]
    kept = {(edge["from"], edge["to"]) for edge in edges if edge["kept"]}
    assert kept == {("embedding", "blocks.1"), ("blocks.1", "output")}
    steered = steer_circuit(stored, alpha=1.0, model=shortcut_network(), progress=False)
    assert value(steered, "taken_for_unit") == 100
    assert value(steered, "accuracy_driven") == 0
    assert value(steered, "taken_for_unit_steered") == 0
    assert value(steered, "accuracy_driven_steered") == 100
    assert value(steered, "accuracy") == value(steered, "accuracy_steered") == 100
    assert value(steered, "answers_kept") == 100
    assert value(steered, "score_change_driven") < -5
    assert value(steered, "score_change_others") == pytest.approx(0, abs=1e-3)
    for name, entry in steered.evidence.items():
        assert entry["n"] > 0, name
        assert entry["interval"][0] - 1e-9 <= entry["value"] <= entry["interval"][1] + 1e-9, name
    nothing = steer_circuit(stored, alpha=0.0, model=shortcut_network(), progress=False)
    assert value(nothing, "taken_for_unit_steered") == 100
    assert value(nothing, "score_change_driven") == 0
    again = steer_circuit(stored.path.parent, alpha=1.0, model=shortcut_network(), progress=False)
    assert again.path == steered.path
    assert verify(stored.path.parents[3], model=shortcut_network()).ok
    assert str(photos.parent) not in steered.path.read_text()


def test_another_network_other_photos_or_a_changed_file_are_refused(stored: Result, tmp_path: Path) -> None:
    other = shortcut_network()
    other.module.head.linear.weight.data[0, 0] = 11  # type: ignore[union-attr]
    changed = type(other)(other.module, other.card, device="cpu")
    with pytest.raises(UserError, match="with other weights"):
        steer_circuit(stored, model=changed, progress=False)
    fewer = coloured_photos(tmp_path / "fewer", 3)
    with pytest.raises(UserError, match="not those that the circuit was found with"):
        steer_circuit(stored, model=shortcut_network(), photos=fewer, progress=False)
    with pytest.raises(UserError, match="alpha must be at least 0"):
        steer_circuit(stored, model=shortcut_network(), alpha=-1, progress=False)
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        read_circuit(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no circuit"):
        read_circuit(fewer)
    copy = tmp_path / "run" / "results" / "circuit" / "copy"
    shutil.copytree(stored.path.parent, copy)
    (copy / "circuit.json").write_text("{}")
    with pytest.raises(UserError, match=r"circuit\.json is missing or was changed"):
        read_circuit(copy / "circuit.json")


def test_a_circuit_of_a_class_is_steered_too(photos: Path, tmp_path: Path) -> None:
    (result,) = circuit(
        shortcut_network(), "logits:0", photos=photos, corrupt="mean", finder="patching", n=4, others=8, reruns=0,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    steered = steer_circuit(result, alpha=1.0, model=shortcut_network(), progress=False)
    assert value(steered, "taken_for_unit") == 100
    assert value(steered, "score_change_driven") < 0
    assert "accuracy_driven" not in steered.evidence  # all of these photos are of the class that falls silent
    assert value(steered, "accuracy") == 100


@pytest.mark.parametrize("placing", PLACINGS)
def test_a_word_is_written_where_it_is_said(placing: str) -> None:
    photos = torch.full((2, 3, 64, 64), 0.5)
    found = written_on(photos, "church", placing)
    assert found.shape == photos.shape
    touched = (found != photos).any(1)[0]
    assert 0.05 < float(touched.float().mean()) < 0.6
    assert float(found.min()) < 0.2
    assert float(found.max()) == 1
    assert torch.equal(found[0], found[1])
    if placing == "bezel":
        assert not touched[16:48, 16:48].any()
    other = written_on(photos, "dog", placing)
    assert not torch.equal(found, other)


def test_what_cannot_be_written() -> None:
    with pytest.raises(UserError, match='no placing of a word "bg"'):
        written_on(torch.zeros(1, 3, 32, 32), "x", "bg")
    with pytest.raises(UserError, match="no word to write"):
        written_on(torch.zeros(1, 3, 32, 32), "  ")


def refused(photos: Path, out: Path, unit: str, said: str, **options: object) -> None:
    settings = {"corrupt": "text", "n": 4, "reruns": 0, "progress": False} | options
    with pytest.raises(UserError, match=said):
        circuit(shortcut_network(), unit, photos=photos, out=out, **settings)  # type: ignore[arg-type]


def test_a_word_needs_a_name_and_a_unit_that_it_moves(photos: Path, tmp_path: Path) -> None:
    refused(photos, tmp_path / "run", "blocks.1:4", "has no name; say which word")
    shutil.copytree(photos / "red", tmp_path / "some" / "red")
    refused(tmp_path / "some", tmp_path / "run", "logits:0", "raises logits:0 on none")
    refused(photos, tmp_path / "run", "logits:0", "go with --corrupt text", word="stop", corrupt="blur")
    refused(photos, tmp_path / "run", "logits:3", 'did you mean "bezel"', placing="bezl")
