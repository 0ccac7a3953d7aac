"""VITAL's automatic layers and its contrast on networks of any layout, at random weights: nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.images.contrast import layers_up_to
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods.contract import Context, Draft, Item
from entoptic.methods.vital import Vital, matched_taps, vital
from entoptic.models.model import Model
from entoptic.units.unit import bind


def timm_net(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **options)


def vision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **options)


class Head(nn.Module):
    """The mean over positions, then logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*parts)


class HeightWidthChannels(nn.Module):
    """Maps whose channels are the last axis, from the stem on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((1, 2)))


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "squeezenet": (vision("squeezenet1_1"), 64, ("features.0:3", "features.4:5", "features.12:7")),
    "resnet": (vision("resnet18"), 64, ("conv1:3", "layer4:7", "layer2.0.relu:4")),
    "resnet of timm": (timm_net("resnet10t"), 64, ("layer2:3",)),
    "bottlenecks": (timm_net("resnetv2_50", layers=(1, 1, 1, 1)), 32, ("stages.1:3",)),
    "convnext": (timm_net("test_convnext"), 64, ("stages.1:3", "stem.0:1")),
    "densenet": (lambda: torchvision.models.DenseNet(block_config=(1, 1, 1, 1), num_classes=5), 64,
                 ("features.conv0:3", "features.denseblock2:9", "features.denseblock4:3")),
    "channels last (swin)": (timm_net("swin_tiny_patch4_window7_224", **SWIN), 64, ("layers.1:3", "layers.3:5")),
    "channels last": (HeightWidthChannels, 32, ("blocks.1:3", "stem:2")),
    "two layers": (chain(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), Head(8)), 32, ("0:3", "1:2")),
    "without BatchNorm": (chain(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(), Head(12)), 32,
                          ("0:3", "3:2")),
    "depthwise only": (chain(nn.Conv2d(3, 6, 3, 2, groups=3), nn.ReLU(), nn.Conv2d(6, 12, 3, 2, groups=6), nn.ReLU(), Head(12)),
                       32, ("0:1", "2:7")),
    "in-place ReLUs": (chain(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3, 2), nn.ReLU(inplace=True), Head(12)),
                       32, ("0:3", "1:3", "2:2", "3:2")),
}  # fmt: skip


def build(name: str) -> Model:
    torch.manual_seed(0)
    module, size, _ = NETWORKS[name]
    return Model(module().eval(), tiny_card(name=name, size=(size, size), labels=None), device="cpu")


def drafts_of(model: Model, photo_folder: Path, units: tuple[str, ...], **options: object) -> list[Draft]:
    context = Context(model=model, references=References(model, Photos.open(photo_folder)))
    items = [Item(target=unit, sample=0, seed=0) for unit in bind(model, list(units))]
    return list(vital(items, Vital(steps=2, references=4, **options), context))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_and_contrast_of_any_layout(name: str, photo_folder: Path) -> None:
    model = build(name)
    inner = NETWORKS[name][2]
    units = (*inner, "logits:1")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    made = drafts_of(model, photo_folder, units, class_contrast=1.0)
    plain = drafts_of(model, photo_folder, units, contrast=0.0, class_contrast=0.0, drive=0.0)
    for draft, without in zip(made, plain):
        unit = draft.item.unit
        assert draft.failure is None, (unit, draft.failure)
        assert draft.image is not None
        assert without.image is not None
        assert draft.image.shape == (3, *model.card.size)
        assert bool(draft.image.isfinite().all())
        assert not torch.equal(draft.image, without.image), unit
        assert draft.trace.references is not None
        assert "against" in draft.trace.references, unit
        taps = layers_up_to(model, matched_taps(model, ()), unit)
        assert taps[-1].layer == unit.layer
    after = model.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(module._forward_hooks for module in model.module.modules())


def test_one_convolution_alone_is_said_and_can_be_named(photo_folder: Path) -> None:
    model = Model(nn.Sequential(nn.Conv2d(3, 8, 3, 2), Head(8)), tiny_card(labels=None), device="cpu")
    with pytest.raises(UserError, match=r"found only \['0'\]; name others with"):
        drafts_of(model, photo_folder, ("0:3",))
    (draft,) = drafts_of(model, photo_folder, ("0:3",), layers=("0",))
    assert draft.failure is None


def test_without_any_map_it_is_said(photo_folder: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, 5))
    model = Model(flat, tiny_card(labels=None), device="cpu")
    with pytest.raises(UserError, match="no layer with maps or tokens"):
        drafts_of(model, photo_folder, ("1:3",))
    # Named layers are matched all the same: a value a channel.
    (draft,) = drafts_of(model, photo_folder, ("2:3",), layers=("1",))
    assert draft.failure is None
    assert draft.image is not None
    assert bool(draft.image.isfinite().all())
