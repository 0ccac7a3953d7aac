"""How fine what a layer sees can be: the finest maps that lie between the picture and the layer."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from entoptic.models.model import Model
from entoptic.models.taps import LayerInfo, Tap

MAPS = ("BCHW", "BHWC")

_known: WeakKeyDictionary[Model, dict[str, float]] = WeakKeyDictionary()


def grain(model: Model, layer: str) -> float:
    """Returns the pixels between neighbouring positions of the coarsest map on the finest way from the picture to a layer.

    For most layers that is their own map. Behind upsampling, as in a decoder, what was lost before does not come back: there
    it is the map that was upsampled, unless something finer goes round it, as the skip connections of a U-Net do.

    Only where a coarser map is computed before the layer a few passes up to it tell whether all ways lead through that map.

    Args:
        model: the network.
        layer: whose output is a map.
    """
    known = _known.setdefault(model, {})
    if layer not in known:
        info = model.layer(layer)
        own = _step(model, info.grid)
        before = [other for other in model.layers.values() if other.layout in MAPS and other.order < info.order]
        coarser = sorted({step for other in before if (step := _step(model, other.grid)) > own})
        known[layer] = next(
            (step for step in [own, *coarser] if not coarser or _reaches(model, layer, before, step)), own
        )
    return known[layer]


def _step(model: Model, grid: tuple[int, ...]) -> float:
    """Pixels between neighbouring positions, along the finer axis."""
    height, width = model.card.size
    return min(height / grid[0], width / grid[1])


def _reaches(model: Model, layer: str, before: list[LayerInfo], step: float) -> bool:
    """Whether a layer still depends on the picture when all maps before it that are coarser than a step are cut off."""
    modules = dict(model.module.named_modules())

    def cut(layout: str, _module: Any, _given: Any, out: Any) -> Any:
        if not isinstance(out, Tensor) or out.ndim != 4:
            return None
        grid = out.shape[2:] if layout == "BCHW" else out.shape[1:3]
        return out.detach() if _step(model, tuple(grid)) > step else None

    grey = torch.full((1, 3, *model.card.size), 0.5, device=model.device, requires_grad=True)
    handles = [modules[info.name].register_forward_hook(partial(cut, info.layout)) for info in before]
    try:
        with torch.enable_grad():
            return model.read(grey, [Tap(layer)])[Tap(layer)].requires_grad
    finally:
        for handle in handles:
            handle.remove()
