"""Concepts of a class from photos, through whatever head the network has."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.inversion.class_concepts import class_weights, concepts_of
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.model import Model
from entoptic.units.concepts import Concepts, Mcd
from entoptic.units.dictionary import load_dictionary, save
from entoptic.units.unit import bind
from oracles.mcd import layer_norm_weight


def pictures(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_class_of_labelled_photos(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    found = concepts_of(tiny, "stage2", photo_folder, 2, Mcd(concepts=2, neighbours=20, alpha=0.4))
    assert (found.found["photos"], found.found["label"], found.found["vectors"]) == (8, "stripe", 128)
    torch.testing.assert_close(found.weights[0].float(), tiny.module.head.weight[2].detach())  # type: ignore[union-attr, index]
    assert found.found["head_gap"] < 1e-4
    # Relevance adds up to the logit, through the model itself.
    maps = FeatureMaps.of(tiny, "stage2")
    maps_BChw, head = class_weights(maps, pictures(3, 32), 2)
    total = found.local_relevance(maps_BChw, head.weight_BC).mean((2, 3)).sum(1)
    torch.testing.assert_close(total, tiny(pictures(3, 32))[:, 2] - head.base_B, atol=1e-5, rtol=1e-4)
    (first, _) = bind(tiny, f"dict({save(found, tmp_path / 'c.safetensors')}):*")
    assert first.score(pictures(2, 32)).shape == (2,)
    assert len(load_dictionary(tmp_path / "c.safetensors", tiny).names) == 2


def test_what_cannot_be_found(tiny: Model, photo_folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean logits:4"):
        concepts_of(tiny, "stage2", photo_folder, 5)
    with pytest.raises(UserError, match="no map over the picture"):
        concepts_of(tiny, "head", photo_folder, 1)
    early = concepts_of(tiny, "stage1", photo_folder, 2, Mcd(concepts=1, neighbours=20), limit=3)
    assert "not linear" in early.found["head"]


def test_the_layer_norm_head_of_convnext() -> None:
    torch.manual_seed(0)
    module = timm.create_model("convnext_atto", pretrained=False, num_classes=5)
    for parameter in module.head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model = Model(module, tiny_card(size=(64, 64)), device="cpu")
    images = pictures(2, 64)
    maps_BChw, head = class_weights(FeatureMaps.of(model, "stages.3"), images, 1)
    norm, linear = module.head.norm, module.head.fc
    closed = torch.from_numpy(
        layer_norm_weight(linear.weight[1].detach().numpy(), norm.weight.detach().numpy())
    ).float()
    sigma = (maps_BChw.mean((2, 3)).var(1, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(head.weight_BC * sigma[:, None], closed.expand(2, -1), atol=1e-5, rtol=1e-4)
    assert head.gap < 1e-4
    torch.testing.assert_close(head.logit_B, model(images)[:, 1])
    draw = torch.Generator().manual_seed(0)
    parts = Concepts.of([torch.randn(4, 320, generator=draw), torch.randn(2, 320, generator=draw)])
    total = parts.local_relevance(maps_BChw, head.weight_BC).mean((2, 3)).sum(1)
    torch.testing.assert_close(total, head.logit_B - head.base_B, atol=1e-4, rtol=1e-4)


def test_the_patch_half_of_a_head_with_a_class_token(tiny: Model) -> None:
    class Both(torch.nn.Module):
        """Tokens of a vision transformer, class token beside mean patch token, as builtin:vit-s14's head reads them."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=0, depth=2)
            self.cls_token, self.pos_embed, self.patch_embed = vit.cls_token, vit.pos_embed, vit.patch_embed
            self.blocks, self.head = vit.blocks, torch.nn.Linear(384, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1) + self.pos_embed
            x = self.blocks(x)
            return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))

    model = Model(Both(), tiny_card(), device="cpu")
    maps_BChw, head = class_weights(FeatureMaps.of(model, "blocks.1"), pictures(2, 32), 3)
    torch.testing.assert_close(head.weight_BC, model.module.head.weight[3, 192:].detach().expand(2, -1))  # type: ignore[union-attr, index]
    assert head.gap < 1e-4
    assert maps_BChw.shape == (2, 192, 2, 2)
