"""Spearman's rank correlation with its interval."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_Z = 1.959964


def ranks(values_NM: Tensor) -> Tensor:
    """Returns the ranks of each column's values, from 0; equal values share the mean of their ranks.

    Args:
        values_NM: N×M.
    """
    columns = []
    for column in values_NM.double().unbind(1):
        order = column.argsort(stable=True)
        _, group, sizes = column[order].unique_consecutive(return_inverse=True, return_counts=True)
        ends = sizes.cumsum(0)
        mean = (2 * ends - sizes - 1).double() / 2
        rank = torch.empty_like(column)
        rank[order] = mean[group]
        columns.append(rank)
    return torch.stack(columns, 1) if columns else values_NM.double()


def correlations(ranks_NM: Tensor, ranks_N: Tensor) -> Tensor:
    """Returns Spearman's correlation of each of M columns with one; 0 where one of both does not vary.

    Args:
        ranks_NM: ranks of the columns.
        ranks_N: ranks of the one.
    """
    a, b = ranks_NM - ranks_NM.mean(0), ranks_N - ranks_N.mean()
    size = a.norm(dim=0) * b.norm()
    return torch.where(size > 0, (b @ a) / size.clamp_min(1e-300), 0.0).clamp(-1, 1)


def interval(rho: float, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of Spearman's correlation (Bonett and Wright 2000).

    Fisher's z of it is about normal with variance (1 + ρ²/2)/(n - 3).

    Args:
        rho: the correlation.
        n: pairs, more than 3.
    """
    if abs(rho) >= 1:
        return rho, rho
    width = _Z * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - width), math.tanh(math.atanh(rho) + width)
