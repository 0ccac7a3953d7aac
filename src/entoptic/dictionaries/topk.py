"""TopK autoencoders: the strongest features of each position are kept (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.dictionaries.network import Kind, SparseNet, count_threshold, reconstruction
from entoptic.dictionaries.recipe import DictionaryRecipe


def codes(net: SparseNet, pre_NK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Computes the k largest values of each position, negative ones as 0."""
    found = pre_NK.topk(recipe.active, dim=1)
    return torch.zeros_like(pre_NK).scatter(1, found.indices, found.values.relu())


TOPK = Kind(name="topk", paper="arXiv:2406.04093", codes=codes, loss=reconstruction, thresholds=count_threshold)
