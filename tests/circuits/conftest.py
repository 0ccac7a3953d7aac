"""A tiny network that recognises the tiny photos, so that there is a circuit to find."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import LABELS, tiny_card, tiny_module
from entoptic.images.photos import Photos
from entoptic.models.model import Model


def fitted_module(folder: Path) -> nn.Module:
    """The tiny network with a head fitted to the labels of photos by least squares."""
    net = tiny_module().eval()
    model, photos = Model(net, tiny_card(), device="cpu"), Photos.open(folder)
    ((numbers, images),) = photos.batches(model.card.prepare, len(photos))
    with torch.no_grad():
        features = net[:-1](model.normalise(images))
    wanted = torch.tensor([LABELS.index(photos[i].labels[0]) for i in numbers])
    targets = 10 * nn.functional.one_hot(wanted, len(LABELS)).float() - 5
    solution = torch.linalg.lstsq(torch.cat([features, torch.ones(len(features), 1)], 1), targets).solution
    net.head.weight.data, net.head.bias.data = solution[:-1].T.contiguous(), solution[-1].contiguous()
    return net


@pytest.fixture
def fitted(photo_folder: Path) -> Model:
    """The tiny network, which recognises most of the tiny photos."""
    return Model(fitted_module(photo_folder), tiny_card(), device="cpu")
