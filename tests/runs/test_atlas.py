"""An atlas as a result of a run: what its points are, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import entoptic
from entoptic.atlases import mercat
from entoptic.base.records import read_json, read_tensors
from entoptic.errors import NotAvailable, OutOfReach, UserError
from entoptic.images.build_index import build_index
from entoptic.models.model import Model
from entoptic.runs import atlas as of_runs
from entoptic.runs.atlas_picture import colours_of
from entoptic.runs.atlas_points import Column
from entoptic.runs.results import Result
from entoptic.runs.see import see
from entoptic.units.dictionary import save
from entoptic.units.directions import Directions


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mercat, "STEPS", 5)


def made(model: Model, photos: Any, out: Path, **more: Any) -> Result:
    given: dict[str, Any] = {"layer": "stage2", "map": "mercat", "progress": False} | more
    return entoptic.atlas(model, given.pop("layer"), photos=photos, out=out, **given)


def points(result: Result) -> dict[str, Any]:
    return read_json(result.file("points.json"))


def column(result: Result, name: str) -> dict[str, Any]:
    return next(one for one in points(result)["columns"] if one["name"] == name)


def test_photos(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = made(tiny, photo_folder, tmp_path / "run")
    held = points(result)
    assert len(held["names"]) == result.record["n"] == 40
    assert held["names"][0] == "circle/0.png"
    assert held["labels"][0] == "circle"
    assert column(result, "class")["kinds"] == sorted(["circle", "square", "stripe", "cross", "dot"])
    assert len(column(result, "strength")["values"]) == 40
    assert all(0 <= v <= 1 for v in column(result, "kept")["values"])
    assert set(result.evidence) == {"map_neighbours", "map_distances", "map_density"}
    neighbours = result.evidence["map_neighbours"]
    assert neighbours["detail"]["chance"] == pytest.approx(10 / 39)
    assert neighbours["n"] == 40
    assert neighbours["interval"][0] < neighbours["value"] < neighbours["interval"][1]
    rows = list(csv.DictReader(io.StringIO(result.file("points.csv").read_text())))
    assert [row["name"] for row in rows] == held["names"]
    assert {"x", "y", "z", "class", "strength", "kept"} <= set(rows[0])
    sheet = Image.open(result.file("thumbnails0.webp"))
    assert sheet.size == (2048, 128)  # 32 in a row
    assert Image.open(result.file("map.webp")).size == (1200, 900)
    assert (tmp_path / "run" / "gallery" / "atlases.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_photos_that_cannot_be_read_are_named(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "circle" / "3.png").write_bytes(b"no picture")
    result = made(tiny, tmp_path / "photos", tmp_path / "run")
    assert result.record["n"] == 39
    assert result.record["left_out"] == {"photo that could not be read (circle/3.png)": 1}


def test_units_are_near_that_do_alike(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    result = made(tiny, photo_folder, tmp_path / "run", of="units")
    held = points(result)
    assert held["names"][0].startswith("stage2:")
    assert len(held["names"]) + sum(result.record["left_out"].values()) == 16
    kinds = {one["name"] for one in held["columns"]}
    assert kinds == {"class", "strength", "fires", "purity", "kept"}
    assert all(0 <= v <= 1 for v in column(result, "purity")["values"])
    assert all(v > 0 for v in column(result, "strength")["values"])
    index = entoptic.ActivationIndex.open(next((tmp_path / "run" / "indexes").iterdir()))
    assert held["photos"][0] == index.top(held["names"][0])[0].index


def test_logits_have_their_labels(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_runs, "check_size", lambda *given: None)
    assert points(made(tiny, photo_folder, tmp_path / "run", layer="logits", of="units"))["labels"] == list(
        tiny.card.labels or ()
    )


def test_features_lie_by_what_they_write(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    rows = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    rows[1] = rows[0] * 5  # the same direction
    file = save(
        Directions(directions=rows, layer="stage2", model_sha256=tiny.card.weights_sha256),
        tmp_path / "twelve.safetensors",
    )
    result = made(tiny, photo_folder, tmp_path / "run", layer=f"dict({file})", of="features", map="dtsne")
    at = read_tensors(result.file("map.safetensors")).tensors["positions"].numpy()
    assert len(at) == 12
    far = np.linalg.norm(at - at[0], axis=1)
    assert far[1] < 0.2 * far[2:].min()
    as_units = made(tiny, photo_folder, tmp_path / "run", layer=f"dict({file})", of="units", map="dtsne")
    assert as_units.record["key"] != result.record["key"]


def test_a_finished_atlas_is_found_again_and_another_lies_beside_it(
    tiny: Model, photo_folder: Path, tmp_path: Path
) -> None:
    first = made(tiny, photo_folder, tmp_path / "run")
    stamp = first.path.stat().st_mtime_ns
    again = made(tiny, photo_folder, tmp_path / "run")
    assert again.path.stat().st_mtime_ns == stamp
    other = made(tiny, photo_folder, tmp_path / "run", seed=1)
    assert other.path != first.path
    assert first.path.is_file()
    assert entoptic.verify(tmp_path / "run").drift == []
    elsewhere = made(tiny, photo_folder, tmp_path / "elsewhere")
    assert {n: e["sha256"] for n, e in elsewhere.record["files"].items()} == {
        n: e["sha256"] for n, e in first.record["files"].items()
    }


def test_an_interrupted_atlas_goes_on(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(of_runs, "measure_map", stopped)
        with pytest.raises(KeyboardInterrupt):
            made(tiny, photo_folder, tmp_path / "run")
    assert not list((tmp_path / "run").glob("results/atlas/*/*"))
    reads, draws = [], []
    monkeypatch.setattr(type(tiny), "read", lambda *given: reads.append(1))
    monkeypatch.setattr(mercat, "draw", lambda *given: draws.append(1))
    result = made(tiny, photo_folder, tmp_path / "run")
    assert (reads, draws) == ([], [])  # neither the photos are read by the network, nor the map drawn
    assert result.record["n"] == 40


def test_an_index_with_a_sample_is_used(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    build_index(tiny, photo_folder, ["stage2"], out=tmp_path / "index", reservoir=20)
    result = made(tiny, photo_folder, tmp_path / "run", index=tmp_path / "index")
    assert result.record["n"] == 20
    assert not (tmp_path / "run" / "indexes").exists()
    build_index(tiny, photo_folder, ["stage2"], out=tmp_path / "without")
    with pytest.raises(NotAvailable, match=r"no sample of photos.*--reservoir"):
        made(tiny, photo_folder, tmp_path / "run", index=tmp_path / "without")
    with pytest.raises(UserError, match='has no layer "stage1"'):
        made(tiny, photo_folder, tmp_path / "run", index=tmp_path / "index", layer="stage1")


def test_pictures_of_a_run_stand_for_units_and_lend_their_evidence(
    tiny: Model, photo_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    plain = made(tiny, photo_folder, run, of="units")
    see(tiny, "stage2:3", method="pixels", steps=1, out=run, photos=photo_folder, verifiers="", progress=False)
    shown = made(tiny, photo_folder, run, of="units", run=run)
    assert shown.record["pictures"] == 1
    assert shown.record["key"] != plain.record["key"]
    names = {one["name"] for one in points(shown)["columns"]}
    evidence = [name for name in names if name.startswith("percentile")]
    assert evidence
    values = column(shown, evidence[0])["values"]
    assert sum(v is not None for v in values) == 1
    assert values[points(shown)["names"].index("stage2:3")] is not None
    with pytest.raises(UserError, match="no picture of tiny's stage1:"):
        made(tiny, photo_folder, tmp_path / "other", of="units", run=run, layer="stage1")


def test_what_is_known_is_taken_out(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openTSNE", reason="openTSNE is not installed (the extra atlas)")
    result = made(tiny, photo_folder, tmp_path / "run", map="confetti", known=("class", "colour"))
    assert result.record["about_map"]["lambda"] > 0
    assert "map_known" in result.evidence
    fixed = made(tiny, photo_folder, tmp_path / "run", map="confetti", known="strength", removed=1.5)
    assert fixed.record["about_map"]["lambda"] == 1.5


def test_photos_in_one_folder_have_no_class(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    flat = [str(path) for path in sorted(photo_folder.glob("*/*.png"))[:20]]
    result = made(tiny, flat, tmp_path / "run")
    assert [one["name"] for one in points(result)["columns"]] == ["strength", "kept"]
    with pytest.raises(UserError, match='there is no "class" to colour photos by: these photos have no classes'):
        made(tiny, flat, tmp_path / "run", colour="class")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"of": "pixels"}, r'not of "pixels"; there are photos, units, features'),
        ({"map": "tsn"}, 'there is no map "tsn"; did you mean "tsne"'),
        ({"layer": "stage9"}, 'no layer "stage9" in tiny; did you mean'),
        ({"colour": "clas"}, 'no "clas" to colour photos by; did you mean "class"'),
        ({"known": "class"}, "map mercat takes nothing out; --known and --removed are of --map confetti"),
        ({"known": "shape", "map": "confetti"}, 'class, strength, colour, got "shape"'),
        ({"of": "features"}, "features are of a dictionary, and stage2 is a layer"),
        ({"run": "nowhere"}, "pictures of a run stand for units"),
        ({"run": "nowhere", "of": "units"}, "nowhere is no run folder"),
        ({"neighbours": 1}, "neighbours must be"),
        ({"index": "nowhere"}, "there is no index in nowhere"),
        ({"gallery": "nowhere"}, "there is no gallery in nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    tiny: Model, photo_folder: Path, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    if more.get("map") == "confetti":
        pytest.importorskip("openTSNE", reason="openTSNE is not installed (the extra atlas)")
    with pytest.raises(UserError, match=says) as refused:
        made(tiny, photo_folder, tmp_path / "run", **more)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists(), "refused before photos were read"


def test_too_few_and_too_many_points(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutOfReach, match="at least 10 photos, there are 8"):
        made(tiny, photo_folder / "circle", tmp_path / "run")
    with pytest.raises(OutOfReach, match="at least 10 units, there are 5"):
        made(tiny, photo_folder, tmp_path / "run", layer="logits", of="units")
    from dataclasses import replace

    from entoptic.atlases import contract

    monkeypatch.setitem(contract.MAPS, "dtsne", replace(contract.MAPS["dtsne"], most=39))
    with pytest.raises(OutOfReach, match="map dtsne compares all pairs and takes at most 39 photos, there are 40"):
        made(tiny, photo_folder, tmp_path / "run", map="dtsne")
    assert not (tmp_path / "run" / "results").exists()


def test_photos_that_are_all_the_same_have_no_map(tiny: Model, tmp_path: Path) -> None:
    same = [np.full((32, 32, 3), 90, np.uint8)] * 12
    with pytest.raises(UserError, match="no unit of this layer differs between these photos"):
        made(tiny, same, tmp_path / "run")
    with pytest.raises(UserError, match="no unit of stage2 differs between these 12 photos"):
        made(tiny, same, tmp_path / "run", of="units")


def test_colours() -> None:
    numbers = Column(name="x", title="x", values=np.array([0.0, 1.0, np.nan]))
    low, high, unknown = colours_of(numbers)
    assert len({low, high, unknown}) == 3
    kinds = Column(name="x", title="x", values=np.array([0, 10, -1]), kinds=tuple("abcdefghijk"))
    first, again, none = colours_of(kinds)
    assert first == again != none
