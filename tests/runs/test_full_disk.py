"""A full disk is one sentence; what is finished is kept, and what is too little is refused before anything is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.base import files
from entoptic.errors import UserError
from entoptic.images import build_index as indexing
from entoptic.models.model import Model
from entoptic.priors.recipe import Recipe
from entoptic.runs import learn as learning
from entoptic.runs.learn import learn

TINY = Recipe(size=8, patch=2, widths=(16, 32), attention=(), batch_size=4, steps=3, warmup=1, decay=0.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """100 plain photos."""
    (tmp_path / "photos").mkdir()
    draw = torch.Generator().manual_seed(0)
    for i in range(100):
        values = (100 + 20 * torch.randn(8, 8, 3, generator=draw)).clamp(0, 255).byte().numpy()
        Image.fromarray(values).save(tmp_path / "photos" / f"{i:02}.png")
    return tmp_path / "photos"


def full_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Lets so many files be replaced, then the disk is full."""
    replace: Callable[..., None] = os.replace
    done = 0

    def limited(*paths: Any) -> None:
        nonlocal done
        done += 1
        if done > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[1]))
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", limited)


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "No space left" in text
    return text


@pytest.mark.parametrize("count", range(8))
def test_learn_prior(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    pytest.importorskip("diffusers")
    judge = Model(tiny_module(), tiny_card(name="judge"), device="cpu")
    monkeypatch.setattr(learning, "features", lambda model, pictures: pictures.mean((2, 3)))
    ask: dict[str, Any] = {"judge": judge, "samples": 50, "device": "cpu", "progress": False}
    with monkeypatch.context() as full:
        full_after(full, count)
        sentence(lambda: learn(photos, tmp_path / "t", TINY, **ask))
    assert not list((tmp_path / "t").rglob(".*.part"))
    assert (learn(photos, tmp_path / "t", TINY, **ask) / "card.json").is_file()


@pytest.mark.parametrize("count", range(5))
def test_index(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    model = Model(tiny_module(), tiny_card(), device="cpu")
    with monkeypatch.context() as full:
        full_after(full, count)
        sentence(lambda: indexing.build_index(model, photos, ["stage1"], out=tmp_path / "i"))
    assert indexing.build_index(model, photos, ["stage1"], out=tmp_path / "i").n == 100


@pytest.mark.parametrize("count", range(4))
def test_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    model = Model(tiny_module(), tiny_card(), device="cpu")
    ask: dict[str, Any] = {"method": "pixels", "steps": 2, "out": tmp_path / "r", "verifiers": "", "progress": False}
    with monkeypatch.context() as full:
        full_after(full, count)
        sentence(lambda: entoptic.see(model, "logits:0-1", **ask))
    assert len(entoptic.see(model, "logits:0-1", **ask)) == 2


def test_too_few_photos_are_refused_before_anything_is_written(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 100 photos, got 40"):
        learn(photo_folder, tmp_path / "t", TINY, device="cpu", progress=False)
    with pytest.raises(UserError, match="samples must be at least 50"):
        learn([photo_folder] * 3, tmp_path / "t", TINY, samples=5, device="cpu", progress=False)
    assert not (tmp_path / "t").exists()
