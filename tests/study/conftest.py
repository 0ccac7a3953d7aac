"""Studies of invented runs, and a person who answers them over HTTP."""

from __future__ import annotations

import io
import os
import shutil
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
    return fill_run(tmp_path_factory.mktemp("runs") / "run", weights=str(network.card.weights_sha256), samples=4)


@pytest.fixture
def make(tmp_path: Path, run_folder: Path, network: Model, many_photos: Path) -> Make:
    """Builds a small study of the invented run."""

    def made(out: str = "study", **options: Any) -> Built:
        given: dict[str, Any] = {"photos": many_photos, "with_photos": True, "model": network} | options
        run, design = given.pop("run", run_folder), given.pop("design", SMALL)
        return build([run], tmp_path / out, design, **given)

    return made


SMALL = Design(participants=3, references=3, batches=1, trials=9, options=3)


@pytest.fixture(scope="session")
def built_once(
    tmp_path_factory: pytest.TempPathFactory, run_folder: Path, network: Model, many_photos: Path
) -> dict[str, Path]:
    """A small study of each preset."""
    folder = tmp_path_factory.mktemp("studies")
    os.environ["ENTOPTIC_CACHE"] = str(folder / "cache")
    for preset in ("default", "vital"):
        build([run_folder], folder / preset, SMALL, preset=preset, photos=many_photos, with_photos=True, model=network)
    return {preset: folder / preset for preset in ("default", "vital")}


@pytest.fixture
def study(tmp_path: Path, built_once: dict[str, Path]) -> Path:
    """A study of 2afc, intruder and preference for three people."""
    return Path(shutil.copytree(built_once["default"], tmp_path / "study", copy_function=os.link))


@pytest.fixture
def vital_study(tmp_path: Path, built_once: dict[str, Path]) -> Path:
    """A study of the three tasks of VITAL for three people."""
    return Path(shutil.copytree(built_once["vital"], tmp_path / "vital", copy_function=os.link))


def needs_server() -> None:
    """Skips where the extra `study` is not installed."""
    for package in ("fastapi", "sqlmodel", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed (the extra study)")
