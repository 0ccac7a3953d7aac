"""Overlays of a steered picture: the difference, the affected region, the photo."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from entoptic.base.pixels import opaque, quantise
from entoptic.inversion.steer import Steering

_EFFECT, _ACTIVE = (255, 120, 0), (0, 130, 255)  # colours of the overlays


def steering_maps(found: Steering, photo_3SS: Tensor) -> dict[str, np.ndarray]:
    """Returns pictures and overlays of a steered concept by name, S×S×4 (RGB and alpha) or S×S×2 (grey and alpha) uint8.

    `photo`, `original` and one `scale-A` for each strength A of the sweep are pictures. `effect` is the difference Δ in grey,
    its maximum white. Over the photo lie `overlay`, Δ with the outline of the affected region, and `active`, the concept's
    activation, upsampled.

    Args:
        found: the steered concept.
        photo_3SS: 3×S×S uint8.
    """
    side = photo_3SS.shape[-1]
    active_SS = F.interpolate(found.activation_hw[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
    effect = _grey(found.delta_SS)
    maps = {
        "photo": opaque(photo_3SS.permute(1, 2, 0).numpy()), "original": opaque(quantise(found.originals_n3SS[0])),
        "overlay": outlined(_tint(found.delta_SS, _EFFECT), found.affected_SS.numpy()),
        "active": _tint(active_SS, _ACTIVE),
        "effect": np.stack([effect, np.full_like(effect, 255)], 2),
    }  # fmt: skip
    return maps | {f"scale-{a:g}": opaque(quantise(x)) for a, x in zip(found.scales, found.sweep_A3SS)}


def outlined(overlay: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns an overlay with a white outline of a region, and a black one around it, so that any background shows it.

    Args:
        overlay: H×W×4 uint8, RGB and alpha.
        region: H×W bool.
    """
    padded = np.pad(region, 1)
    inner = padded.copy()  # the region after one erosion
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(padded, shift, axis)
    edge = (padded & ~inner)[1:-1, 1:-1]
    outside = np.pad(edge, 1)
    around = outside.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        around |= np.roll(outside, shift, axis)
    result = overlay.copy()
    result[around[1:-1, 1:-1] & ~region] = (0, 0, 0, 200)
    result[edge] = (255, 255, 255, 255)
    return result


def _grey(values: Tensor) -> np.ndarray:
    """Values ≥ 0 as uint8, their maximum at 255."""
    peak = float(values.max())
    return (255 * values / peak).round().byte().numpy() if peak > 0 else np.zeros(tuple(values.shape), np.uint8)


def _tint(values: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """Values ≥ 0 as a colour with alpha, more opaque where the value is larger."""
    alpha = (0.75 * _grey(values)).astype(np.uint8)
    return np.concatenate([np.broadcast_to(np.array(colour, np.uint8), (*alpha.shape, 3)), alpha[..., None]], 2)
