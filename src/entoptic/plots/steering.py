"""Overlays of a steered picture: the difference, the affected region, the photo."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from entoptic.base.pixels import opaque, quantise
from entoptic.inversion.steer import Steering

_EFFECT, _ACTIVE = (255, 120, 0), (0, 130, 255)  # colours of the overlays


def drawn(found: Steering, photo_3SS: Tensor) -> dict[str, np.ndarray]:
    """Pictures and overlays by name, S×S×4 or S×S×2 uint8.

    `photo`, `original`, `scale-A` of the sweep; `effect` (Δ in grey, its maximum white); over the photo: `overlay` (Δ, with
    the outline of the affected region) and `active` (the concept's activation, upsampled).
    """
    side = photo_3SS.shape[-1]
    active_SS = F.interpolate(found.activation_hw[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
    effect = _unit(found.delta_SS)
    maps = {
        "photo": opaque(photo_3SS.permute(1, 2, 0).numpy()), "original": opaque(quantise(found.originals_n3SS[0])),
        "overlay": outlined(_tint(found.delta_SS, _EFFECT), found.affected_SS.numpy()),
        "active": _tint(active_SS, _ACTIVE),
        "effect": np.stack([effect, np.full_like(effect, 255)], 2),
    }  # fmt: skip
    return maps | {f"scale-{a:g}": opaque(quantise(x)) for a, x in zip(found.scales, found.sweep_A3SS)}


def outlined(overlay: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The overlay with a white outline of the region on a black one, which are seen on any ground."""
    padded = np.pad(region, 1)
    inner = padded.copy()  # what is left after one erosion
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(padded, shift, axis)
    edge = (padded & ~inner)[1:-1, 1:-1]
    outside = np.pad(edge, 1)
    around = outside.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        around |= np.roll(outside, shift, axis)
    drawn = overlay.copy()
    drawn[around[1:-1, 1:-1] & ~region] = (0, 0, 0, 200)
    drawn[edge] = (255, 255, 255, 255)
    return drawn


def _unit(values: Tensor) -> np.ndarray:
    """0 to 255 of the maximum."""
    peak = float(values.max())
    return (255 * values / peak).round().byte().numpy() if peak > 0 else np.zeros(tuple(values.shape), np.uint8)


def _tint(values: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """A colour, the more opaque the larger the value."""
    alpha = (0.75 * _unit(values)).astype(np.uint8)
    return np.concatenate([np.broadcast_to(np.array(colour, np.uint8), (*alpha.shape, 3)), alpha[..., None]], 2)
