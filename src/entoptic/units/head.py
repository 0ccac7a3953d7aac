"""`head_weights`: the weights with which a logit reads a layer's pooled map, for linear and LayerNorm heads.

A head that pools and multiplies has logit = w·g + b, g the mean of the map over positions. With a LayerNorm between
(ConvNeXt), logit = (1/σ(g)) w̃·g + b̃ with w̃ = (I - 11ᵀ/d)(γ ⊙ w): linear but for σ, which is one number per picture.
Held at the picture's own σ, the gradient is exactly w̃/σ, and w·g adds up to the logit but for b̃.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadWeights:
    """A class's weights on the pooled map, picture by picture.

    Attributes:
        weight_BC: w of each picture (one and the same where the head is linear).
        base_B: the logit of a map of zeros: biases, and whatever else than the map the head reads.
        logit_B: the logit itself.
        gap: |logit - base - w·g| relative to |logit - base|, over all pictures: 0 where the head is linear in the
            pooled map (a LayerNorm's σ held), so that relevance adds up.
    """

    weight_BC: Tensor
    base_B: Tensor
    logit_B: Tensor
    gap: float

    def __str__(self) -> str:
        if self.gap < 1e-3:
            return f"linear in the pooled map (what it misses: {self.gap:.1e})"
        return (
            f"not linear in the pooled map: weights miss {100 * self.gap:.0f} % of the logit, completeness is a guess"
        )


def head_weights(module: nn.Module, logit: Callable[[Tensor], Tensor], maps_BCD: Tensor) -> HeadWeights:
    """Computes the weights with which a logit reads a layer, from gradients; the head may be any module.

    Args:
        module: the network, whose LayerNorms are held at the scale they have on each picture.
        logit: maps B×C×… to B logits of one class, row by row.
        maps_BCD: values of the layer.
    """
    with torch.enable_grad(), scale_held(module):
        given = maps_BCD.detach().requires_grad_()
        logit_B = logit(given)
        (slope_BCD,) = torch.autograd.grad(logit_B.sum(), given)
    with torch.no_grad():
        base_B = logit(torch.zeros_like(maps_BCD))
    # A mean over positions hands each of them 1/D of the weight.
    weight_BC = slope_BCD.flatten(2).sum(2)
    pooled_BC = maps_BCD.detach().flatten(2).mean(2)
    wanted_B = (logit_B.detach() - base_B).double()
    miss_B = wanted_B - torch.einsum("bc,bc->b", weight_BC.double(), pooled_BC.double())
    gap = float(miss_B.norm() / wanted_B.norm().clamp_min(1e-30))
    return HeadWeights(weight_BC, base_B, logit_B.detach(), gap)


@contextmanager
def scale_held(module: nn.Module) -> Iterator[None]:
    """Stops gradients through the σ of the network's LayerNorms inside the context; their outputs are unchanged."""

    def held(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(norm, nn.LayerNorm)
        x = args[0]
        if "2d" in type(norm).__name__:  # over the channels of maps, which timm and torchvision keep in axis 1
            x = x.movedim(1, -1)
        axes = tuple(range(-len(norm.normalized_shape), 0))
        sigma = (x.var(axes, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
        y = (x - x.mean(axes, keepdim=True)) / sigma
        if norm.weight is not None:
            y = y * norm.weight
        if norm.bias is not None:
            y = y + norm.bias
        return y.movedim(-1, 1) if "2d" in type(norm).__name__ else y

    handles = [m.register_forward_hook(held) for m in module.modules() if isinstance(m, nn.LayerNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
