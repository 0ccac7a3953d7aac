"""Arithmetic with feature maps: mixtures, parts of one map in another, steps between classes, and controls.

All functions take and return maps B×C×h×w (or C×h×w) and change nothing in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from entoptic.errors import UserError, counted, nearest

MIXINGS = ("linear", "norm", "slerp")


def interpolate(a_Chw: Tensor, b_Chw: Tensor, weight: float, mixing: str = "linear") -> Tensor:
    """Returns a mixture of two maps: `a` at weight 0, `b` at weight 1; other weights extrapolate.

    Args:
        a_Chw: first map.
        b_Chw: second map, of the same shape.
        weight: λ, finite.
        mixing: "linear" is (1-λ)·a + λ·b, whose vectors are shorter than those of photos where a and b differ;
            "norm" has the same directions with the norms (1-λ)|a| + λ|b| at each position (0 where that is negative);
            "slerp" has directions on the great circle from a to b at each position, with the norms of "norm".

    Raises:
        UserError: maps of different shapes, an unknown mixing, a weight that is not finite.
    """
    _require_same_shape(a_Chw, b_Chw)
    if mixing not in MIXINGS:
        raise UserError(f'no mixing "{mixing}"; there are {", ".join(MIXINGS)}{nearest(mixing, MIXINGS)}')
    if not math.isfinite(weight):
        raise UserError(f"a weight of a mixture must be a number, got {weight}")
    if weight in (0, 1):
        return (b_Chw if weight else a_Chw).clone()
    straight = (1 - weight) * a_Chw + weight * b_Chw
    if mixing == "linear":
        return straight
    norm_a, norm_b = (x.norm(dim=-3, keepdim=True) for x in (a_Chw, b_Chw))
    norms = ((1 - weight) * norm_a + weight * norm_b).clamp_min(0)
    directions = normalize(straight, dim=-3, eps=1e-30)
    if mixing == "slerp":
        directions = _slerp_directions(a_Chw, b_Chw, weight, directions)
    return directions * norms


def _slerp_directions(a: Tensor, b: Tensor, weight: float, otherwise: Tensor) -> Tensor:
    """Returns unit vectors on the great circle from a to b; `otherwise` where they are parallel, opposite or 0."""
    one, two = (normalize(x.double(), dim=-3, eps=1e-30) for x in (a, b))
    # atan2 of |a-b| and |a+b| is accurate for small angles, where arccos is not.
    angle = 2 * torch.atan2((one - two).norm(dim=-3, keepdim=True), (one + two).norm(dim=-3, keepdim=True))
    sine = angle.sin()
    found = (((1 - weight) * angle).sin() * one + (weight * angle).sin() * two) / sine.clamp_min(1e-30)
    lost = (sine.abs() < 1e-6) | (one == 0).all(-3, keepdim=True) | (two == 0).all(-3, keepdim=True)
    return torch.where(lost, otherwise, found.to(a))


def compose(a_Chw: Tensor, b_Chw: Tensor, mask_hw: Tensor) -> Tensor:
    """Returns `b` where the mask is true, `a` elsewhere.

    Args:
        a_Chw: the map outside.
        b_Chw: the map inside, of the same shape.
        mask_hw: bool.

    Raises:
        UserError: maps of different shapes, or a mask of another grid.
    """
    _require_same_shape(a_Chw, b_Chw)
    if mask_hw.shape != a_Chw.shape[-2:] or mask_hw.dtype != torch.bool:
        raise UserError(
            f"expected a mask of {'×'.join(map(str, a_Chw.shape[-2:]))} bools for these maps, "
            f"got {tuple(mask_hw.shape)} of {mask_hw.dtype}"
        )
    return torch.where(mask_hw.to(a_Chw.device), b_Chw, a_Chw)


def region_mask(grid: tuple[int, int], region: Sequence[float], *, pixels: tuple[int, int] | None = None) -> Tensor:
    """Returns the cells of a rectangle as a mask h×w, bool.

    Args:
        grid: (h, w).
        region: top, left, bottom, right; the bottom row and right column are the first ones outside.
        pixels: (height, width) of the picture if the rectangle is in pixels; a cell then counts if its centre is inside.
            None if the rectangle is in cells.

    Raises:
        UserError: a rectangle that is empty, leaves the grid, or holds the centre of no cell.
    """
    if len(region) != 4:
        raise UserError(f"a region is top, left, bottom, right, got {counted(len(region), 'number')}")
    height, width = pixels or grid
    top, left, bottom, right = region
    what = "pixels" if pixels else "cells"
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"the region {','.join(f'{x:g}' for x in region)} is not inside {height}×{width} {what}; "
            f"expected 0 ≤ top < bottom ≤ {height} and 0 ≤ left < right ≤ {width}"
        )
    rows, columns = ((torch.arange(n) + 0.5) * (size / n) for n, size in zip(grid, (height, width)))
    mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
    if not mask.any():
        raise UserError(f"the region holds the middle of no cell; one cell is {height / grid[0]:g}×{width / grid[1]:g}")
    return mask


def class_mean(maps_NChw: Tensor) -> Tensor:
    """Returns the mean vector of a class's maps N×C×h×w over photos and positions, C×1×1."""
    return maps_NChw.double().mean((0, 2, 3)).to(maps_NChw)[:, None, None]


