"""Matryoshka autoencoders: the first features alone must reconstruct too (Bussmann et al. 2025, arXiv:2503.17547).

General features come first, special ones later. Codes are those of BatchTopK.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.dictionaries.batch_topk import codes
from entoptic.dictionaries.network import Kind, SparseNet, count_threshold, relative_error
from entoptic.dictionaries.recipe import DictionaryRecipe

GROUPS = (0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the features, each of which reconstructs alone."""


def prefixes(count: int) -> list[int]:
    """Returns how many of the first features each group holds, ascending, each number once."""
    return sorted({max(1, round(share * count)) for share in GROUPS})


def loss(net: SparseNet, pre_NK: Tensor, codes_NK: Tensor, y_NO: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the mean over the groups of the relative error."""
    found_NO, before, errors = net.decoder_bias.expand_as(y_NO), 0, []
    for size in prefixes(codes_NK.shape[1]):
        found_NO = found_NO + codes_NK[:, before:size] @ net.decoder[before:size]
        errors.append(relative_error(found_NO, y_NO))
        before = size
    return torch.stack(errors).mean()


MATRYOSHKA = Kind(name="matryoshka", paper="arXiv:2503.17547", codes=codes, loss=loss, thresholds=count_threshold)
