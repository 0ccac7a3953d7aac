"""Fixtures that several rooms share: a tiny network, tiny photos, the real network and the real photos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES, load
from entoptic.priors.prior import Level
from entoptic.priors.toy import GaussianMixture
from fake_run import FakeRun

# A first example imports and loads, and other processes may hold the cores.
settings.register_profile("entoptic", deadline=None)
settings.load_profile("entoptic")

LABELS = ("circle", "square", "stripe", "cross", "dot")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small operations on two contended threads are slower than on one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache."""
    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path_factory.mktemp("cache")))


def tiny_module(seed: int = 0, classes: int = 5) -> nn.Module:
    """A seeded convolutional net for 32-pixel pictures: two strided stages with BatchNorm and ReLU6, one head."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, 8, 3, stride=2, padding=1))
    module.add_module("stage1", nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()))
    module.add_module("stage2", nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(16, classes))
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5 * 2
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
            part.bias.data = 0.1 * torch.randn(part.bias.shape, generator=generator)
    return module


def tiny_card(**changes: object) -> Card:
    """The card of `tiny_module`."""
    card = Card(name="tiny", size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, labels=LABELS, licence="cc0-1.0")
    return card.with_(**changes)


class TwoClasses(GaussianMixture):
    """Mixtures on 3×8×8 pictures, which their class moves up or down: a prior without weights."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        means = torch.randn(2, 3, 8, 8, generator=draw)
        super().__init__(torch.tensor([0.3, 0.7]), means, torch.full_like(means, 0.3), scale=0.15, offset=0.5)
        self.conditions = 2

    def denoise(self, x: torch.Tensor, level: Level, condition: torch.Tensor | None = None) -> torch.Tensor:
        assert condition is not None
        move = (condition.to(x) - 0.5)[:, None, None, None]
        return super().denoise(x - level.alpha * move, level) + move


@pytest.fixture
def tiny() -> Model:
    """A tiny network on the CPU."""
    return Model(tiny_module(), tiny_card(), device="cpu")


@pytest.fixture
def tiny_student(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a second network with the tiny one's classes."""
    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))
    return "tiny:7"


@pytest.fixture
def bench_networks() -> Iterator[None]:
    """`tiny:N` and `pooled:N` name networks, as the tests of the benchmark need them."""
    from tiny_bench import named_networks

    with named_networks():
        yield


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 8 generated photos (32×32 PNG) for each label of the tiny network."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k, label in enumerate(LABELS):
        (folder / label).mkdir()
        for i in range(8):
            base = rng.normal(0.2 + 0.15 * k, 0.05, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
            pixels = np.clip(255 * (base + rng.normal(0, 0.1, (32, 32, 3))), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def lite0() -> Model:
    """The embedded default network."""
    return load("builtin:lite0", device="cpu")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and weights: $ENTOPTIC_DATA, or the folder shared/data beside the repository."""
    folder = Path(os.environ.get("ENTOPTIC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real photos are not at {folder} (set ENTOPTIC_DATA)")
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    """An empty run folder, to be filled picture by picture."""
    return FakeRun(tmp_path / "run")
