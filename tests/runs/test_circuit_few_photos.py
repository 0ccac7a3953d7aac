"""Circuits on few, unreadable and unsuitable photos, and at the ends of what can be asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from circuits.conftest import fitted_module
from circuits.shortcut import coloured_photos, shortcut_network
from conftest import tiny_card
from entoptic.circuits.certify import CertifyOptions
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.runs.circuit import circuit
from entoptic.runs.circuit_steering import steer_circuit
from entoptic.runs.results import Result


@pytest.fixture
def fitted(photo_folder: Path) -> Model:
    return Model(fitted_module(photo_folder), tiny_card(), device="cpu")


def found(model: Model, photos: Path, out: Path, unit: str = "logits:4", **options: Any) -> Result:
    settings: dict[str, Any] = {"finder": "eap", "n": 4, "others": 6, "reruns": 1, "progress": False}
    (result,) = circuit(model, unit, photos=photos, out=out, **settings | options)
    return result


def some(photos: Path, to: Path, **counts: int) -> Path:
    for label, count in counts.items():
        (to / label).mkdir(parents=True)
        for i in range(count):
            shutil.copy(photos / label / f"{i}.png", to / label / f"{i}.png")
    return to


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_photos_find_and_judge(count: int, fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = found(fitted, some(photo_folder, tmp_path / "photos", dot=count), tmp_path / "run")
    assert result.record["n"] == {"find": count, "judge": count, "others": 0}
    assert not result.record["held_out"]
    assert result.evidence["accuracy_kept"]["n"] == count
    assert result.evidence["false_positives"]["value"] is None
    steered = steer_circuit(result, model=fitted, progress=False)
    assert steered.evidence["taken_for_unit_steered"]["n"] == count
    assert "no such photos" in steered.evidence["score_change_others"]["reason"]


@pytest.mark.parametrize(
    ("counts", "options", "said"),
    [
        ({"circle": 6}, {}, r"there is no photo of dot in .* its classes are circle"),
        ({"circle": 2, "dot": 0}, {}, "there is no photo of dot"),
        ({"dot": 1}, {"corrupt": "resample"}, "resample needs another photo .* corrupt by blur"),
        ({"dot": 1}, {"corrupt": "mean"}, "mean needs another photo"),
        ({"dot": 8}, {"unit": "stage2:3", "corrupt": "resample"}, r"stage2:3 scores alike on 4 photos and on their"),
    ],
)
def test_photos_that_cannot_do_are_refused(
    counts: dict[str, int], options: dict[str, Any], said: str, fitted: Model, photo_folder: Path, tmp_path: Path
) -> None:
    photos = some(photo_folder, tmp_path / "photos", **counts)
    with pytest.raises(UserError, match=said):
        found(fitted, photos, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "results").exists()


def test_an_inner_unit_takes_other_photos_for_its_twins(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = found(fitted, photo_folder, tmp_path / "run", unit="stage2:3", corrupt="resample")
    assert result.record["n"] == {"find": 4, "judge": 4, "others": 6}
    assert result.record["kept"] > 0
    assert result.evidence["faithfulness"]["value"] >= 50


def test_photos_that_cannot_be_read_are_left_out(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    photos = some(photo_folder, tmp_path / "photos", dot=8, circle=6)
    for bad in ("dot/1.png", "dot/5.png", "circle/0.png", "circle/3.png"):
        (photos / bad).write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    result = found(fitted, photos, tmp_path / "run", corrupt="mean")
    assert result.record["n"] == {"find": 3, "judge": 3, "others": 4}
    assert result.evidence["false_positives"]["n"] == 4
    for file in (photos / "circle").iterdir():
        file.write_bytes(b"nothing")
    assert found(fitted, photos, tmp_path / "run").record["n"]["others"] == 0
    for file in (photos / "dot").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no photo from .* could be read"):
        found(fitted, photos, tmp_path / "run", seed=1)


def test_written_words_pass_over_photos_that_cannot_be_read(tmp_path: Path) -> None:
    photos, network = coloured_photos(tmp_path / "photos"), shortcut_network()
    for file in sorted(photos.rglob("*.png"))[::3]:
        file.write_bytes(b"nothing")
    result = found(network, photos, tmp_path / "run", "logits:3", corrupt="text", n=2)
    assert result.record["n"]["find"] == 2
    assert steer_circuit(result, model=network, progress=False).evidence["accuracy"]["value"] == 100


@pytest.mark.parametrize("finder", ["eap-ig", "patching"])
@pytest.mark.parametrize("unit", ["logits:4", "stage2:3"])
def test_nothing_and_everything_to_keep(
    unit: str, finder: str, fitted: Model, photo_folder: Path, tmp_path: Path
) -> None:
    empty = found(fitted, photo_folder, tmp_path / "run", unit=unit, finder=finder, keep=0.0)
    assert empty.record["kept"] == 0
    with pytest.raises(UserError, match=r"the circuit of .* has no edge, so there is nothing to steer"):
        steer_circuit(empty, model=fitted, progress=False)
    whole = found(fitted, photo_folder, tmp_path / "run", unit=unit, finder=finder, keep=1.0)
    assert whole.record["kept"] == whole.record["edges"]
    assert whole.evidence["faithfulness"]["value"] == pytest.approx(100, abs=0.1)


def test_other_draws_of_photos_take_as_many_edges(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    """A chain's edges all carry the same: at the threshold of one draw another one would have none."""
    result = found(fitted, photo_folder, tmp_path / "run", unit="head:2", keep=1.0, reruns=4)
    assert result.evidence["overlap"]["value"] == 100


def test_edges_that_lead_nowhere_are_not_certified_as_in(fitted: Model, photo_folder: Path, tmp_path: Path) -> None:
    """The blur alone is taken for this class: no path is needed, though one edge has a score."""
    options = CertifyOptions(samples=200, deletion=0.1, tau=0.6)
    result = found(fitted, photo_folder, tmp_path / "run", "logits:0", keep=0.5, groups=4, certified=options)
    assert (result.record["kept"], result.record["certificate"]["in"]) == (0, 0)
    assert result.record["certificate"]["out"] == result.record["edges"]
