"""A network with one unit that is an exactly linear function of the picture, so that its tilts have closed forms.

The unit is read where any unit is: an inner channel of a convolution, averaged over its map, before an activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.priors.toy import GaussianMixture

SIZE, FIELD, STD = 16, 8, 0.25
SCALE, OFFSET = 0.15, 0.5
"""Pictures are OFFSET + SCALE·x0."""
UNIT = "planted:1"
BIAS = 0.3


def template() -> Tensor:
    """3×8×8, of norm 1."""
    weights = torch.randn(3, FIELD, FIELD, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return weights / weights.norm()


def direction() -> Tensor:
    """3×16×16 of norm 1: `UNIT` reads BIAS + gain·SLOPE·⟨direction, x0⟩."""
    return template().repeat(1, 2, 2) / 2


SLOPE = SCALE / (2 * STD)
"""The mean over the four patches is ⟨tiled template, picture⟩/4, and the tiled template is 2·direction."""


def linear_model(gain: float = 1.0) -> Model:
    draw = torch.Generator().manual_seed(6)
    module = nn.Sequential()
    module.add_module("planted", nn.Conv2d(3, 4, FIELD, stride=FIELD))
    module.add_module("act", nn.ReLU())
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(4, 3))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / 10
    module.planted.weight.data[1] = gain * template().float()  # type: ignore[union-attr, operator]
    module.planted.bias.data[1] = BIAS  # type: ignore[union-attr, operator]
    card = Card(name="linear", size=(SIZE, SIZE), mean=(OFFSET,) * 3, std=(STD,) * 3, labels=("a", "b", "c"))
    return Model(module, card, device="cpu")


def along(weights: list[float], places: list[float], sd: float) -> GaussianMixture:
    """Pictures whose ⟨direction, x0⟩ is the mixture of N(place, sd²), and which vary as much in all other directions."""
    means = torch.tensor(places, dtype=torch.float64)[:, None, None, None] * direction()
    return GaussianMixture(
        torch.tensor(weights), means, torch.full_like(means, sd**2), linear_schedule=True, scale=SCALE, offset=OFFSET
    )
