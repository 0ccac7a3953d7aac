"""One small environment for all pages: photos, files, a cache and networks that are loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from entoptic.images import build_index
from entoptic.methods import METHODS
from entoptic.metrics import METRICS, registry
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.runs import learn
from entoptic.units.concepts import Concepts
from entoptic.units.dictionary import save
from pages.place import enter

FOLDERS = ("PHOTOS", "photos", "CHURCHES", "OTHERS", "imagenette/train", "my-photos")
FILES = ("photo.jpg", "PHOTO.jpg", "other.jpg", "more-photos/one.jpg", "a.jpg")


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory, lite0: Model) -> Path:
    """What pages name: photos of three classes, single photos, and concepts of a layer."""
    things = tmp_path_factory.mktemp("things")
    draw = np.random.default_rng(0)
    for label in ("church", "golden retriever", "tench"):
        (things / "photos" / label).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
            Image.fromarray(pixels).save(things / "photos" / label / f"{i}.jpg")
    generator = torch.Generator().manual_seed(0)
    concepts = Concepts.of(
        [torch.randn(size, 1280, generator=generator) for size in (2, 1, 1)],
        torch.randn(1280, generator=generator), names=["sky", "roof", "door"], layer="bn2",
        model_sha256=lite0.card.weights_sha256,
    )  # fmt: skip
    save(concepts, things / "concepts.safetensors")
    return things


@pytest.fixture(scope="session")
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages-cache")


@pytest.fixture
def place(things: Path, _shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with all that pages name; what a page registers is gone afterwards."""
    for name in FOLDERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(things / "photos")
    for i, name in enumerate(FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((things / "photos" / "church" / f"{i % 4}.jpg").read_bytes())
    (tmp_path / "concepts.safetensors").write_bytes((things / "concepts.safetensors").read_bytes())
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("ENTOPTIC_CACHE", str(_shared_cache))
    monkeypatch.setattr(sources, "_lite", cache(sources._lite))
    monkeypatch.setattr(build_index, "BLOCK", 4)
    monkeypatch.setattr(learn, "LEAST_COMPARED", 2)
    monkeypatch.setattr(registry, "_MEASURES", list(registry._MEASURES))
    held = [(known, dict(known)) for known in (METHODS, METRICS)]
    yield tmp_path
    for known, before in held:
        known.clear()
        known.update(before)
