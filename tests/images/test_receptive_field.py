"""Receptive fields against the closed form, and the crops that hits are shown by."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.images.build_index import build_index
from entoptic.images.photos import Photos
from entoptic.images.receptive_field import crop, crop_box, receptive_field
from entoptic.models.model import Model


class Head(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def model_of(*layers: nn.Module, size: int = 64) -> Model:
    torch.manual_seed(0)
    return Model(nn.Sequential(*layers, Head()), tiny_card(size=(size, size), labels=None), device="cpu")


def by_rule(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, int]:
    """(size, stride, start) of a chain of (kernel, stride, padding, dilation), by the well-known recursion."""
    size, stride, start = 1, 1, 0
    for kernel, step, padding, dilation in layers:
        size += dilation * (kernel - 1) * stride
        start -= padding * stride
        stride *= step
    return size, stride, start


@pytest.mark.parametrize(
    "chain",
    [
        [(3, 1, 1, 1)],
        [(3, 2, 1, 1), (3, 2, 1, 1)],
        [(5, 2, 0, 1), (3, 1, 2, 2), (2, 2, 0, 1)],
        [(7, 2, 3, 1), (3, 1, 1, 1), (3, 2, 1, 1), (1, 1, 0, 1)],
    ],
)
def test_chains_of_convolutions_follow_the_closed_form(chain: list[tuple[int, int, int, int]]) -> None:
    layers: list[nn.Module] = []
    for i, (kernel, stride, padding, dilation) in enumerate(chain):
        layers += [nn.Conv2d(3 if i == 0 else 6, 6, kernel, stride, padding, dilation), nn.ReLU(inplace=True)]
    model = model_of(*layers)
    size, stride, start = by_rule(chain)
    field = receptive_field(model, str(len(layers) - 1))
    assert field.size == (size, size)
    assert field.stride == (stride, stride)
    assert field.start == (start, start)
    assert receptive_field(model, str(len(layers) - 1)) is field
    # The box is the field, clipped.
    side = model.layer(str(len(layers) - 1)).grid[0]
    for row, column in ((0, side - 1), (side // 2, 1)):
        low_y, low_x = start + row * stride, start + column * stride
        top, left, height, width = crop_box(model, str(len(layers) - 1), row, column)
        assert (top, left) == (max(0, low_y), max(0, low_x))
        assert (top + height, left + width) == (min(64, low_y + size), min(64, low_x + size))


def test_pooling_branches_and_axes_apart() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, (3, 9), padding=(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.max_pool2d(self.near(x) + self.far(x), 2)  # no module says so

    field = receptive_field(model_of(Branches()), "0")
    assert field.size[0] in (3, 4)  # a maximum looks at one of its two rows at a time
    assert field.size[1] in (9, 10)
    assert field.stride == (2, 2)


def test_what_sees_everything_gets_a_square_around_its_centre() -> None:
    class Gate(nn.Module):  # squeeze and excite
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    model = model_of(nn.Conv2d(3, 6, 4, 4), Gate())
    assert receptive_field(model, "0").size == (4, 4)
    field = receptive_field(model, "1")
    assert (field.size, field.stride) == ((64, 64), (0, 0))
    assert crop_box(model, "1", 8, 8) == (18, 18, 32, 32)
    assert crop_box(model, "1", 0, 15) == (0, 32, 32, 32)
    assert crop_box(model, "1", 8, 8, max_share=0.25) == (26, 26, 16, 16)
    assert crop_box(model, "logits", 0, 0) == (0, 0, 64, 64)
    with pytest.raises(UserError, match="rows 0 to 15"):
        crop_box(model, "1", 16, 0)
    with pytest.raises(UserError, match="max_share"):
        crop_box(model, "1", 0, 0, max_share=2)


def test_the_model_stays_as_it_was() -> None:
    model = model_of(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    model.module.train()
    receptive_field(model, "1")
    assert model.module.training
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    assert not any(m._forward_hooks for m in model.module.modules())


def test_tokens_lie_where_their_patch_lies() -> None:
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=3, num_classes=5, reg_tokens=2
    )
    model = Model(vit, tiny_card(name="vit"), device="cpu")
    assert receptive_field(model, "patch_embed").size == (8, 8)
    assert crop_box(model, "patch_embed", 6, 0) == (8, 16, 8, 8)
    assert model.layer("blocks.0").grid == (19, 1)
    assert receptive_field(model, "blocks.0").size == (32, 32)
    assert crop_box(model, "blocks.0", 0, 0) == (0, 0, 32, 32)  # the class token
    assert crop_box(model, "blocks.0", 3 + 6, 0) == (4, 12, 16, 16)  # 16×16 around the centre of its patch
    assert crop_box(model, "blocks.0.attn.q_norm", 1, 0) == (0, 0, 32, 32)  # a register
    ending = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=12, depths=(1, 1),
                               num_heads=(2, 2), num_classes=5)  # fmt: skip
    swin = Model(ending, tiny_card(name="swin", size=(64, 64)), device="cpu")
    assert swin.layer("layers.0").layout == "BHWC"
    assert receptive_field(swin, "layers.0").size == (8, 8)  # its window
    assert crop_box(swin, "layers.0", 5, 5)[2:] != (64, 64)


def test_a_hits_crop_is_that_part_of_its_photo(photo_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_of(nn.Conv2d(3, 4, 8, 8), size=32)
    photos = Photos.open(photo_folder)
    index = build_index(model, photos, ["0"], out=tmp_path / "i", k=3, readouts=("", "max"))
    hit = index.top("0:2@max", 1)[0]
    picture = photos.read(hit.index)
    assert picture is not None
    top, left, height, width = crop_box(model, "0", hit.row, hit.column)
    assert (top, left, height, width) == (8 * hit.row, 8 * hit.column, 8, 8)
    cut = model.card.prepare(picture)[None, :, top : top + height, left : left + width]
    assert torch.equal(crop(model, photos, hit), model.fit(cut)[0])
    weight = model.module[0].weight[2]  # type: ignore[index,union-attr]
    value = (model.normalise(cut)[0] * weight).sum() + model.module[0].bias[2]  # type: ignore[index,union-attr]
    assert hit.value == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-5)
    moved = photos.subset(range(len(photos) - 1, -1, -1))
    assert torch.equal(crop(model, moved, hit), crop(model, photos, hit))
    with pytest.raises(UserError, match="is not in"):
        crop(model, photos.subset([i for i in range(len(photos)) if i != hit.index]), hit)
