"""Where in a picture a unit finds what it looks for: non-negative maps, for metrics of many photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.models.relevance import relevance
from entoptic.units.unit import Unit

Attribution = Callable[[Unit, Tensor], Tensor]
"""(unit, pictures B×3×H×W in [0, 1] of the input size) -> maps B×H×W ≥ 0."""
_BATCH = 16


def pixel_relevance(unit: Unit, images: Tensor) -> Tensor:
    """Returns the positive part of the unit's relevance at each pixel by the z⁺ rules, B×H×W on the CPU.

    A picture on which the unit is nowhere above 0 gets a map of zeros.

    Args:
        unit: the unit.
        images: B×3×H×W in [0, 1] of the input size.
    """
    found = []
    for batch in images.split(_BATCH):
        fires: list[Tensor] = []

        def start(values_BCD: Tensor, fires: list[Tensor] = fires) -> Tensor:
            fires.append(unit.map(values_BCD).amax(1) > 0)
            return unit.start(values_BCD)

        walked = relevance(unit.model, batch.to(unit.model.device), {unit.tap: start}, [], image=True).image
        assert walked is not None
        found.append((walked.sum(1).clamp_min(0) * fires[0][:, None, None]).float().cpu())
    return torch.cat(found)


def activation_map(unit: Unit, images: Tensor) -> Tensor:
    """Returns the positive part of the unit's own map, enlarged to the picture, B×H×W on the CPU.

    It costs no backward pass. A map says where the unit is active, not which pixels make it so.

    Args:
        unit: the unit, of a layer with positions.
        images: B×3×H×W in [0, 1] of the input size.
    """
    model, info, found = unit.model, unit.model.layer(unit.layer), []
    prefix, rows, columns = info.patches or (0, *info.grid)
    with torch.no_grad():
        for batch in images.split(_BATCH):
            values = model.read(batch.to(model.device), [unit.tap])[unit.tap]
            map_BhW = unit.map(values)[:, prefix:].unflatten(1, (rows, columns)).clamp_min(0).float().cpu()
            found.append(
                interpolate(map_BhW[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
            )
    return torch.cat(found)


ATTRIBUTIONS: Mapping[str, Attribution] = {"relevance": pixel_relevance, "activation": activation_map}
"""Attributions by name."""
