"""The planted networks as a data set: its files hold what the networks and scenes are, and its card says it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from entoptic import UserError
from entoptic.errors import Unreadable
from entoptic.images.photos import Photos
from entoptic.planted.dataset import read_network, write_dataset
from entoptic.planted.networks import NETWORKS, planted_network
from entoptic.planted.scenes import make_scenes, write_png, write_scenes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "planted", scenes=12)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_networks_are_those_of_the_code(place: Path) -> None:
    images = torch.stack([scene.image for scene in make_scenes(4, seed=5)])
    for name in NETWORKS:
        again, own = read_network(place, name), planted_network(name)
        assert again.model.card.weights_sha256 == own.model.card.weights_sha256
        with torch.no_grad():
            assert torch.equal(again.model(images), own.model(images))
    about = json.loads((place / "planted.json").read_text())
    assert about["networks"] == {n: planted_network(n).model.card.weights_sha256 for n in NETWORKS}


def test_what_is_read_are_the_weights_of_the_file(place: Path, tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    held = load_file(place / "networks" / "honest.safetensors")
    held["head.weight"] *= 2
    save_file(held, tmp_path / "networks" / "honest.safetensors")
    image = make_scenes(1, seed=5)[0].image[None]
    with torch.no_grad():
        assert torch.equal(read_network(tmp_path, "honest").model(image), 2 * planted_network("honest").model(image))
    save_file(held, tmp_path / "networks" / "fooling.safetensors")
    with pytest.raises(Unreadable, match="does not hold the weights of the planted network fooling"):
        read_network(tmp_path, "fooling")
    with pytest.raises(UserError, match="there is no "):
        read_network(tmp_path, "twin")
    with pytest.raises(UserError, match=r'no planted network "honset"; .* did you mean "honest"'):
        read_network(place, "honset")


def test_the_truth_about_every_unit_is_there(place: Path) -> None:
    rows = {(row["network"], row["unit"]): row for row in lines(place / "units.jsonl")}
    assert len(rows) == 4 * 16
    assert rows["honest", "red ring"] == {
        "network": "honest", "unit": "red ring", "address": "units:6@max", "channel": 6, "kind": "and",
        "causes": [{"colour": "red", "shape": "ring"}], "null": False, "manipulation": "none", "decoy": None,
    }  # fmt: skip
    assert rows["fooling", "red"]["decoy"] == {"colour": "blue"}
    assert {unit for (network, unit), row in rows.items() if network == "honest" and row["null"]} == {
        "dead", "red and green at once",
    }  # fmt: skip


def test_scenes_are_photos_with_what_is_in_them(place: Path) -> None:
    photos, told, drawn = (
        Photos.open(place / "scenes"),
        lines(place / "scenes" / "metadata.jsonl"),
        make_scenes(12, seed=0),
    )
    assert len(photos) == len(told) == 12
    card = planted_network("honest").model.card
    for k, (scene, one) in enumerate(zip(drawn, told)):
        assert one["file_name"] == f"{k:05d}.png"
        assert one["things"] == [
            {"colour": t.colour, "texture": t.texture, "shape": t.shape, "place": t.place} for t in scene.things
        ]
    (_, images) = next(iter(photos.batches(card.prepare, 12)))
    assert torch.allclose(images, torch.stack([scene.image for scene in drawn]), atol=1e-6)


def test_the_card_says_what_it_is(place: Path) -> None:
    text = (place / "README.md").read_text()
    head, body = text.split("---\n")[1:3]
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert yaml.safe_load(head)["configs"] == [{"config_name": "scenes", "data_dir": "scenes"}]
    for name in NETWORKS:
        assert f"`{name}`" in body
    assert "| red ring | `units:6@max` | and | red ring | blue rows | green disc |" in body
    assert "| dead | `units:14` | silent | nothing | – | – |" in body
    for said in ("## What it is not", "Apache-2.0", "2 of them are silent", "12 generated scenes"):
        assert said in body
    assert str(place) not in text


def test_the_same_again_and_nothing_of_others(place: Path, tmp_path: Path) -> None:
    files = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    again = write_dataset(tmp_path / "again", scenes=14)
    assert len(list((again / "scenes").glob("*.png"))) == 14
    write_dataset(again, scenes=12)
    assert {p.relative_to(again).as_posix(): p.read_bytes() for p in again.rglob("*") if p.is_file()} == files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        write_dataset(tmp_path / "mine")
    with pytest.raises(UserError, match="at least 1 scene, got 0"):
        write_dataset(tmp_path / "none", scenes=0)
    assert not (tmp_path / "none").exists()


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_scenes_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    made = make_scenes(4, seed=0)
    before = times(write_scenes(made, tmp_path / "scenes"))
    assert times(write_scenes(made, tmp_path / "scenes")) == before
    (tmp_path / "scenes" / "00001.png").write_bytes(b"damaged")
    write_png(made[0].image, tmp_path / "scenes" / "00002.png")
    (tmp_path / "scenes" / "00003.png").unlink()
    photos = Photos.open(write_scenes(made, tmp_path / "scenes"))
    pixels = [torch.from_numpy(np.array(photos.read(i))).permute(2, 0, 1) / 255 for i in range(4)]
    assert all(torch.equal(there, scene.image) for there, scene in zip(pixels, made))
    assert times(tmp_path / "scenes")["00000.png"] == before["00000.png"]


@pytest.mark.parametrize("linked", ["scenes", "scenes/00001.png"])
def test_nothing_is_written_where_a_link_leads(tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.png").write_bytes(b"mine")
    link = tmp_path / "planted" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if linked == "scenes" else outside / "mine.png")
    with pytest.raises(UserError, match="symbolic link"):
        write_scenes(make_scenes(2, seed=0), tmp_path / "planted" / "scenes")
    assert [(file.name, file.read_bytes()) for file in outside.iterdir()] == [("mine.png", b"mine")]


@pytest.mark.parametrize("linked", ["scenes", "networks"])
def test_a_data_set_is_not_written_where_a_link_leads(tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = write_dataset(tmp_path / "planted", scenes=1)
    shutil.rmtree(place / linked)
    (place / linked).symlink_to(outside)
    with pytest.raises(UserError, match="symbolic link"):
        write_dataset(place, scenes=1)
    assert list(outside.iterdir()) == []
