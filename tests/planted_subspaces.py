"""Vectors in random subspaces, for tests of clusters and concepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.units.concepts import Concepts


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oblique(seed: int = 0, channels: int = 24) -> Concepts:
    """Three concepts of 4, 2 and 3 dimensions at random angles, with a class's weights."""
    bases = [gaussian(p, channels, seed=seed * 10 + p) for p in (4, 2, 3)]
    return Concepts.of(bases, gaussian(channels, seed=seed * 10 + 9))


def planted(
    per: int = 40, channels: int = 40, dims: int = 5, clusters: int = 4, noise: float = 0.02, seed: int = 0
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Vectors in random subspaces, shuffled, with their labels and the subspaces' bases."""
    bases = [torch.linalg.qr(gaussian(channels, dims, seed=100 * seed + k)).Q.T for k in range(clusters)]
    rows = [gaussian(per, dims, seed=100 * seed + 50 + k) @ b for k, b in enumerate(bases)]
    vectors = torch.cat(rows) + noise * gaussian(per * clusters, channels, seed=seed + 7)
    labels = torch.arange(clusters).repeat_interleave(per)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return vectors[order], labels[order], bases


def rand_index(a: Tensor, b: Tensor) -> float:
    """Adjusted Rand index, from counts of pairs."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a.numpy(), b.numpy()), 1)

    def pairs(n: Any) -> Any:
        return n * (n - 1) / 2

    both, rows, columns = pairs(table).sum(), pairs(table.sum(1)).sum(), pairs(table.sum(0)).sum()
    chance = rows * columns / pairs(table.sum())
    return float((both - chance) / ((rows + columns) / 2 - chance))


def unit_rows(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)
