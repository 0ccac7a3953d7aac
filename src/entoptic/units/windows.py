"""Encoders that look at a window of positions: k×k convolutions on values B×C×D whose D positions lie on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, unfold

from entoptic.errors import UserError


def grid_of(positions: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of D positions: `grid` where it fits, else a square.

    Args:
        positions: D.
        grid: rows and columns that were recorded.

    Raises:
        UserError: neither fits.
    """
    if grid[0] * grid[1] == positions:
        return grid
    side = math.isqrt(positions)
    if side * side != positions:
        raise UserError(
            f"{positions} positions are no {grid[0]}×{grid[1]} map and no square one; "
            "a dictionary with a window of positions needs a map"
        )
    return side, side


def encode_windows(
    values_BCD: Tensor, encoder_KCkk: Tensor, bias_K: Tensor | None, grid: tuple[int, int], *, padding: int = -1
) -> Tensor:
    """Applies an encoder at every position: B×K×D, in float32 where the values are in half precision.

    A window of 1×1 needs no grid.

    Args:
        values_BCD: values of a layer.
        encoder_KCkk: one row a feature; k is odd.
        bias_K: added, or None.
        grid: rows and columns of the D positions.
        padding: zeros around the map; -1 for k // 2.
    """
    if values_BCD.dtype in (torch.float16, torch.bfloat16):
        values_BCD = values_BCD.float()
    weight = encoder_KCkk.to(values_BCD)
    bias = None if bias_K is None else bias_K.to(values_BCD)
    window = weight.shape[-1]
    if window == 1:
        pre_BKD = weight[:, :, 0, 0] @ values_BCD
        return pre_BKD if bias is None else pre_BKD + bias[:, None]
    maps_BChw = values_BCD.unflatten(2, grid_of(values_BCD.shape[2], grid))
    return conv2d(maps_BChw, weight, bias, padding=window // 2 if padding < 0 else padding).flatten(2)


def windows_of(values_BCD: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """Returns the window around every position as one vector: B×D×(C·k·k), in the order of a flattened encoder's row."""
    if window == 1:
        return values_BCD.mT
    maps_BChw = values_BCD.unflatten(2, grid_of(values_BCD.shape[2], grid))
    return unfold(maps_BChw, window, padding=window // 2).mT
