"""Which layers stand for a network, for a table of architectures with random weights."""

from __future__ import annotations

import pytest
import timm
import torchvision
from torch import nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.trunk import trunk_layers

TABLE = {
    "torchvision:resnet50": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "torchvision:densenet121": [
        "features.conv0", "features.denseblock1", "features.denseblock2", "features.denseblock3", "features.denseblock4",
    ],
    "torchvision:convnext_tiny": ["features.0.0", "features.1", "features.3", "features.5", "features.7"],
    "torchvision:vgg11": ["features.0", "features.4", "features.9", "features.14", "features.19", "avgpool"],
    "torchvision:vit_b_32": [
        "conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)),
    ],
    "timm:resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "timm:convnext_atto": ["stem.0", "stages.0", "stages.1", "stages.2", "stages.3"],
    "timm:vit_tiny_patch16_224": ["patch_embed.proj", "blocks.2", "blocks.5", "blocks.8", "blocks.11"],
    "timm:swin_tiny_patch4_window7_224": ["patch_embed.proj", "layers.0", "layers.1", "layers.2", "layers.3"],
    "timm:mobilenetv2_100": ["conv_stem", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "timm:tf_efficientnet_lite0": ["conv_stem", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_trunk_of(name: str) -> None:
    source, _, architecture = name.partition(":")
    if source == "timm":
        module: nn.Module = timm.create_model(architecture, pretrained=False)
    else:
        module = torchvision.models.get_model(architecture, weights=None)
    model = Model(module, tiny_card(name=name, size=(224, 224), labels=None), device="cpu")
    assert trunk_layers(model) == TABLE[name]


def test_the_trunk_of_the_tiny_network(tiny: Model) -> None:
    assert trunk_layers(tiny) == ["stem", "stage1.3", "stage2.2"]


def test_the_number_of_blocks_of_a_transformer_can_be_chosen() -> None:
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64)
    model = Model(module, tiny_card(size=(64, 64), labels=None), device="cpu")
    assert trunk_layers(model, isotropic=2) == ["patch_embed.proj", "blocks.5", "blocks.11"]


def test_a_network_without_maps_has_no_trunk() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(UserError, match="tiny has no layer with maps or tokens"):
        trunk_layers(Model(flat, tiny_card(labels=None), device="cpu"))
    shallow = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match=r"found only \['0'\]; name others"):
        trunk_layers(Model(shallow, tiny_card(labels=None), device="cpu"))
