"""The unbiased squared maximum mean discrepancy (MMD) of two sets under any kernel, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval

BLOCK = 1000
"""Largest set whose pairs are all counted; larger ones are cut into blocks of at most this size."""
CHUNK = 2048

Kernel = Callable[[Tensor, Tensor], Tensor]


def cubic(x_NC: Tensor, y_MC: Tensor) -> Tensor:
    """Returns the kernel (x·y/C + 1)³ of KID, N×M."""
    return ((x_NC @ y_MC.T) / x_NC.shape[1] + 1) ** 3


def gaussian(bandwidth: float) -> Kernel:
    """Returns the kernel exp(-|x - y|²/(2 σ²)) with σ = `bandwidth`."""
    return lambda x, y: torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))


def unbiased(ka_NN: Tensor, kb_MM: Tensor, kab_NM: Tensor) -> float:
    """Returns the unbiased squared MMD from kernels within and between two sets; it may be negative."""
    n, m = len(ka_NN), len(kb_MM)
    within = (ka_NN.sum() - ka_NN.diagonal().sum()) / (n * (n - 1))
    within = within + (kb_MM.sum() - kb_MM.diagonal().sum()) / (m * (m - 1))
    return float(within - 2 * kab_NM.mean())


def jackknife(ka_NN: Tensor, kb_MM: Tensor, kab_NM: Tensor) -> tuple[float, float]:
    """Returns the 95 % interval of `unbiased` by the jackknife over the first set."""
    n, m = len(ka_NN), len(kb_MM)
    everything, rows = ka_NN.sum() - ka_NN.diagonal().sum(), ka_NN.sum(1) - ka_NN.diagonal()
    columns = kab_NM.sum(1)
    within_b = (kb_MM.sum() - kb_MM.diagonal().sum()) / (m * (m - 1))
    left_out = (everything - 2 * rows) / ((n - 1) * (n - 2)) + within_b
    left_out = left_out - 2 * (kab_NM.sum() - columns) / ((n - 1) * m)
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    value = unbiased(ka_NN, kb_MM, kab_NM)
    return value - 1.96 * error, value + 1.96 * error


def mmd(a_NC: Tensor, b_MC: Tensor, kernel: Kernel, block: int = BLOCK) -> tuple[float, tuple[float, float], int]:
    """Estimates the squared MMD, unbiased.

    Up to `block` pictures, all pairs count and the interval is the jackknife's over pictures. Above, the pictures are cut into
    blocks of nearly equal size: the value is the mean over blocks, the interval Student's. The set b is taken as it is.

    Args:
        a_NC: features of the pictures.
        b_MC: features of the reference.
        kernel: of two tables.
        block: largest number of pictures whose pairs are all counted.

    Returns:
        The value, its interval, and the number of blocks.
    """
    a, b = a_NC.double(), b_MC.double()
    if len(a) <= block and len(b) <= 2 * CHUNK:
        tables = kernel(a, a), kernel(b, b), kernel(a, b)
        return unbiased(*tables), jackknife(*tables), 1
    parts = a.tensor_split(max(2, math.ceil(len(a) / block)))
    within_b = mean_within(b, kernel)
    values = [
        mean_within(part, kernel) + within_b - 2 * sum(float(kernel(part, c).sum()) for c in b.split(CHUNK)) / (len(part) * len(b))
        for part in parts
    ]  # fmt: skip
    return sum(values) / len(values), mean_interval(values), len(parts)


def mean_within(x_NC: Tensor, kernel: Kernel) -> float:
    """Returns the mean kernel over pairs of different rows, without the whole table in memory.

    Args:
        x_NC: the rows, at least 2.
        kernel: of two tables.
    """
    n, total = len(x_NC), 0.0
    for i, rows in enumerate(x_NC.split(CHUNK)):
        for j, others in enumerate(x_NC.split(CHUNK)):
            table = kernel(rows, others)
            total += float(table.sum() - table.diagonal().sum() if i == j else table.sum())
    return total / (n * (n - 1))
