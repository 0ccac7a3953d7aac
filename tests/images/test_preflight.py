"""A wrong card is told from the right one, with and without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import tiny_card
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.preflight import preflight
from entoptic.models.model import Model


@pytest.mark.slow
def test_preflight_tells_a_wrong_card_from_the_right_one(lite0: Model, shared_data: Path) -> None:
    folder = shared_data / "imagenette" / "val"
    good = preflight(lite0, folder, n=20)
    assert good.ok, good.message
    assert good.n == 20
    wrong = Model(lite0.module, lite0.card.with_(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")
    bad = preflight(wrong, folder, n=40)
    assert not bad.ok
    assert bad.message.startswith("the card of builtin:lite0 looks wrong: ")
    assert "range -1 … 1" in bad.message
    assert bad.message in bad._repr_html_()
    assert wrong.card.mean == (0.0,) * 3  # the trial cards are taken off again
    assert not any(m._forward_pre_hooks for m in lite0.module.modules())


def test_preflight_without_labels_reads_the_batchnorm_statistics(photo_folder: Path, tmp_path: Path) -> None:
    module: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    photos = Photos.open(photo_folder)
    ((_, images),) = photos.batches(tiny_card().prepare, 40)
    right = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    module.train()
    module[1].momentum = None
    module((images - 0.5) / 0.5)
    good = preflight(Model(module, tiny_card(labels=None, **right), device="cpu"), photos)
    assert good.ok, good.message
    wrong = Model(module, tiny_card(labels=None, mean=(0.0,) * 3, std=(1 / 255,) * 3), device="cpu")
    bad = preflight(wrong, photos)
    assert not bad.ok
    assert "BatchNorm statistics" in bad.message
    with pytest.raises(UserError, match="at least 1, got 0"):
        preflight(wrong, photos, n=0)