def class_edit(map_Chw: Tensor, mean_from: Tensor, mean_to: Tensor, weight: float = 1.0) -> Tensor:
    """Returns map + weight·(mean_to - mean_from), a step from one class towards another; away from it for weights below 0.

    Args:
        map_Chw: the map to edit.
        mean_from: C×1×1 (`class_mean`, the same step everywhere) or C×h×w.
        mean_to: the same for the other class.
        weight: length of the step.
    """
    return map_Chw + weight * (mean_to - mean_from)


def shuffle(maps_BChw: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Returns maps with their vectors at random other positions, a control that keeps everything but the positions.

    Args:
        maps_BChw: B×C×h×w.
        generators: one for each map.
    """
    rows = []
    for map_Chw, generator in zip(maps_BChw, generators, strict=True):
        order = torch.randperm(map_Chw[0].numel(), generator=generator)
        rows.append(map_Chw.flatten(1)[:, order.to(map_Chw.device)].reshape(map_Chw.shape))
    return torch.stack(rows)


def pooled_grid(maps_BChw: Tensor, cells: int) -> Tensor:
    """Returns maps averaged over a grid of cells×cells, at their own resolution: what a map holds at a lower resolution.

    Position i belongs to cell ⌊i·cells/h⌋, so cells do not overlap. With one cell every position has the mean vector.

    Args:
        maps_BChw: B×C×h×w.
        cells: cells per side, ≥ 1.

    Raises:
        UserError: more cells than positions.
    """
    height, width = maps_BChw.shape[-2:]
    if not 1 <= cells <= min(height, width):
        raise UserError(
            f"a map of {height}×{width} can be pooled to 1 to {min(height, width)} cells a side, not {cells}"
        )
    means = []
    for size in (height, width):
        owner = torch.arange(size) * cells // size
        same = (owner[:, None] == owner[None]).to(maps_BChw)
        means.append(same / same.sum(1, keepdim=True))
    return means[0] @ maps_BChw @ means[1].T


# --- locality ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Locality:
    """How much a picture changes at each distance from an edit.

    Attributes:
        distances: 0 inside the region, then k = 1, 2, … for distances in (k-1, k] cells from it.
        changes: mean change at each.
        pixels: number of pixels at each.
        inside: mean change in the region.
        outside: mean change more than one cell away; NaN if there is no such pixel.
        ratio: inside / outside, or None if that is not a number.
    """

    distances: list[float]
    changes: list[float]
    pixels: list[int]
    inside: float
    outside: float
    ratio: float | None


def pixel_change(before_3HW: Tensor, after_3HW: Tensor) -> Tensor:
    """Returns the Euclidean distance of the RGB values at each pixel, H×W.

    Raises:
        UserError: pictures of different sizes.
    """
    if before_3HW.shape != after_3HW.shape:
        raise UserError(f"pictures of {tuple(before_3HW.shape)} and {tuple(after_3HW.shape)} cannot be compared")
    return (after_3HW - before_3HW).square().sum(0).sqrt()


def cell_distance(mask_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the distance of each pixel's centre from the cells of the mask, H×W in cells; 0 inside them.

    Args:
        mask_hw: bool.
        size: (H, W) in pixels.

    Raises:
        UserError: an empty mask.
    """
    if not mask_hw.any():
        raise UserError("the region is empty")
    height, width = size
    rows = (torch.arange(height) + 0.5) * (mask_hw.shape[0] / height)
    columns = (torch.arange(width) + 0.5) * (mask_hw.shape[1] / width)
    nearest_HW = torch.full(size, math.inf)
    for row, column in mask_hw.nonzero().tolist():
        down = (row - rows).clamp_min(0) + (rows - row - 1).clamp_min(0)
        across = (column - columns).clamp_min(0) + (columns - column - 1).clamp_min(0)
        nearest_HW = torch.minimum(nearest_HW, torch.hypot(down[:, None], across[None]))
    return nearest_HW


def locality(change_HW: Tensor, mask_hw: Tensor) -> Locality:
    """Returns the locality curve of an edit; a margin of one cell is left out of `outside`.

    Args:
        change_HW: see `pixel_change`.
        mask_hw: the edited cells, bool.
    """
    change_HW = change_HW.cpu().double()
    far_HW = cell_distance(mask_hw.cpu(), (change_HW.shape[0], change_HW.shape[1]))
    ring_HW = far_HW.ceil().long()
    counts = torch.bincount(ring_HW.flatten())
    sums = torch.bincount(ring_HW.flatten(), change_HW.flatten())
    there = counts.nonzero().flatten().tolist()
    inside, outside = (float(change_HW[where].mean()) for where in (far_HW == 0, far_HW > 1))
    ratio = inside / outside if outside > 0 else None
    return Locality(
        [float(d) for d in there], [float(sums[d] / counts[d]) for d in there], [int(counts[d]) for d in there],
        inside, outside, ratio,
    )  # fmt: skip


def _require_same_shape(a: Tensor, b: Tensor) -> None:
    """Checks that two maps have one shape.

    Raises:
        UserError: they do not.
    """
    if a.shape != b.shape:
        raise UserError(f"maps of {tuple(a.shape)} and {tuple(b.shape)} cannot be mixed; expected two of one layer")
