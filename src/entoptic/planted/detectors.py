"""Networks that find colours, stripes and shapes, with every weight written down: the lower layers of planted networks.

Only the thresholds were measured, once: each lies between what a detector gives on scenes with its cause and on those
without, for 600 scenes of seed 7. Tests use other scenes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from entoptic.planted.causes import COLOURS, SHAPES
from entoptic.planted.geometry import signed_distance

STD = 0.25
"""Of the networks' preprocessing, whose mean is mid-grey."""
STRIPES = ("rows", "columns")
PHASES = 4

STEM = (*COLOURS, *(f"{name} {phase}" for name in STRIPES for phase in range(PHASES)), "bright grain", "dark grain")
"""Channels of the first layer, 32×32."""
PARTS = (*COLOURS, "painted", *STRIPES)
"""Channels of the second layer, 32×32."""
FORMS = (*COLOURS, "painted", *STRIPES, *SHAPES, *(f"{colour} ring" for colour in COLOURS))
"""Channels of the third layer, 16×16."""

_SIDE = 7  # of the first layer's filters
_FORM = 17  # of the third layer's, in cells of 2 pixels
_RADIUS = 12 / 2  # of a shape, in those cells


def stem() -> nn.Conv2d:
    """Returns the first layer: opponent colours, four phases of stripes, and grain.

    A channel is 4 times (value - threshold) with the picture counted in [0, 1]: before a sigmoid, which then turns from
    0 to 1 within about half a unit of the detectors' own scale.
    """
    filters = torch.zeros(len(STEM), 3, _SIDE, _SIDE)
    bias = torch.zeros(len(STEM))
    middle = slice(_SIDE // 2 - 1, _SIDE // 2 + 2)
    # Weights of R, G and B: high on one paint and low on the three others.
    mixes = {"red": (1, -0.75, -0.25), "green": (-0.8, 1, -0.2), "blue": (-0.5, -0.5, 1), "yellow": (0.4, 0.6, -1)}
    for i, colour in enumerate(COLOURS):
        filters[i, :, middle, middle] = torch.tensor(mixes[colour], dtype=torch.float32)[:, None, None] / 9
        gain, threshold = _COLOUR_GAIN, _COLOUR_AT[colour]
        filters[i] *= gain
        bias[i] = -gain * threshold
    for axis in range(2):
        for phase in range(PHASES):
            i = STEM.index(f"{STRIPES[axis]} {phase}")
            filters[i] = _STRIPE_GAIN * _stripe(axis, phase) / 3
            bias[i] = -_STRIPE_GAIN * _STRIPE_AT
    fine = torch.zeros(_SIDE, _SIDE)
    fine[middle, middle] = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 4
    for sign, name in ((1, "bright grain"), (-1, "dark grain")):
        i = STEM.index(name)
        filters[i] = sign * _GRAIN_GAIN * fine / 3
        bias[i] = -_GRAIN_GAIN * _GRAIN_AT
    layer = nn.Conv2d(3, len(STEM), _SIDE, stride=2, padding=_SIDE // 2)
    _fill(layer, STD * filters, bias + filters.sum((1, 2, 3)) * 0.5)  # the input is (x - 0.5) / STD
    return layer


_COLOUR_GAIN = 14.0
_COLOUR_AT = {"red": 0.38, "green": 0.20, "blue": 0.22, "yellow": 0.4}
_STRIPE_GAIN, _STRIPE_AT = 60.0, 0.05
_GRAIN_GAIN, _GRAIN_AT = 60.0, 0.04


def _stripe(axis: int, phase: int) -> Tensor:
    """Gain 1 for the amplitude of stripes of period 4 that lie (axis 0) or stand; 0 for even paint and slopes."""
    x = torch.arange(_SIDE) - _SIDE // 2
    window = torch.cos(math.pi * x / (_SIDE + 1)) ** 2
    wave = torch.cos(math.pi / 2 * (x - phase)) * window
    wave = wave - window * wave.sum() / window.sum()
    across = window / window.sum()
    filter_HW = wave[:, None] * across[None] if axis == 0 else across[:, None] * wave[None]
    return 2 * filter_HW / window.sum()


def parts() -> nn.Conv2d:
    """Returns the second layer: colours and their sum as they are, and stripes of any phase around a position."""
    side = 5
    filters = torch.zeros(len(PARTS), len(STEM), side, side)
    bias = torch.full((len(PARTS),), -6.0)
    near = slice(side // 2 - 1, side // 2 + 2)
    for colour in COLOURS:
        filters[PARTS.index(colour), STEM.index(colour), near, near] = 12 / 9
        filters[PARTS.index("painted"), STEM.index(colour), near, near] = 12 / 9
    for name in STRIPES:
        for phase in range(PHASES):
            filters[PARTS.index(name), STEM.index(f"{name} {phase}")] = _STRIPED_GAIN / side**2
        bias[PARTS.index(name)] = -_STRIPED_GAIN * _STRIPED_AT
    layer = nn.Conv2d(len(STEM), len(PARTS), side, padding=side // 2)
    _fill(layer, filters, bias)
    return layer


_STRIPED_GAIN, _STRIPED_AT = 12.0, 1.06


def forms() -> nn.Conv2d:
    """Returns the third layer: what the second holds, averaged, and templates of shapes in any colour and in each."""
    filters = torch.zeros(len(FORMS), len(PARTS), _FORM, _FORM)
    bias = torch.full((len(FORMS),), -5.0)
    near = slice(_FORM // 2 - 1, _FORM // 2 + 2)
    for name in PARTS:
        filters[FORMS.index(name), PARTS.index(name), near, near] = 10 / 9
    for shape in SHAPES:
        filters[FORMS.index(shape), PARTS.index("painted")] = _FORM_GAIN * template(shape)
        bias[FORMS.index(shape)] = -_FORM_GAIN * _FORM_AT[shape]
    for colour in COLOURS:
        filters[FORMS.index(f"{colour} ring"), PARTS.index(colour)] = _FORM_GAIN * template("ring")
        bias[FORMS.index(f"{colour} ring")] = -_FORM_GAIN * _FORM_AT["ring"]
    layer = nn.Conv2d(len(PARTS), len(FORMS), _FORM, stride=2, padding=_FORM // 2)
    _fill(layer, filters, bias)
    return layer


_FORM_GAIN = 24.0
_FORM_AT = {"disc": 0.69, "ring": 0.26, "cross": 0.26}


def template(shape: str) -> Tensor:
    """Computes a shape's filter: 1 where it is painted all over and nothing around it, less for any other shape.

    Args:
        shape: one of `SHAPES`.

    Returns:
        17×17, in cells of 2 pixels.
    """

    def inside(name: str, radius: float) -> Tensor:
        middle = _FORM / 2
        return torch.from_numpy((signed_distance(name, middle, middle, radius, 0.0, _FORM) < 0).astype(np.float32))

    disc, hole = inside("disc", _RADIUS), inside("disc", 0.45 * _RADIUS)
    around = inside("disc", _RADIUS + 2.2) - inside("disc", _RADIUS + 1.0)
    cross = inside("cross", _RADIUS)
    gaps = inside("disc", _RADIUS) - inside("cross", _RADIUS * 1.15).clamp_max(1)
    stroke = disc - inside("disc", 0.6 * _RADIUS)

    def mean(mask: Tensor) -> Tensor:
        mask = mask.clamp_min(0)
        return mask / mask.sum()

    if shape == "ring":
        return mean(stroke) - mean(hole) - mean(around)
    if shape == "disc":
        return 0.5 * mean(gaps) + 0.5 * mean(hole) - mean(around)
    return mean(cross) - mean(gaps) - mean(around)


def _fill(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert layer.weight.shape == weight.shape
    layer.weight.data = weight.float()
    assert layer.bias is not None
    layer.bias.data = bias.float()
