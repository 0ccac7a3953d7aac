"""A full disk is one sentence; what is finished is kept, and what is too little is refused before anything is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.base import files
from entoptic.base.training import read_record
from entoptic.errors import UserError
from entoptic.images import build_index as indexing
from entoptic.inversion import learn as of_inverter
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.learn import learn_inverter, loss
from entoptic.models.model import Model
from entoptic.priors.learn import network
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import flow_prior
from entoptic.runs import learn as learning
from entoptic.runs import learn_inverter as learning_inverter
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


INVERTER = EntopticRecipe(steps=6, batch_size=2, hint=8, warmup=1, decay=0.0)


@pytest.fixture(scope="module")
def prior() -> Any:
    """An untrained prior of 8-pixel pictures."""
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    card = {"name": "p", "size": 8, "patch": 2, "classes": []}
    return flow_prior("p", network(TINY, 0).eval(), card, torch.device("cpu"))


# Files that are replaced, in order: pairs.json, three checkpoints with their records, weights, card and sheet of the
# inverter, then weights and card again.
@pytest.mark.parametrize("count", range(12))
def test_learn_inverter(prior: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    model, out = Model(tiny_module(), tiny_card(), device="cpu"), tmp_path / "t"
    ask: dict[str, Any] = {"prior": prior, "verifiers": "", "compared": 2, "device": "cpu", "progress": False}
    monkeypatch.setattr(learning_inverter, "learn_inverter", partial(learn_inverter, save_every=2))
    with monkeypatch.context() as full:
        full_after(full, count)
        text = sentence(lambda: learning_inverter.learn(model, "stage2", photos, out, INVERTER, **ask))
    assert not list(out.rglob(".*.part"))
    step = 2 * min(3, max(0, count - 1) // 2)
    record = read_record(out)
    assert (record["step"] if record else 0) == step
    if record:
        assert load_file(out / record["state"])  # the checkpoint before is whole
    if 0 < count < 7:
        assert "the checkpoint before is kept" in text
    steps: list[int] = []
    monkeypatch.setattr(of_inverter, "loss", lambda *given: (steps.append(given[-1]), loss(*given))[1])
    again = learning_inverter.learn(model, "stage2", photos, out, INVERTER, **ask)
    assert (again / "card.json").is_file()
    assert steps == list(range(step, 6))


def test_learn_inverter_without_room_for_its_maps(
    prior: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model, out = Model(tiny_module(), tiny_card(), device="cpu"), tmp_path / "t"
    ask: dict[str, Any] = {"prior": prior, "verifiers": "", "compared": 2, "device": "cpu", "progress": False}
    with monkeypatch.context() as none:
        none.setattr(os, "posix_fallocate", full)
        sentence(lambda: learning_inverter.learn(model, "stage2", photos, out, INVERTER, **ask))
    assert (learning_inverter.learn(model, "stage2", photos, out, INVERTER, **ask) / "card.json").is_file()


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
