"""ReLU autoencoders with an L1 penalty (Bricken et al. 2023, Cunningham et al. arXiv:2309.08600).

The weight of the penalty is steered so that as many features are active as the recipe asks for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.dictionaries.network import Kind, SparseNet, relative_error
from entoptic.dictionaries.recipe import DictionaryRecipe

FIRST = 0.02
"""Weight of the penalty at the start."""
PACE = 0.01
"""How fast its logarithm follows the number of active features."""


def codes(net: SparseNet, pre_NK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Computes max(pre, 0)."""
    return pre_NK.relu()


def loss(net: SparseNet, pre_NK: Tensor, codes_NK: Tensor, y_NO: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the relative error and the penalty on the codes' sum."""
    with torch.no_grad():
        active = (codes_NK > 0).sum(1).float().mean()
        move = PACE * (active / recipe.active).clamp(0.1, 10).log()
        net.after_step(level=(net.level + move).clamp(-8, 8))
    return relative_error(net.decode(codes_NK), y_NO) + FIRST * net.level.exp() * codes_NK.sum(1).mean()


def thresholds(net: SparseNet, pre_MK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns zeros."""
    return pre_MK.new_zeros(pre_MK.shape[1])


RELU = Kind(name="relu", paper="arXiv:2309.08600", codes=codes, loss=loss, thresholds=thresholds)
