"""How much of VITAL's smoothness counts for which unit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from entoptic.configs import Vital
from entoptic.errors import UserError
from entoptic.methods.ascent import AscentStep
from entoptic.methods.contract import config_identity
from entoptic.methods.objectives import total_variation
from entoptic.methods.vital import smooth_share
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.units.unit import bind


def card(size: tuple[int, int], **more: Any) -> Card:
    return Card(
        name="stages", size=size, mean=(0.5,) * 3, std=(0.25,) * 3, licence="cc0-1.0", **{"labels": None} | more
    )


def network(size: tuple[int, int], *strides: int | tuple[int, int]) -> Model:
    """Convolutions of these strides, then a vector of classes."""
    stages = [nn.Conv2d(3 if k == 0 else 4, 4, 3, stride, 1) for k, stride in enumerate(strides)]
    module = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return Model(module, card(size, labels=tuple("abcde")), device="cpu")


def share(model: Model, unit: str, smooth_from: int = 16) -> float:
    return smooth_share(model, bind(model, [unit])[0], smooth_from)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("0:1", (2 / 16) ** 2), ("1:1", (8 / 16) ** 2), ("2:1", 1.0), ("3:1", 1.0), ("logits:1", 1.0)],
)
def test_finer_maps_have_less_by_the_square(unit: str, expected: float) -> None:
    assert share(network((224, 224), 2, 4, 2, 2), unit) == pytest.approx(expected)


def test_where_it_counts_in_full_can_be_chosen() -> None:
    model = network((224, 224), 2, 4, 2, 2)
    assert share(model, "1:1", 8) == 1.0
    assert share(model, "2:1", 32) == pytest.approx(0.25)


def test_a_combination_is_as_smooth_as_its_coarsest_part() -> None:
    model = network((224, 224), 2, 4, 2, 2)
    assert share(model, "0:1 + 1:2") == share(model, "1:1")


def test_a_network_of_small_pictures_has_less_for_its_classes_too() -> None:
    model = network((32, 32), 2, 2)
    assert share(model, "logits:1") == pytest.approx((32 / 224) ** 2)
    assert share(model, "0:1") == pytest.approx((2 / 16) ** 2)
    assert share(model, "1:1") == pytest.approx((32 / 224) ** 2), "a map is never smoother than a class"


def test_pictures_above_224_pixels_and_long_ones_have_no_more_than_all() -> None:
    assert share(network((448, 320), 4, 8), "logits:1") == 1.0
    assert share(network((448, 320), 4, 8), "0:1") == pytest.approx((4 / 16) ** 2)


def test_of_two_axes_the_finer_one_counts() -> None:
    """A stripe along the finer axis has the highest frequency."""
    model = network((32, 512), (1, 4), (1, 4))
    assert share(model, "0:1") == pytest.approx((1 / 16) ** 2)
    assert share(model, "1:1") == pytest.approx((1 / 16) ** 2)
    assert share(model, "logits:1") == pytest.approx((32 / 224) ** 2)


class Decoder(nn.Module):
    """A map of one position in 32 pixels, upsampled; `skip` adds the finer map of before, as a U-Net does."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.fine, self.down = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 8, 1)
        self.gate, self.up, self.last = nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=8), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        gated = fine * self.gate(fine.mean((2, 3), keepdim=True)).sigmoid()
        up = self.up(self.down(gated))
        return self.last(up + gated if self.skip else up)


@pytest.mark.parametrize(("skip", "expected"), [(False, 1.0), (True, (4 / 16) ** 2)])
def test_behind_upsampling_a_map_is_as_coarse_as_before_unless_something_finer_goes_round(
    skip: bool, expected: float
) -> None:
    model = Model(Decoder(skip), card((224, 224), no_logits="it has none"), device="cpu")
    assert share(model, "fine:1") == pytest.approx((4 / 16) ** 2)
    assert share(model, "down:1") == 1.0
    assert share(model, "up:1") == 1.0
    assert share(model, "last:1") == pytest.approx(expected)
    assert not any(module._forward_hooks for module in model.module.modules())


@pytest.mark.parametrize("make", ["lite0", "squeezenet", "regnet", "inception"])
def test_without_upsampling_every_layer_has_its_own_map_for_a_measure(make: str, lite0: Model) -> None:
    """Blocks of RegNet and Inception compute a coarser branch before a finer one: no way leads through it."""
    if make == "lite0":
        model = lite0
    else:
        size = 299 if make == "inception" else 224
        module = {
            "squeezenet": partial(models.squeezenet1_1),
            "regnet": partial(models.regnet_y_400mf),
            "inception": partial(models.inception_v3, aux_logits=False, init_weights=False),
        }[make](weights=None)
        model = Model(module.eval(), card((size, size), labels=None), device="cpu")
    before = {
        name: min(1.0, model.card.size[0] / 224, step / 16) ** 2
        for name, info in model.layers.items()
        if info.layout in ("BCHW", "BHWC") and info.channels > 1
        for step in [min(model.card.size[0] / info.grid[0], model.card.size[1] / info.grid[1])]
    }
    assert {name: share(model, f"{name}:1") for name in before} == before


def test_each_item_has_its_own_share() -> None:
    images = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    step = AscentStep({}, images, images, 1, [[], []])
    full, shared = total_variation()(step), total_variation([1.0, 0.25])(step)
    assert shared.tolist() == pytest.approx([float(full[0]), 0.25 * float(full[1])])


def test_pictures_of_layers_that_it_is_made_for_are_what_they_were(lite0: Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "vital", "steps": 2, "verifiers": "", "context": False, "progress": False}
    for unit in ("logits:207", "blocks.6:5"):
        now, before = (
            see(lite0, unit, out=tmp_path / unit.replace(":", "-") / str(start), smooth_from=start, **options)[0]
            for start in (Vital().smooth_from, 0)
        )
        assert torch.equal(now.tensor, before.tensor), unit


def test_pictures_of_finer_maps_differ(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "method": "vital",
        "steps": 3,
        "verifiers": "",
        "photos": photo_folder,
        "progress": False,
    }
    now, before = (
        see(tiny, "stage1:1", out=tmp_path / str(start), smooth_from=start, **options)[0] for start in (16, 0)
    )
    assert not torch.equal(now.tensor, before.tensor)


def test_a_picture_does_not_depend_on_its_neighbours(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "method": "vital",
        "steps": 3,
        "verifiers": "",
        "photos": photo_folder,
        "progress": False,
    }
    together = see(tiny, ["stage1:1", "logits:1"], out=tmp_path / "both", **options)
    alone = see(tiny, "stage1:1", out=tmp_path / "one", **options)[0]
    (beside,) = [picture for picture in together if picture.unit == alone.unit]
    assert (beside.tensor.float() - alone.tensor.float()).abs().max() <= 1 / 255


def test_a_run_of_before_is_known_by_its_recipe() -> None:
    assert "smooth_from" not in config_identity(replace(Vital(), smooth_from=0))
    assert config_identity(Vital())["smooth_from"] == 16


def test_a_share_below_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="smooth_from"):
        Vital(smooth_from=-1)
