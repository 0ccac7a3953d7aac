"""BatchTopK autoencoders: the strongest features of a batch are kept (Bussmann et al. 2024, arXiv:2412.06410)."""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.dictionaries.network import Kind, SparseNet, count_threshold, reconstruction
from entoptic.dictionaries.recipe import DictionaryRecipe


def codes(net: SparseNet, pre_NK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Computes the k·N largest values of N positions together, negative ones as 0."""
    flat = pre_NK.flatten()
    found = flat.topk(min(recipe.active * len(pre_NK), len(flat)))
    return torch.zeros_like(flat).scatter(0, found.indices, found.values.relu()).view_as(pre_NK)


BATCH_TOPK = Kind(
    name="batchtopk", paper="arXiv:2412.06410", codes=codes, loss=reconstruction, thresholds=count_threshold
)
