"""Transformers and ConvNeXts of timm, torchvision and transformers with random weights: shapes and invariants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from conftest import LABELS, tiny_card
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.taps import Tap, as_laid_out, first_tensor
from entoptic.models.trunk import trunk_layers
from entoptic.runs.see import see
from entoptic.units.unit import bind


@dataclass(frozen=True)
class Family:
    """A tiny member of a family.

    Attributes:
        build: makes it. size: of its pictures. trunk: its layers. neurons: an activation layer inside an MLP.
        hidden: the linear layer before that. layout, patches: of that layer.
    """

    build: Callable[[], nn.Module]
    size: int
    trunk: tuple[str, ...]
    neurons: str
    hidden: str
    layout: str
    patches: tuple[int, int, int]


def timm_of(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **options)


def torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 1], [1, 2, 2], [4, 4], num_classes=5)


def torchvision_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 16, 1), CNBlockConfig(16, 8, 1), CNBlockConfig(8, None, 1)], num_classes=5)


def transformers_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def transformers_convnext() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[16, 8, 8, 8], depths=[1] * 4, image_size=64, num_labels=5)
    return transformers.ConvNextForImageClassification(config)


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 4}
BLOCKS = ("patch_embed.proj", "blocks.0", "blocks.1", "blocks.2", "blocks.3")
STAGES = ("stages.0", "stages.1", "stages.2", "stages.3")
MLP = ("blocks.1.mlp.act", "blocks.1.mlp.fc1")

FAMILIES = {
    "vit": Family(timm_of("vit_tiny_patch16_224", **SMALL), 32, BLOCKS, *MLP, "BTC", (1, 4, 4)),
    "vit with q and k norms": Family(
        timm_of("vit_tiny_patch16_224", qk_norm=True, **SMALL), 32, BLOCKS, *MLP, "BTC", (1, 4, 4)
    ),
    "vit with registers": Family(
        timm_of("vit_small_patch14_reg4_dinov2", **SMALL), 32, BLOCKS, *MLP, "BTC", (5, 4, 4)
    ),
    "vit without class token": Family(
        timm_of("vit_base_patch16_siglip_gap_224", **SMALL), 32, BLOCKS, *MLP, "BTC", (0, 4, 4)
    ),
    "distilled deit": Family(
        timm_of("deit_tiny_distilled_patch16_224", **SMALL), 32, BLOCKS, *MLP, "BTC", (2, 4, 4)
    ),
    "swin": Family(
        timm_of("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(1, 1, 2, 1),
                num_heads=(1, 2, 2, 4)),
        64, ("patch_embed.proj", "layers.0", "layers.1", "layers.2", "layers.3"),
        "layers.1.blocks.0.mlp.act", "layers.1.blocks.0.mlp.fc1", "BTC", (0, 8, 8),
    ),
    "convnext": Family(
        timm_of("convnext_tiny", depths=(1, 1, 1, 1), dims=(16, 8, 12, 16)), 64, ("stem.0", *STAGES),
        "stages.1.blocks.0.mlp.act", "stages.1.blocks.0.mlp.fc1", "BHWC", (0, 8, 8),
    ),
    "convnext with 1×1 convolutions": Family(
        timm_of("convnextv2_atto", depths=(1, 1, 1, 1), dims=(16, 8, 12, 16)), 64, ("stem.0", *STAGES),
        "stages.1.blocks.0.mlp.act", "stages.1.blocks.0.mlp.fc1", "BCHW", (0, 8, 8),
    ),
    "torchvision's vit": Family(
        lambda: torchvision.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5), 32,
        ("conv_proj", *(f"encoder.layers.encoder_layer_{i}" for i in range(4))),
        "encoder.layers.encoder_layer_1.mlp.1", "encoder.layers.encoder_layer_1.mlp.0", "BTC", (1, 4, 4),
    ),
    "torchvision's swin": Family(
        torchvision_swin, 64, ("features.0.0", "features.1", "features.3", "features.5"),
        "features.3.0.mlp.1", "features.3.0.mlp.0", "BHWC", (0, 8, 8),
    ),
    "torchvision's convnext": Family(
        torchvision_convnext, 64, ("features.0.0", "features.1", "features.3", "features.5"),
        "features.3.0.block.4", "features.3.0.block.3", "BHWC", (0, 8, 8),
    ),
    "transformers' vit": Family(
        transformers_vit, 32,
        ("vit.embeddings.patch_embeddings.projection", *(f"vit.layers.{i}" for i in range(4))),
        "vit.layers.1.mlp.activation_fn", "vit.layers.1.mlp.fc1", "BTC", (1, 4, 4),
    ),
    "transformers' convnext": Family(
        transformers_convnext, 64,
        ("convnext.embeddings.patch_embeddings", *(f"convnext.encoder.{stage}" for stage in STAGES)),
        "convnext.encoder.stages.1.layers.0.act", "convnext.encoder.stages.1.layers.0.pwconv1", "BHWC", (0, 8, 8),
    ),
}  # fmt: skip


@cache
def model_of(name: str) -> Model:
    torch.manual_seed(0)
    family = FAMILIES[name]
    module = family.build()
    for parameter in module.parameters():  # fresh layer scales and biases are zero or tiny: nothing would show
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return Model(module, tiny_card(name=name, size=(family.size,) * 2, labels=LABELS), device="cpu")


def pictures(model: Model, count: int = 2) -> Tensor:
    return torch.rand(count, 3, *model.card.size, generator=torch.Generator().manual_seed(1))


def hooked(model: Model, images: Tensor) -> dict[str, Tensor]:
    """What plain hooks see of every module, at its last call."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda m, args, out: seen.update({name: first_tensor(out).clone()})

    with torch.no_grad():
        handles = [
            m.register_forward_hook(keep(name)) for name, m in model.module.named_modules() if name in model.layers
        ]
        try:
            model.module.eval()(model.normalise(images))
        finally:
            for handle in handles:
                handle.remove()
    return seen


