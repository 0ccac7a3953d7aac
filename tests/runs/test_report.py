"""A report: each section says a number with its n, or why it was not made; what is there is not made again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import entoptic
from conftest import LABELS, tiny_card, tiny_module
from entoptic.base.unread import UnreadPhotos
from entoptic.errors import UserError
from entoptic.findings.activity import read_activity
from entoptic.models.model import Model
from entoptic.planted.shortcut import plant_shortcut
from entoptic.runs import report as of
from entoptic.runs import report_looks, report_read
from entoptic.runs.report import estimate_report, make_report_plan
from entoptic.runs.report_read import carriers, choose, confusions, find_last_layer

FEW: dict[str, Any] = {"method": "fourier", "steps": 2, "classes": 2, "progress": False}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny_module(), tiny_card(), device="cpu")


@pytest.fixture(scope="module")
def page(model: Model, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return entoptic.report(model, photos=photo_folder, out=tmp_path_factory.mktemp("report") / "run", **FEW)


def read(page: Path) -> dict[str, Any]:
    return json.loads(page.with_name("report.json").read_text())


def test_every_number_has_its_n_and_interval(page: Path) -> None:
    found = read(page)
    n = 8 * len(LABELS)
    assert found["read"] == n
    assert found["accuracy"]["n"] == n
    assert found["accuracy"]["low"] < found["accuracy"]["count"] / n < found["accuracy"]["high"]
    assert sum(one["count"] for one in found["used"]) <= n
    assert all(one["n"] == 8 for one in found["confused"])
    assert len(found["classes"]) == 2
    for one in found["classes"]:
        assert one["picture"]
        assert (page.parent / one["picture"]).is_file()
        assert one["evidence"]
        assert one["carriers"] or one["no_carriers"].startswith("not made: ")
        assert all(c["low"] <= c["value"] <= c["high"] and c["n"] >= 2 for c in one["carriers"])
    assert found["context"].startswith("not made: ")
    assert found["names"].startswith("not made: ")


def test_the_page_needs_no_other_file(page: Path) -> None:
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert 'src="http' not in text
    assert "<script" not in text


def test_what_is_there_is_not_made_again(page: Path, model: Model, photo_folder: Path) -> None:
    pictures = {p: p.stat().st_mtime_ns for p in page.parent.rglob("*.png")}
    before = page.read_bytes()
    again = entoptic.report(model, photos=photo_folder, out=page.parent, **FEW)
    assert again.read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in page.parent.rglob("*.png")} == pictures


def test_a_section_that_fails_costs_no_other(
    model: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no luck")

    for name in ("execute", "run_patterns", "preflight"):
        monkeypatch.setattr(of, name, broken)
    found = read(entoptic.report(model, photos=photo_folder, out=tmp_path / "run", **FEW))
    assert found["check"] == found["no_patterns"] == "failed: RuntimeError: no luck"
    assert {one["no_picture"] for one in found["classes"]} == {"failed: RuntimeError: no luck"}
    assert found["accuracy"]["n"] == 8 * len(LABELS)


def test_photos_that_cannot_be_read_are_named(model: Model, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    for number in range(7):
        (tmp_path / "photos" / LABELS[0] / f"{number}.png").write_bytes(b"no picture")
    names = "; ".join(f"{LABELS[0]}/{number}.png (not an image in a known format)" for number in range(5))
    said = f"7 of {8 * len(LABELS)} photos could not be read: {names}; and 2 more"
    with pytest.warns(UnreadPhotos, match=re.escape(said)):
        page = entoptic.report(model, photos=tmp_path / "photos", out=tmp_path / "run", **FEW)
    assert read(page)["unread"] == said
    assert said in page.read_text()


def masks_in(folder: Path, corner: tuple[int, int]) -> Path:
    """Masks with a square of 16 pixels as the object, a quarter of the picture, of all photos but those of the last class."""
    top, left = corner
    for label in LABELS[:-1]:
        (folder / label).mkdir(parents=True)
        for number in range(8):
            mask = np.zeros((32, 32), np.uint8)
            mask[top : top + 16, left : left + 16] = 255
            Image.fromarray(mask).save(folder / label / f"{number}.png")
    return folder


def test_masks_say_whether_a_class_looks_at_its_object(
    model: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_corner(unit: object, images: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(len(images), *images.shape[2:])
        maps[:, :16, :16] = 1 + images[:, 0, :16, :16]
        maps[:, 20:, 20:] = 0.2
        return maps

    asked = FEW | {"classes": tuple(LABELS), "context": False}
    plain = read(
        entoptic.report(
            model, photos=photo_folder, masks=masks_in(tmp_path / "a", (0, 0)), out=tmp_path / "run", **asked
        )
    )
    assert plain["looks"]
    assert {one["n"] for one in plain["looks"]} == {8}  # by the network's own relevance
    assert all(0 <= one["low"] <= one["inside"] <= one["high"] <= 1 for one in plain["looks"])
    assert all(one["area"] == pytest.approx(0.25, abs=0.02) for one in plain["looks"])
    assert f"{LABELS[-1]} not made: 0 photos of it have a mask; 4 are needed" in plain["context"]
    assert plain["context"].count("not made") + len(plain["looks"]) == len(LABELS)
    monkeypatch.setattr(report_looks, "pixel_relevance", of_the_corner)
    for name, corner, verdict in (("b", (0, 0), "looks at the object"), ("c", (0, 16), "looks beside the object")):
        masks = masks_in(tmp_path / name, corner)
        page = entoptic.report(model, photos=photo_folder, masks=masks, out=tmp_path / "run", **asked)
        found = read(page)["looks"]
        assert {one["verdict"] for one in found} == {verdict}
        assert all((one["more_low"] > 0) == (corner == (0, 0)) for one in found)
        assert page.read_text().count(f"<td>{verdict}</td>") == 4
        assert f"--masks {masks}" in read(page)["command"]
    (tmp_path / "c" / LABELS[0] / "3.png").write_bytes(b"no picture")
    again = read(entoptic.report(model, photos=photo_folder, masks=tmp_path / "c", out=tmp_path / "run", **asked))
    assert len(again["looks"]) == 3  # a mask that cannot be read costs its class alone
    assert "cannot be read" in again["context"]


def test_photos_without_labels(model: Model, photo_folder: Path, tmp_path: Path) -> None:
    files = sorted(photo_folder.rglob("*.png"))[::3]
    found = read(entoptic.report(model, photos=files, out=tmp_path / "run", **FEW))
    assert found["accuracy"] is None
    assert found["no_accuracy"].startswith("not made: errors can only be found on photos with labels")
    assert found["confused"] == []
    assert found["no_patterns"].startswith("not made: errors can only be found on photos with labels")


def test_the_planted_shortcut_is_reported(tmp_path: Path) -> None:
    planted = plant_shortcut(tmp_path / "photos", 400)
    page = entoptic.report(
        planted.model, photos=planted.photos, out=tmp_path / "run", layer="shown", quantile=0.8, **FEW
    )  # fmt: skip
    found = read(page)
    (pattern,) = found["patterns"]
    assert pattern["units"].split(" and ") == sorted(planted.pair)
    assert pattern["there"]["count"] == pattern["there"]["n"] == len(planted.tripped)
    assert "from 0 % to 100 %" in pattern["change"]
    assert found["confused"][0]["name"] == "ring taken for cross"
    assert "gallery/patterns.html" in page.read_text()


def test_the_last_layer_gives_the_logits(model: Model, photo_folder: Path) -> None:
    last = find_last_layer(model, entoptic.Photos.open(photo_folder))
    assert last.weight is not None
    assert last.weight.shape == (len(LABELS), 16)
    assert model.layer(last.name).channels == 16


def test_classes_are_the_most_used_and_most_confused_in_turn() -> None:
    true, said = np.array([0, 0, 0, 1, 2, 2, -1]), np.array([0, 0, 0, 3, 3, 2, 4])
    pairs = confusions(true, said)
    assert pairs == [(1, 3, 1), (2, 3, 1)]
    assert choose(said, pairs, 3) == [0, 1, 3]


def test_a_dry_run_tells_the_time_and_writes_nothing(model: Model, photo_folder: Path, tmp_path: Path) -> None:
    plan = make_report_plan(model, photos=photo_folder, out=tmp_path / "run", method="fourier", steps=4)
    told = " ".join(estimate_report(plan))
    assert "5 pictures by fourier: about" in told
    assert "forward passes of one photo" in told
    assert "together about" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"classes": 0}, "number of at least 1"),
        ({"classes": ("nothing",)}, '"nothing" names 0 classes of tiny'),
        ({"layer": "nowhere"}, "nowhere"),
        ({"masks": "nowhere"}, "there is no folder nowhere; --masks names a folder"),
        ({"method": "vitl"}, "vital"),
        ({"method": "vital,maco"}, "pictures by one method"),
        ({"quantile": 1.0}, "quantile must be above 0 and below 1"),
    ],
)
def test_bad_input_is_one_sentence(
    model: Model, photo_folder: Path, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        entoptic.report(model, photos=photo_folder, out=tmp_path / "run", **FEW | more)
    assert not (tmp_path / "run").exists()


def test_channels_add_up_to_the_logit(model: Model, photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_read, "CARRIERS", 16)
    photos = entoptic.Photos.open(photo_folder)
    last = find_last_layer(model, photos)
    activity = read_activity(model, last.basis, photos, range(len(photos)))
    images = next(images for _, images in photos.batches(model.card.prepare, len(photos)))
    logits = model(images).detach().numpy()
    assert last.weight is not None
    added = (activity.scores - activity.scores.mean(0)) @ last.weight.T
    np.testing.assert_allclose(added, logits - logits.mean(0), atol=1e-4)
    half = replace(activity, said=np.arange(len(photos)) % 5)  # so that every class is said
    found = carriers(last, half, 3, {"stage2:0": "a name"})
    rows = np.flatnonzero(half.said == 3)[1::2]
    for one in found:
        channel = int(one.unit.rpartition(":")[2])
        values = ((activity.scores - activity.scores.mean(0)) * last.weight[3])[rows, channel]
        assert one.value == pytest.approx(values.mean(), abs=1e-5)
        assert one.n == len(rows) == 4
        assert one.name == ("a name" if channel == 0 else "")
    with pytest.raises(UserError, match="0 photos are taken for it"):
        carriers(last, replace(activity, said=np.zeros(len(photos), int)), 3, {})
