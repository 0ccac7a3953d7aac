"""The kit that trains a prior on a bare machine, at toy size: photos to parts, a stretch, the next, a prior with its card."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
KIT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_prior.py"
ABSENT = ("diffusers", "transformers", "tyro", "jinja2")
"""What a bare machine may lack."""


@pytest.fixture(scope="module")
def kit() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_prior", KIT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_prior"] = module
    spec.loader.exec_module(module)
    module.TIMED = 0.1
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 coloured squares of three classes, and 120 apart."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for split, count in (("train", 300), ("val", 120)):
        for i in range(count):
            colour = np.zeros((64, 64, 3), np.uint8)
            colour[8:56, 8:56, i % 3] = 200 + draw.integers(0, 50)
            file = folder / split / ("red", "green", "blue")[i % 3] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colour).save(file)
    return folder


@pytest.fixture(scope="module")
def parts(kit: Any, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    kit.pack_photos([str(photos / "train")], str(photos / "val"), folder, megabytes=1.0)
    return folder


def test_parts_hold_the_photos_and_their_classes(kit: Any, parts: Path) -> None:
    pixels, classes, names, held_out = kit.read_photos(parts)
    assert pixels.shape == (300, 3, 64, 64)
    assert held_out.shape == (30, 3, 64, 64)
    assert names == ["blue", "green", "red"]
    strongest = pixels[:, :, 32, 32].argmax(1)  # channel 0 is red
    assert [names[int(c)] for c in classes] == [("red", "green", "blue")[channel] for channel in strongest]
    assert len(set(map(int, classes[:20]))) == 3  # in random order


def test_parts_are_bounded(kit: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "PART", 8_000)
    kit.pack_photos([str(photos / "train")], str(photos / "val"), tmp_path, megabytes=1.0)
    files = sorted(tmp_path.glob("*.zip"))
    assert len(files) > 1
    assert len(kit.read_photos(tmp_path)[0]) == 300


@pytest.mark.slow
def test_a_stretch_the_next_and_a_prior(kit: Any, photos: Path, parts: Path, tmp_path: Path) -> None:
    first = kit.train(parts, tmp_path / "one", 0.1, network="toy", device="cpu", compared=10)
    assert first["pictures_seen"] > 0
    assert first["pictures_seen"] == first["stretches"][0]["steps"] * 16
    events = [json.loads(line)["event"] for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    assert events[:2] == ["photos", "start"]
    assert "saved" in events
    weights = kit.unpack(kit.read_parts(sorted((tmp_path / "one").glob("weights-*"))))
    second = kit.train(parts, tmp_path / "two", 0.1, resume=tmp_path / "one", device="cpu", compared=10)
    assert second["network"] == "toy"
    assert second["pictures_seen"] > first["pictures_seen"]
    assert len(second["stretches"]) == 2
    later = kit.unpack(kit.read_parts(sorted((tmp_path / "two").glob("weights-*"))))
    moved = max(float((later[name] - weights[name]).abs().max()) for name in weights)
    fresh = kit.UNet(kit.NETWORKS["toy"], 3).state_dict()
    apart = max(float((later[name] - fresh[name]).abs().max()) for name in weights)
    assert 0 < moved < apart  # it went on from the first, not from the start

    kit.finish(tmp_path / "two", str(photos / "val"), tmp_path / "prior", "toy-64", 1.0, 50)
    from entoptic.priors.sources import load_prior

    prior = load_prior(f"file:{tmp_path / 'prior'}", device="cpu")
    net = kit.UNet(kit.NETWORKS["toy"], 3).eval()
    net.load_state_dict(later)
    x, times, classes = torch.randn(2, 12, 32, 32), torch.tensor([300.0, 900.0]), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(prior.network(x, times, classes), net(x, times, classes), rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]
    card = json.loads((tmp_path / "prior" / "card.json").read_text())
    assert card["training"]["pictures_seen"] == second["pictures_seen"]
    assert card["distances"]["n"] == 50


@pytest.mark.slow
def test_it_trains_where_nothing_of_ours_is_installed(parts: Path, tmp_path: Path) -> None:
    blocked = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
    run = f"import runpy\nsys.argv = ['gpu_prior.py', *sys.argv[1:]]\nrunpy.run_path({str(KIT)!r}, run_name='__main__')"
    arguments = ["train", "--parts", str(parts), "--out", str(tmp_path / "out"), "--minutes", "0.1", "--network", "toy"]
    done = subprocess.run(
        [sys.executable, "-c", blocked + run, *arguments, "--device", "cpu", "--compared", "10"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "state.json").read_text())["pictures_seen"] > 0


def test_the_largest_network_that_sees_each_photo_often_enough_is_taken(
    kit: Any, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = kit.NETWORKS["toy"]
    monkeypatch.setattr(kit, "NETWORKS", {"toy": toy, "small": toy, "middle": toy, "large": toy})
    # In 0.1 minutes, each of 300 photos is seen 40 times from 2,000 pictures a second on.
    monkeypatch.setattr(kit, "pace", lambda name, *_: {"small": 9000, "middle": 2500, "large": 1500}[name])
    assert kit.train(parts, tmp_path, 0.1, device="cpu", compared=10)["network"] == "middle"


def test_networks_are_named_by_their_weights(kit: Any) -> None:
    for name, recipe in kit.NETWORKS.items():
        if name != "toy":
            weights = sum(p.numel() for p in kit.UNet(recipe, 210).parameters())
            assert f"{weights / 1e6:.0f}M" == name
