"""What a circuit costs is told before: a bound for patching, else within a tenth where few edges can be cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from circuits.odd_networks import Block, Net
from conftest import tiny_module
from entoptic.images.photos import Photos
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.circuit import make_circuit_plans, run_circuits
from entoptic.runs.circuit_plan import CircuitOptions, estimate_cost


def transformer() -> nn.Module:
    net = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=5, global_pool="avg"
    )
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: tiny_module(3),
    "residual": lambda: Net([Block() for _ in range(6)]),
    "transformer": transformer,
}


@pytest.fixture(scope="module")
def unlabelled(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos without labels: those count that a network takes for a class."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for file in photo_folder.rglob("*.png"):
        shutil.copy(file, folder / f"{file.parent.name}{file.name}")
    return folder


def model_and_class(name: str, photos: Path) -> tuple[Model, int]:
    """A network and the class that it takes most photos for."""
    torch.manual_seed(0)
    card = Card(name=name, size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, licence="cc0-1.0")
    model = Model(NETWORKS[name](), card, device="cpu", named=True)
    opened = Photos.open(photos)
    ((_, images),) = opened.batches(card.prepare, len(opened))
    with torch.no_grad():
        return model, int(model(images).argmax(1).mode().values)


@pytest.mark.parametrize("finder", ["eap", "eap-ig", "patching"])
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_are_as_told(name: str, finder: str, unlabelled: Path, tmp_path: Path) -> None:
    model, target = model_and_class(name, unlabelled)
    options = CircuitOptions(finder=finder, corrupt="mean", n=6, others=12, reruns=1, keep=0.9)
    plans = make_circuit_plans(model, f"logits:{target}", photos=unlabelled, options=options, device="cpu")
    told = estimate_cost(plans[0])
    assert told.seconds > 0
    assert str(told).startswith("at most" if finder == "patching" else "about")
    (result,) = run_circuits(plans, out=tmp_path / "run")
    spent = result.record["passes_in_all"]
    assert result.record["passes"] < spent
    if finder == "patching":
        assert spent <= told.passes
        return
    exact = told.parts["search"] + told.parts["reruns"] + told.parts["runs"]
    assert exact < spent < 1.1 * told.passes
    if name == "chain":  # of which nothing can be cut
        assert spent == pytest.approx(told.passes, rel=0.1)


@pytest.mark.slow
def test_passes_of_the_default_network_are_as_told(lite0: Model, shared_data: Path, tmp_path: Path) -> None:
    options = CircuitOptions(n=3, others=6)
    photos = shared_data / "imagenette" / "val"
    plans = make_circuit_plans(lite0, 'logits:"golf ball"', photos=photos, options=options, device="cpu")
    told = estimate_cost(plans[0])
    (result,) = run_circuits(plans, out=tmp_path / "run")
    assert result.record["passes_in_all"] == pytest.approx(told.passes, rel=0.1)
