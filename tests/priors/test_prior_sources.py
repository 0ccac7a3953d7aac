"""Loading priors by name."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.priors.prior import Level
from entoptic.priors.saved import save_prior
from entoptic.priors.sources import builtin_priors, load_prior
from tiny_pipelines import save_text_pipeline
from tiny_priors import CARD, close, flow_net, save_pixel_pipeline


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixel_pipeline(tmp_path_factory.mktemp("pixel"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_pipeline(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of our own training."""
    return save_prior(flow_net(), tmp_path_factory.mktemp("flow"), CARD, half=False)


def test_builtin_names_are_shipped_folders(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("base.shipped", "priors.sources"):
        monkeypatch.setattr(f"entoptic.{place}.shipped_folder", lambda room: tmp_path)
    shutil.copytree(flow, tmp_path / "photos16")
    assert builtin_priors() == ["photos16"]
    prior = load_prior("builtin:photos16", device="cpu")
    assert prior.name == "builtin:photos16"
    assert prior.identity == load_prior(f"file:{flow}", device="cpu").identity
    with pytest.raises(
        UserError, match='no builtin prior "photo16"; expected one of photos16; did you mean "photos16"'
    ):
        load_prior("builtin:photo16")
    with pytest.raises(UserError, match="try builtin:photos16"):
        load_prior("photos16")


def test_stored_photos_are_a_prior(photo_folder: Path) -> None:
    prior = load_prior(f"photos:{photo_folder}", device="cpu", size=8)
    assert (prior.name, prior.shape) == (f"photos:{photo_folder}", (3, 8, 8))
    assert load_prior(f"photos:{photo_folder}", device="cpu").shape == (3, 64, 64)
    # With hardly any noise each photo is its own estimate.
    first = Photos.open(photo_folder).read(0)
    assert first is not None
    small = np.asarray(first.resize((8, 8), Image.Resampling.BICUBIC), np.float32) / 255
    stored = 2 * torch.from_numpy(small).permute(2, 0, 1)[None] - 1
    level = Level(0.0, 1.0, 1e-3)
    close(prior.denoise(stored, level), stored, 1e-4)
    with pytest.raises(UserError, match=r"GiB; give fewer, or size=\d+"):
        load_prior(f"photos:{photo_folder}", device="cpu", size=20000)
    with pytest.raises(UserError, match="at least 1 pixel, got 0"):
        load_prior(f"photos:{photo_folder}", device="cpu", size=0)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("hff:x", {}, 'no prior source "hff"; expected one of builtin, file, hf, photos; did you mean "hf"'),
        ("hf:", {}, "expected SOURCE:NAME"),
        ("somewhere", {}, "expected SOURCE:NAME"),
        ("hf:./nowhere", {}, "there is no folder"),
        ("builtin:x", {}, "no builtin prior"),
        ("photos:x", {"guidance": 2.0}, "guidance=2.0 is for builtin: and file: and hf:, got photos:x"),
        ("file:x", {"prompt": "a"}, "prompt='a' is for hf:"),
        ("hf:a/b", {"size": 4}, "size=4 is for photos:"),
        (3, {}, "got int"),
    ],
)
def test_names_that_are_not_priors(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_prior(source, device="cpu", **options)


def test_a_prior_is_returned_as_it_is(pixel: Path) -> None:
    prior = load_prior(f"hf:{pixel}", device="cpu")
    assert load_prior(prior) is prior


def test_only_the_files_that_are_needed_are_fetched(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    hub, cache = tmp_path / "hub", tmp_path / "cache"
    shutil.copytree(text, hub)
    for useless in ("v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin",
                    "unet/diffusion_pytorch_model.fp16.safetensors"):  # fmt: skip
        (hub / useless).parent.mkdir(exist_ok=True)
        (hub / useless).write_bytes(b"not weights")
    revisions = set()

    def download(repo: str, *, revision: str | None, allow_patterns: Sequence[str]) -> str:
        assert repo == "someone/tiny"
        revisions.add(revision)
        for path in hub.rglob("*"):
            name = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    prior = load_prior("hf:someone/tiny@v2", device="cpu", prompt="a cat")
    assert prior.name == "hf:someone/tiny@v2"
    assert revisions == {"v2"}
    assert prior.identity == load_prior(f"hf:{text}", device="cpu", prompt="a cat").identity
    fetched = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert not any(name.endswith((".bin", "pruned.safetensors")) or name.startswith("safety") for name in fetched)

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"no route to the hub.*hf:FOLDER"):
        load_prior("hf:someone/tiny", device="cpu")