every = pytest.mark.parametrize("name", FAMILIES)


@every
def test_the_trunk(name: str) -> None:
    assert tuple(trunk_layers(model_of(name))) == FAMILIES[name].trunk


@every
def test_neurons_of_an_mlp(name: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    info = model.layer(family.neurons)
    width = int(model.module.get_submodule(family.hidden).weight.shape[0])  # type: ignore[union-attr, index]
    assert (info.layout, info.channels, info.patches) == (family.layout, width, family.patches)
    assert info.activation == family.neurons
    hidden = model.layer(family.hidden)
    assert (hidden.layout, hidden.channels, hidden.activation) == (family.layout, width, None)


@every
def test_taps_equal_plain_hooks(name: str) -> None:
    model = model_of(name)
    images = pictures(model)
    raw = hooked(model, images)
    values = model.read(images, [Tap(layer) for layer in model.layers])
    for layer, info in model.layers.items():
        assert values[Tap(layer)].shape == (2, info.channels, info.grid[0] * info.grid[1]), layer
        torch.testing.assert_close(as_laid_out(values[Tap(layer)], info), raw[layer], rtol=0, atol=0)


@every
def test_before_the_activation_function(name: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    before, hidden = Tap(family.neurons, pre=True), Tap(family.hidden)
    values = model.read(pictures(model), [before, hidden])
    assert torch.equal(values[before], values[hidden])
    assert float(values[before].min()) < 0


@every
def test_a_picture_alone_and_in_a_batch(name: str) -> None:
    model = model_of(name)
    images = pictures(model, 3)
    taps = [Tap(layer) for layer in (*trunk_layers(model), FAMILIES[name].neurons, "logits")]
    with torch.no_grad():
        together, alone = model.read(images, taps), model.read(images[1:2], taps)
    for tap in taps:
        torch.testing.assert_close(together[tap][1:2], alone[tap], rtol=1e-4, atol=1e-5)


@every
def test_the_network_is_given_back_as_it_was(name: str) -> None:
    model = model_of(name)
    _ = model.layers

    def state() -> Any:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]
        flags = [m.training for m in model.module.modules()], [p.requires_grad for p in model.module.parameters()]
        return hooks, flags, [p.grad for p in model.module.parameters()]

    model.module.train()
    before = state()
    images = pictures(model).requires_grad_()
    tap = Tap(FAMILIES[name].neurons)
    model.read(images, [tap])[tap].sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert state() == before


@every
def test_scores_of_each_readout_by_hand(name: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    images = pictures(model)
    raw = hooked(model, images)[family.neurons]
    channel = 7
    map_BD = raw[:, channel].flatten(1) if family.layout == "BCHW" else raw.flatten(1, -2)[:, :, channel]
    prefix, _, columns = family.patches
    expected = {
        "": map_BD.mean(1), "@mean": map_BD.mean(1), "@max": map_BD.amax(1),
        "@2,1": map_BD[:, prefix + 2 * columns + 1],
        "@centre": map_BD[:, prefix + family.patches[1] // 2 * columns + columns // 2],
    }  # fmt: skip
    if family.layout == "BTC":
        expected["@tok3"] = map_BD[:, 3]
        if prefix:
            expected["@cls"] = map_BD[:, 0]
        else:
            with pytest.raises(UserError, match="patches and no class token; use @tokN"):
                bind(model, f"{family.neurons}:7@cls")
    else:
        with pytest.raises(UserError, match="map without tokens; use @ROW,COLUMN"):
            bind(model, f"{family.neurons}:7@cls")
    with torch.no_grad():
        for readout, score in expected.items():
            (unit,) = bind(model, f"{family.neurons}:{channel}{readout}")
            torch.testing.assert_close(unit.score(images), score, msg=lambda m, r=readout: f"{r}: {m}")
    rows = family.patches[1]
    with pytest.raises(UserError, match=f"rows 0-{rows - 1} and columns 0-{columns - 1}"):
        bind(model, f"{family.neurons}:7@{rows},0")


@every
def test_patches_lie_where_the_picture_changed(name: str) -> None:
    """Behind the patch embedding, only the position named by `patches` sees a change of its own patch."""
    model = model_of(name)
    stem = model.layer(FAMILIES[name].trunk[0])
    _, rows, columns = stem.patches or (0, 0, 0)
    # The first whole-width layers after the stem that keep its patches, up to the first that mixes them.
    mixing = min(info.order for info in model.layers.values() if "attn" in info.name or "attention" in info.name
                 or ("Conv" in info.kind and info.order > stem.order) or info.name.endswith((".norm1", ".ln_1")))  # fmt: skip
    layers = [i for i in model.layers.values() if i.order < mixing and i.patches and i.patches[1:] == (rows, columns)]
    assert layers
    step = model.card.size[0] // rows
    images = pictures(model, 1)
    changed = images.clone()
    changed[..., 2 * step : 3 * step, 1 * step : 2 * step] += 0.5
    for info in layers:
        tap = Tap(info.name)
        with torch.no_grad():
            difference = (model.read(images, [tap])[tap] - model.read(changed, [tap])[tap])[0].abs().amax(0)
        assert info.patches is not None
        assert difference.nonzero().flatten().tolist() == [info.patches[0] + 2 * columns + 1], info.name


@pytest.mark.parametrize("name", ["torchvision's swin", "torchvision's convnext", "convnext", "transformers' convnext"])
def test_layouts_agree_with_pictures_of_another_size(name: str) -> None:
    """An oracle for networks that take any size: along the axis of the units, and only there, nothing changes."""
    model = model_of(name)
    small = hooked(model, pictures(model))
    with torch.no_grad():
        large = hooked(model, torch.rand(2, 3, model.card.size[0] * 2, model.card.size[1] * 3))
    checked = 0
    for layer, info in model.layers.items():
        if len(info.shape) == 3 and info.grid != (1, 1):
            same = [a == b for a, b in zip(small[layer].shape[1:], large[layer].shape[1:])]
            assert same == ([True, False, False] if info.layout == "BCHW" else [False, False, True]), layer
            checked += 1
    assert checked > 15


@pytest.mark.parametrize("method", ["vital", "fourier", "pixels"])
@pytest.mark.parametrize("name", ["vit with registers", "distilled deit", "swin", "convnext"])
def test_pictures_of_a_neuron_and_of_a_class(name: str, method: str, photo_folder: Path, tmp_path: Path) -> None:
    model = model_of(name)
    units = [f"{FAMILIES[name].neurons}:7@max", "logits:2"]
    run = see(
        model, units, method=method, steps=3, photos=photo_folder, verifiers="", out=tmp_path / "run", progress=False
    )
    assert run.failures == []
    assert {picture.unit for picture in run} == set(units)
    for picture in run:
        assert picture.pixels.shape == (*model.card.size, 3)
        assert picture["activation"] is not None
        assert picture["percentile"] is not None
    assert all(parameter.grad is None for parameter in model.module.parameters())
