"""What every network gets, whatever its family: its own logits, layers on the right axis, gradients, relevance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.models.model import LOGITS, Model
from entoptic.models.relevance import relevance
from entoptic.models.taps import Tap, as_laid_out, first_tensor
from entoptic.models.trunk import trunk_layers


def timm_net(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **options)


def vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **options)


def hf(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return build


class InAutocast(nn.Module):
    """A network that computes its features in bfloat16 by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Linear(8, 5)
        self.deeper = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.deeper(self.act(self.conv(x)))
        return self.head(x.float().mean((2, 3)))


SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 2}
HF_VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
          "patch_size": 8}  # fmt: skip

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet10t": (timm_net("resnet10t"), 32),
    "resnetv2": (timm_net("resnetv2_50", layers=(1, 1, 1, 1)), 32),
    "mobilenetv3": (timm_net("mobilenetv3_small_050"), 32),
    "mobilenetv4": (timm_net("mobilenetv4_conv_small_035"), 64),
    "efficientnet": (timm_net("test_efficientnet"), 32),
    "efficientnet ln": (timm_net("test_efficientnet_ln"), 32),
    "byobnet": (timm_net("test_byobnet"), 32),
    "test vit": (timm_net("test_vit", img_size=32), 32),
    "test resnet": (timm_net("test_resnet"), 32),
    "test nfnet": (timm_net("test_nfnet"), 32),
    "test convnext": (timm_net("test_convnext"), 32),
    "test mambaout": (timm_net("test_mambaout"), 32),
    "repvgg": (timm_net("repvgg_a0"), 32),
    "regnet": (timm_net("regnetx_002"), 32),
    "densenet": (lambda: torchvision.models.DenseNet(block_config=(1, 1, 1, 1), num_classes=5), 32),
    "ghostnet": (timm_net("ghostnet_050"), 32),
    "tresnet": (timm_net("tresnet_m"), 32),
    "vit": (timm_net("vit_tiny_patch16_224", **SMALL_VIT), 32),
    "beit": (timm_net("beit_base_patch16_224", **SMALL_VIT), 32),
    "eva": (timm_net("eva02_tiny_patch14_224", **SMALL_VIT), 32),
    "cait": (timm_net("cait_xxs24_224", **SMALL_VIT), 32),
    "xcit": (timm_net("xcit_nano_12_p8_224", **SMALL_VIT), 32),
    "mixer": (timm_net("mixer_s16_224", img_size=32), 32),
    "gmlp": (timm_net("gmlp_ti16_224", img_size=32), 32),
    "poolformer": (timm_net("poolformer_s12"), 64),
    "maxvit": (timm_net("maxvit_rmlp_pico_rw_256", img_size=64), 64),
    "coatnet": (timm_net("coatnet_nano_rw_224", img_size=64), 64),
    "edgenext": (timm_net("edgenext_xx_small"), 64),
    "fastvit": (timm_net("fastvit_t8"), 64),
    "levit": (timm_net("levit_128s", img_size=64), 64),
    "swin": (
        timm_net(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=16,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 4),
        ),
        64,
    ),
    "torchvision resnet": (vision("resnet18"), 32),
    "vgg": (vision("vgg11_bn"), 32),
    "squeezenet": (vision("squeezenet1_1"), 64),
    "shufflenet": (vision("shufflenet_v2_x0_5"), 32),
    "mnasnet": (vision("mnasnet0_5"), 32),
    "googlenet": (vision("googlenet", aux_logits=False, init_weights=False), 64),
    "alexnet": (vision("alexnet"), 64),
    "torchvision mobilenet": (vision("mobilenet_v2", width_mult=0.35), 32),
    "hf vit": (hf("ViT", **HF_VIT), 32),
    "hf dinov2": (hf("Dinov2", **HF_VIT), 32),
    "hf resnet": (
        hf("ResNet", embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic"),
        32,
    ),
    "hf convnext": (hf("ConvNext", hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]), 64),
    "in autocast": (InAutocast, 32),
}


@pytest.mark.parametrize(("build", "size"), NETWORKS.values(), ids=NETWORKS)
def test_any_network(build: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    module = build().eval()
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():  # heads that begin at zero have no gradient
            nn.init.normal_(parameter, std=0.1)
    model = Model(module, tiny_card(size=(size, size), labels=None), device="cpu")
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    raw = (images - 0.5) / 0.25
    with torch.no_grad():
        plain = module(raw)
        plain = plain if isinstance(plain, Tensor) else first_tensor(plain)
        # Its own logits, and one picture alone as in a batch.
        assert torch.allclose(model(images), plain, rtol=1e-3, atol=1e-4)
        assert model.outputs == 5
        alone = torch.cat([model(image[None]) for image in images])
        assert torch.allclose(alone, plain, rtol=1e-2, atol=1e-3)
        # Layers: what a plain hook sees, back in its own shape.
        layers = trunk_layers(model)
        assert layers
        kept: dict[str, Tensor] = {}
        handles = [
            module.get_submodule(name).register_forward_hook(
                lambda m, a, out, name=name: kept.update({name: first_tensor(out).clone()})
            )
            for name in layers
        ]
        module(raw)
        for handle in handles:
            handle.remove()
        for name, values in model.read(images, [Tap(name) for name in layers]).items():
            info = model.layer(name.layer)
            assert values.shape[:2] == (3, info.channels)
            assert torch.allclose(as_laid_out(values, info), kept[name.layer].float(), rtol=1e-2, atol=1e-3)
    for info in model.layers.values():
        assert info.channels >= 1
    # One gradient step raises the unit.
    x = images.clone().requires_grad_()
    before = model(x)[:, 2]
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert float(gradient.abs().max()) > 0
    with torch.no_grad():
        step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)
        assert float((model(images + step)[:, 2] - before).sum()) > -1e-4
    # Relevance at the last layer of the trunk: something arrives, or operations without a rule are named.
    tap = Tap(layers[-1])
    try:
        found = relevance(model, images, {Tap(LOGITS): lambda v: v.relu() * (torch.arange(5) == 2)[:, None]}, [tap])
    except UserError as error:
        found, why = None, str(error)
    if found is None:  # mnasnet writes in place to a part of a tensor, which relevance does not follow
        assert "relevance cannot follow that" in why
        return
    assert found.maps[tap].isfinite().all()
    if float(found.start.abs().max()) > 1e-6:
        assert float(found.maps[tap].abs().max()) > 0 or found.unruled
