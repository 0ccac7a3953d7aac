"""What a picture, a relevance map or a grouping holds of a planted cause, measured against the generator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from entoptic.planted.meter import blur, opponent

from .shapes import COLOURS, GRASS, RING

# Mean colours of what the generator paints.
PAINT: dict[str, tuple[float, float, float]] = {GRASS: (0.245, 0.51, 0.167), RING: COLOURS["red"]}
_HUE = math.radians(30)  # sand and brick lie 40° and 15° from the ring, but have less chroma than counts
_CHROMA = 0.3  # of the paint's own, so that pictures of low contrast count
_BLUR = 1.5  # pixels; pixel noise has a hue of its own


def share(image: Tensor, name: str) -> float:
    """Share of a picture's pixels, 0 to 1, that have the colour of "grass" or of a "red ring".

    Decided in the linear opponent colours ((R - G)/√2, (R + G - 2B)/√6) of the picture after a blur of 1.5 pixels: a
    pixel counts whose hue is within 30° of the paint's and whose chroma is at least 0.3 of it. A picture at half
    contrast thus keeps its share, and grey and noise have none.

    Args:
        image: 3×H×W in [0, 1]. name: a key of `PAINT`.
    """
    return float(colour_mask(image, name).float().mean())


def colour_mask(image: Tensor, name: str) -> Tensor:
    """H×W bool: the pixels that `share` counts."""
    pixels = opponent(blur(image, _BLUR))  # 2×H×W
    paint = opponent(torch.tensor(PAINT[name])[:, None, None])
    along = (pixels * paint).sum(0) / paint.norm(dim=0)
    chroma = pixels.norm(dim=0)
    return (chroma >= _CHROMA * paint.norm()) & (along >= math.cos(_HUE) * chroma)


def mass_on(map_HW: Tensor, mask_HW: Tensor, reach: int = 0) -> float:
    """Share of a non-negative map that lies on a mask, 0 to 1: where the relevance of a planted unit should be.

    Args:
        map_HW: relevance, at the mask's size or smaller (each cell is then spread over the pixels it stands for).
        mask_HW: bool. reach: pixels by which the mask is widened first.
    """
    height, width = mask_HW.shape
    rows, columns = height // map_HW.shape[0], width // map_HW.shape[1]
    spread = map_HW.clamp_min(0).double().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    mask = mask_HW[None].float()
    if reach:
        mask = torch.nn.functional.max_pool2d(mask, 2 * reach + 1, 1, reach)
    return float((spread * mask[0]).sum() / spread.sum()) if bool(spread.sum() > 0) else 0.0


def facet_purity(assignments: Sequence[Hashable], causes: Sequence[Hashable]) -> float:
    """Share of photos, 0 to 1, that show the most frequent cause of the facet they are in (cluster purity).

    Args:
        assignments: the facet of each photo. causes: what is planted in each, from `nets.causes`.

    One facet per photo is pure whatever it holds: read it beside the number of facets and `facet_coverage`.
    """
    groups: dict[Hashable, Counter[Hashable]] = {}
    for facet, cause in zip(assignments, causes, strict=True):
        groups.setdefault(facet, Counter())[cause] += 1
    return sum(max(group.values()) for group in groups.values()) / len(assignments)


def facet_coverage(assignments: Sequence[Hashable], causes: Sequence[Hashable]) -> float:
    """Share of the different causes, 0 to 1, that are the most frequent one in some facet."""
    groups: dict[Hashable, Counter[Hashable]] = {}
    for facet, cause in zip(assignments, causes, strict=True):
        groups.setdefault(facet, Counter())[cause] += 1
    return len({group.most_common(1)[0][0] for group in groups.values()}) / len(set(causes))
