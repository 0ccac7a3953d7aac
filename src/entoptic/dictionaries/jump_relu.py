"""JumpReLU autoencoders: every feature learns its own threshold (Rajamanoharan et al. 2024, arXiv:2407.14435).

A step has no gradient. Its threshold gets that of a window of width ε around it, an estimate of the density of
pre-activations there. The penalty is on the distance of the number of active features from what the recipe asks for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entoptic.dictionaries.network import Kind, SparseNet, relative_error
from entoptic.dictionaries.recipe import DictionaryRecipe

WINDOW = 0.05
"""ε, in lengths of normalised values."""
WEIGHT = 0.2
"""Of the penalty."""


class Jump(torch.autograd.Function):
    """pre where it is above θ, else 0."""

    @staticmethod
    def forward(ctx: Any, pre_NK: Tensor, threshold_K: Tensor) -> Tensor:
        ctx.save_for_backward(pre_NK, threshold_K)
        return torch.where(pre_NK > threshold_K, pre_NK, torch.zeros_like(pre_NK))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        pre_NK, threshold_K = ctx.saved_tensors
        near = (pre_NK - threshold_K).abs() < WINDOW / 2
        return gradient * (pre_NK > threshold_K), (-threshold_K / WINDOW * near * gradient).sum(0)


class Active(torch.autograd.Function):
    """1 where pre is above θ, else 0."""

    @staticmethod
    def forward(ctx: Any, pre_NK: Tensor, threshold_K: Tensor) -> Tensor:
        ctx.save_for_backward(pre_NK, threshold_K)
        return (pre_NK > threshold_K).to(pre_NK.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        pre_NK, threshold_K = ctx.saved_tensors
        near = (pre_NK - threshold_K).abs() < WINDOW / 2
        return None, (-1 / WINDOW * near * gradient).sum(0)


def codes(net: SparseNet, pre_NK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Computes pre where it is above the feature's threshold."""
    return Jump.apply(pre_NK, net.log_threshold.exp())


def loss(net: SparseNet, pre_NK: Tensor, codes_NK: Tensor, y_NO: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the relative error and the penalty (L0/active - 1)²."""
    active = Active.apply(pre_NK, net.log_threshold.exp()).sum(1).mean()
    return relative_error(net.decode(codes_NK), y_NO) + WEIGHT * (active / recipe.active - 1).square()


def thresholds(net: SparseNet, pre_MK: Tensor, recipe: DictionaryRecipe) -> Tensor:
    """Returns the thresholds that were learned."""
    return net.log_threshold.detach().exp()


JUMP_RELU = Kind(
    name="jumprelu", paper="arXiv:2407.14435", codes=codes, loss=loss, thresholds=thresholds, learned_thresholds=True
)
