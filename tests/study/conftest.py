"""Studies of invented runs, and a person who answers them over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_card, tiny_module
from entoptic.models.model import Model
from entoptic.study.build import Built, build
from entoptic.study.design import Design
from fake_run import FakeRun

METHODS = ("vital", "fourier")
UNITS = 10


def coloured(seed: int, size: int = 32) -> bytes:
    import io

    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(size // 4, 0).repeat(size // 4, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill_run(
    folder: Path, *, weights: str = "ab" * 32, units: int = UNITS, samples: int = 9, methods: tuple[str, ...] = METHODS,
    labels: bool = True, layer: str = "stage2", photos: bool = True,
) -> Path:  # fmt: skip
    """An invented run of several units, methods and samples, whose pictures all differ."""
    fake = FakeRun(folder, title="An invented run")
    model = {"name": "tiny:net", "weights_sha256": weights, "licence": "cc0-1.0", "size": [32, 32]}
    count = 0
    for unit in range(units):
        name = f"{layer}:{unit}"
        for method in methods:
            for sample in range(samples):
                label = f"thing {unit}" if labels else None
                file = fake.add(unit=name, method=method, sample=sample, model=model, label=label, layer=layer, size=32)
                file.write_bytes(coloured(count))
                count += 1
        if photos:
            fake.surround(name, weights_sha256=weights)
    return folder


@pytest.fixture(scope="session")
def network() -> Model:
    """The tiny network that the invented runs are of."""
    return Model(tiny_module(), tiny_card(name="tiny:net"), device="cpu")


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    for i in range(80):
        (folder / f"{i:02}.png").write_bytes(coloured(10_000 + i))
    return folder


Make = Callable[..., Built]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, network: Model) -> Path:
    return fill_run(tmp_path_factory.mktemp("runs") / "run", weights=str(network.card.weights_sha256))


@pytest.fixture
def make(tmp_path: Path, run_folder: Path, network: Model, many_photos: Path) -> Make:
    """Builds a small study of the invented run."""

    def made(out: str = "study", **options: Any) -> Built:
        design = options.pop("design", Design(participants=4, references=3, batches=2, trials=9))
        given: dict[str, Any] = {"photos": many_photos, "with_photos": True, "model": network} | options
        return build([options.pop("run", run_folder)], tmp_path / out, design, **given)

    return made
