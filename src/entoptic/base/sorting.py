"""Sorting rows of numbers with their places, which distribution matching does at every step.

On a CPU, torch sorts pairs of value and place by comparisons. Here each pair becomes one 64-bit integer, the value's bits
above the place's, and NumPy sorts those with vector instructions, which is several times faster. Equal values keep the
order of their places. Other devices and kinds of numbers use torch's stable sort, which has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 16
"""Values that one thread sorts sooner than several threads start."""
_LOW = np.int64(0x7FFFFFFF)
_PLACE = np.int64(0xFFFFFFFF)


def sort_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts the last dimension, equal values in the order of their places and NaN last.

    Args:
        values: …×D.

    Returns:
        The sorted values …×D and their places …×D int64, both without gradients.
    """
    if not _takes(values):
        values_sorted, places = torch.sort(values.detach(), dim=-1, stable=True)
        return values_sorted, places
    rows_RD = _rows(values)
    sorted_RD, places_RD = np.empty_like(rows_RD), np.empty(rows_RD.shape, np.int64)

    def part(first: int, last: int) -> None:
        bits_RD = rows_RD[first:last].view(np.int32)
        keys_RD = bits_RD.astype(np.int64)
        # Negative numbers: the larger their other bits, the smaller they are.
        keys_RD ^= (keys_RD >> 63) & _LOW
        keys_RD <<= 32
        keys_RD |= np.arange(keys_RD.shape[1], dtype=np.int64)
        keys_RD.sort(axis=-1)
        np.bitwise_and(keys_RD, _PLACE, out=places_RD[first:last])
        keys_RD >>= 32
        keys_RD ^= (keys_RD >> 63) & _LOW
        sorted_RD[first:last] = keys_RD.astype(np.int32).view(np.float32)

    _in_parts(part, *rows_RD.shape)
    return torch.from_numpy(sorted_RD).view(values.shape), torch.from_numpy(places_RD).view(values.shape)


def sorted_rows(values: Tensor) -> Tensor:
    """Sorts the last dimension, NaN last: …×D without gradients.

    Args:
        values: …×D.
    """
    if not _takes(values):
        return values.detach().sort(dim=-1).values
    rows_RD = _rows(values).copy()
    _in_parts(lambda first, last: rows_RD[first:last].sort(axis=-1), *rows_RD.shape)
    return torch.from_numpy(rows_RD).view(values.shape)


def _takes(values: Tensor) -> bool:
    """Whether NumPy sorts these: float32 on a CPU, and no NaN, whose sign bit would put some of them first."""
    plain = values.device.type == "cpu" and values.dtype == torch.float32 and values.ndim > 0 and values.numel() > 0
    return plain and not bool(values.isnan().any())


def _rows(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().view(-1, values.shape[-1]).numpy()


def _in_parts(sort: Callable[[int, int], None], rows: int, length: int) -> None:
    """Calls `sort` for ranges of rows, in as many threads as torch uses. The result does not depend on their number."""
    threads = min(torch.get_num_threads(), rows, max(1, rows * length // _SMALL))
    edges = [rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        sort(0, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sort, edges[:-1], edges[1:]))
