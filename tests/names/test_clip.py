"""Names by a model of pictures and texts: a tiny one, and open_clip's calls."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.names.shapes import SYNONYMS, WORDS, Toy, scenes, shapes_model, unit_of
from torch import Tensor, nn

import entoptic
from entoptic.errors import NotAvailable, UserError
from entoptic.names.clip import ImageTextModel, OpenClip
from entoptic.planted.causes import COLOURS
from entoptic.planted.detectors import FORMS


class TinyClip:
    """Pictures as the sum of the vectors of the colours and shapes that a planted network finds in them."""

    name, identity, scale = "tiny-clip", "tiny-clip:1", 20.0

    def __init__(self) -> None:
        self.model = shapes_model(labels=None)
        vectors = torch.as_tensor(Toy().encode([form.split()[-1] for form in FORMS])).float()
        self.vectors = vectors * torch.tensor([form in SYNONYMS.values() for form in FORMS])[:, None]

    def prepare(self, photo: Image.Image) -> Tensor:
        return self.model.card.prepare(photo)

    def encode_images(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.model.module.body(self.model.normalise(images)).amax((2, 3))
        return nn.functional.normalize(seen @ self.vectors + 1e-3, dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.as_tensor(Toy().encode([text.replace("a photo of a ", "") for text in texts])).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shapes")
    scenes(place)
    return place


def test_clip_names_units_of_a_network_without_class_names(folder: Path, tmp_path: Path) -> None:
    assert isinstance(TinyClip(), ImageTextModel)
    units = [unit_of(colour) for colour in COLOURS]
    given: dict[str, Any] = {"photos": folder, "words": WORDS, "clip": TinyClip(), "progress": False}
    names = entoptic.name(shapes_model(labels=None), units, out=tmp_path / "a", **given)
    assert [one.name for one in names] == ["crimson", "emerald", "azure", "golden"]
    assert (names.way, names.encoder, names.fidelity) == ("clip", "tiny-clip", None)
    assert all(one.low > 0.1 and one.shuffled is None for one in names)
    assert not (tmp_path / "a" / "names.safetensors").exists()
    again = entoptic.name(shapes_model(labels=None), units[2], out=tmp_path / "b", **given)
    assert again.suggestions == (names.of(units[2]),)


class _Stub(nn.Module):
    """What open_clip hands out: encoders and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weight

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float()[:, :3] @ self.weight


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("open_clip")
    module.__spec__ = importlib.machinery.ModuleSpec("open_clip", None)

    def create(kind: str, pretrained: str) -> Any:
        if pretrained != "there":
            raise RuntimeError(f"Pretrained weights ({pretrained}) not found")
        return _Stub(), None, lambda photo: torch.full((3, 8, 8), 0.5)

    module.list_models = lambda: ["ViT-B-32", "RN50"]
    module.create_model_and_transforms = create
    module.get_tokenizer = lambda kind: lambda texts: torch.tensor([[len(text), 1, 2, 3] for text in texts])
    monkeypatch.setitem(sys.modules, "open_clip", module)


@pytest.mark.usefixtures("stub")
def test_a_model_of_open_clip() -> None:
    clip = OpenClip("ViT-B-32:there")
    assert isinstance(clip, ImageTextModel)
    assert clip.scale == pytest.approx(100)
    assert clip.identity == OpenClip("ViT-B-32:there").identity
    images = clip.encode_images(torch.stack([clip.prepare(Image.new("RGB", (9, 9)))] * 2))
    texts = clip.encode_texts([f"a photo of {i}" for i in range(70)])
    assert images.shape == (2, 4)
    assert texts.shape == (70, 4)
    for rows in (images, texts):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ViT-B-32", UserError, "a CLIP model is MODEL:PRETRAINED"),
        ("ViT-B-23:there", UserError, 'open_clip has no model "ViT-B-23"; did you mean "ViT-B-32"'),
        ("RN50:nowhere", NotAvailable, r"RN50:nowhere cannot be loaded here \(Pretrained weights"),
    ],
)
def test_a_model_that_open_clip_lacks(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OpenClip(name)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="needs the package open_clip_torch")
@pytest.mark.slow
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network of open_clip's own code, with drawn weights in a file."""
    import json

    import open_clip

    config = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }  # fmt: skip
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-test").state_dict(), tmp_path / "weights.pt")
    clip = OpenClip(f"tiny-test:{tmp_path / 'weights.pt'}")
    assert clip.encode_texts(["a dog", "a cat"]).shape == (2, 16)
    assert clip.encode_images(clip.prepare(Image.new("RGB", (40, 50)))[None]).shape == (1, 16)
