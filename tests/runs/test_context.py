"""What a run keeps beside its pictures: photos, crops, classes, maps; and nothing of them where they may not be kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from conftest import LABELS, tiny_card
from entoptic.images.build_index import build_index
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import METHODS
from entoptic.models.model import Model
from entoptic.runs import unit_photos as context_module
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.unit_photos import by_class, grid_of, spotlight, spotlight_of, where, write_context
from entoptic.runs.verify import verify
from entoptic.units.unit import bind


def fast(model: Model, units: Any, out: Path, **more: Any) -> Run:
    return see(model, units, out=out, method="fourier", steps=3, progress=False, verifiers="", **more)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def read(run: Run, folder: str) -> dict[str, Any]:
    record = run.context(folder)
    assert record is not None
    return record


# --- photos --------------------------------------------------------------------------------------------------------


def test_the_strongest_and_weakest_photos_are_kept_in_their_order(
    tiny: Model, tmp_path: Path, photo_folder: Path
) -> None:
    run = fast(tiny, "stage1:3", tmp_path / "r", photos=photo_folder)
    record, place = read(run, "stage1-3"), run.path / "context" / "stage1-3"
    (unit,) = bind(tiny, "stage1:3")
    photos = Photos.open(photo_folder)
    scores = sorted(
        ((float(unit.score(tiny.card.prepare(photos.read(i))[None])[0]), i) for i in range(40)), reverse=True
    )
    for entries, expected in ((record["strongest"], scores[:8]), (record["weakest"], scores[:-5:-1])):
        assert [e["photo"] for e in entries] == [photos[i].name for _, i in expected]
        assert [e["value"] for e in entries] == pytest.approx([value for value, _ in expected], abs=1e-5)
        assert all(e["label"] == e["photo"].split("/")[0] for e in entries)
    assert record["photos"]["n"] == 40
    named = {e[n] for e in record["strongest"] + record["weakest"] for n in ("file", "crop", "where") if n in e}
    assert named == {p.name for p in place.iterdir()} - {"context.json"}
    shown = opened(place / "top-1.jpg").astype(float)
    best = photos.read(scores[0][1])
    assert best is not None
    original = np.asarray(best.resize((160, 160), Image.Resampling.BICUBIC)).astype(float)
    assert abs(shown - original).mean() < 12  # JPEG
    assert all("crop" in e for e in record["strongest"])
    assert not any("crop" in e for e in record["weakest"])


def test_context_is_written_once_and_anew_for_other_photos(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fast(tiny, ["stage1:3", "logits:1"], tmp_path / "r", photos=photo_folder)
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (run.path / "context").rglob("*.*")}
    assert len({p.parent for p in files}) == 2
    fast(tiny, ["stage1:3", "logits:1"], tmp_path / "r", photos=photo_folder)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (run.path / "context").rglob("*.*")} == files
    few = Photos.open(photo_folder).subset(range(6))
    fast(tiny, "stage1:3", tmp_path / "r", photos=few)
    assert read(run, "stage1-3")["photos"]["n"] == 6
    held = {p.name for p in (run.path / "context" / "stage1-3").iterdir()}
    assert "top-6.jpg" in held
    assert "top-7.jpg" not in held  # of the photos before
    (run.path / "context" / "logits-1" / "context.json").write_text("{")
    assert run.context("logits-1") is None


def test_nothing_of_the_photos_is_kept_where_that_is_asked(tiny: Model, tmp_path: Path, photo_folder: Path) -> None:
    run = fast(tiny, "stage1:3", tmp_path / "r", photos=photo_folder, context=False)
    assert not (run.path / "context").exists()
    assert run[0]["percentile"] is not None
    assert not (fast(tiny, "stage1:3", tmp_path / "s").path / "context").exists()  # no photos


def test_an_index_tells_the_same_as_a_pass(tiny: Model, tmp_path: Path, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    index = build_index(tiny, photos, ["stage1"], out=tmp_path / "index", reservoir=40)
    (unit,) = bind(tiny, "stage1:3")
    records = []
    for name, held in (("a", None), ("b", index)):
        write_context(Run(tmp_path / name), unit, References(tiny, photos, index=held))
        records.append(read(Run(tmp_path / name), "stage1-3"))
    plain, indexed = records
    for end in ("strongest", "weakest"):
        assert [e["photo"] for e in plain[end]] == [e["photo"] for e in indexed[end]]
        assert [e["value"] for e in plain[end]] == pytest.approx([e["value"] for e in indexed[end]], abs=1e-5)
    assert [c["label"] for c in plain["classes"]] == [c["label"] for c in indexed["classes"]]
    assert plain["photos"] == indexed["photos"]


def test_classes_by_hand(tiny: Model, photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    values = [float(i) for i in range(40)]
    bars = by_class(tiny, photos, list(enumerate(values)))
    assert [bar["label"] for bar in bars] == [photos[i].labels[0] for i in range(39, 0, -8)]
    first = bars[0]
    assert (first["mean"], first["n"]) == (35.5, 8)
    half = 2.365 * np.std(values[32:], ddof=1) / 8**0.5
    assert (first["low"], first["high"]) == pytest.approx((35.5 - half, 35.5 + half), abs=1e-3)
    assert by_class(tiny, photos, [(0, 1.0), (1, 2.0), (8, 3.0)]) == []  # too few of each
    named = Model(tiny.module, tiny_card(label_ids=("c", "s", "square", "x", "d")), device="cpu")
    assert "stripe" in {bar["label"] for bar in by_class(named, photos, list(enumerate(values)))}
    assert LABELS[2] == "stripe"


# --- maps ------------------------------------------------------------------------------------------------------------


def test_the_shade_is_clear_where_the_unit_fires_most(tiny: Model) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for address in ("stage1:3", "stage1:3@max", "stage1:3@2,5"):
        (unit,) = bind(tiny, address)
        values = tiny.read(image, [unit.tap])[unit.tap]
        light = spotlight(unit, image, values)
        assert light is not None
        assert light.shape == (8, 8, 2)
        own = unit.map(values)[0].detach().reshape(8, 8).numpy()
        if address.endswith("2,5"):
            assert light[2, 5, 1] == 0
            assert (light[..., 1] == 255).sum() == 63
        else:
            assert light[..., 1].argmin() == own.argmax()
            assert np.allclose(255 * (1 - own / own.max()), light[..., 1], atol=1)
        assert not light[..., 0].any()


def test_units_without_a_place_show_their_relevance(tiny: Model) -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    image[:, :, 20:28, 4:12] = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (unit,) = bind(tiny, "logits:2")
    found = where(unit, image, tiny.read(image, [unit.tap])[unit.tap])
    assert found is not None
    assert found.min() >= 0
    assert found.shape[0] > 1


def test_tokens_lie_over_the_picture() -> None:
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5)
    model = Model(net, tiny_card(size=(64, 64)), device="cpu")
    assert grid_of(model, "blocks.2.mlp.fc1") == (1, 4, 4)
    assert grid_of(model, "logits") is None
    image = torch.rand(1, 3, 64, 64)
    for address, single in (("blocks.2:7@tok6", True), ("blocks.2:7@mean", False), ("blocks.2:7@cls", False)):
        (unit,) = bind(model, address)
        values = model.read(image, [unit.tap])[unit.tap]
        values[:, 7] = values[:, 7].abs() + 0.1
        found = where(unit, image, values)
        assert found is not None
        assert found.shape == (4, 4)
        assert (np.count_nonzero(found) == 1) == single
        assert not single or found[1, 1] > 0  # token 6 is patch 5


def test_maps_are_stored_with_the_picture_and_verified(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = METHODS["fourier"]
    ramp = torch.linspace(0, 1, 32).expand(32, 32)

    def with_alpha(items: Any, config: Any, context: Any) -> Iterator[Any]:
        for draft in card.function(items, config, context):
            yield replace(draft, overlays={"alpha": ramp})

    monkeypatch.setitem(METHODS, "fourier", replace(card, function=with_alpha))
    run = fast(tiny, "stage1:3", tmp_path / "r")
    (picture,) = run
    maps = picture.record["maps"]
    assert maps["alpha"]["file"] == f"maps/stage1-3/{picture.path.stem}.alpha.png"
    transparent = opened(run.path / maps["alpha"]["file"])
    assert np.array_equal(transparent[..., :3], picture.pixels)
    assert np.array_equal(transparent[0, :, 3], np.round(255 * np.linspace(0, 1, 32)))
    assert set(maps) <= {"alpha", "where"}
    assert verify(run, model=tiny).ok
    (run.path / maps["alpha"]["file"]).write_bytes(b"")
    (line,) = verify(run, model=tiny).drift
    assert "its map alpha is missing or was changed" in line


def test_a_network_whose_relevance_is_not_known_has_no_shade(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.errors import UserError

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("no rule")

    monkeypatch.setattr(context_module, "relevance", refuse)
    assert spotlight_of(bind(tiny, "logits:0")[0], np.zeros((32, 32, 3), np.uint8)) is None


def test_the_run_stays_an_imagefolder_of_its_pictures(
    tiny: Model, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    run = fast(tiny, ["stage1:3", "logits:1"], tmp_path / "r", photos=photo_folder)
    assert len(list(run.path.glob("context/*/*.jpg"))) > 10
    loaded = datasets.load_dataset("imagefolder", data_dir=str(run.path), cache_dir=str(tmp_path / "hf"))["train"]
    assert sorted(loaded["unit"]) == ["logits:1", "stage1:3"]
    assert json.loads((run.path / "metadata.jsonl").read_text().splitlines()[0])["file_name"].startswith("pictures/")
