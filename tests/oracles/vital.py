"""VITAL for class neurons as published: batch 1, every real map kept and sorted again at every step.

Nothing here is fast and nothing is shared with `entoptic.methods`. Maps are C×D per picture; pictures are
normalised, (x - mean) / std, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def maps(module: nn.Module, layers: Sequence[str], x_BCHW: Tensor) -> dict[str, Tensor]:
    """B×C×D outputs of layers with channels-first maps (B×C×H×W)."""
    found: dict[str, Tensor] = {}
    modules = dict(module.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda m, a, out, name=name: found.__setitem__(name, out.clone()))
        for name in layers
    ]
    try:
        module(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name].flatten(2) for name in layers}


def layer_loss(z_CD: Tensor, real_NCD: Tensor) -> Tensor:
    """Mean over channels and positions of (z_p - t_rank(p))²; t is the mean over photos, each sorted."""
    target_CD = real_NCD.sort(dim=-1).values.mean(0)
    order_CD = z_CD.detach().argsort(dim=-1, stable=True)
    rank_CD = order_CD.argsort(dim=-1)  # inverse permutation: rank of each position
    paired_CD = target_CD.gather(-1, rank_CD)
    return (z_CD - paired_CD).square().mean()


def class_loss(z: Mapping[str, Tensor], real: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum over layers of weight × `layer_loss`; z holds C×D, real holds N×C×D."""
    return sum((w * layer_loss(z[name], real[name]) for name, w in weights.items()), torch.zeros(()))


def total_variation(x_CHW: Tensor) -> Tensor:
    """Four un-squared norms of the differences to the right, lower, lower right and lower left neighbour."""
    _, height, width = x_CHW.shape
    total = torch.zeros((), dtype=x_CHW.dtype)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = torch.zeros((), dtype=x_CHW.dtype)
        for y in range(height - dy):
            for x in range(max(0, -dx), width - max(0, dx)):
                squares = squares + (x_CHW[:, y, x] - x_CHW[:, y + dy, x + dx]).square().sum()
        total = total + squares.sqrt()
    return total


def l2(x_CHW: Tensor) -> Tensor:
    """Un-squared norm of the picture."""
    return x_CHW.square().sum().sqrt()


def rate(step: int, steps: int, warmup: int = 100) -> float:
    """Learning rate in units of the full one."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def run(
    module: nn.Module,
    start_CHW: Tensor,
    shifts: Sequence[tuple[int, int]],
    photos_NCHW: Tensor,
    weights: Mapping[str, float],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    warmup: int,
    tv: float = 0.0,
    norm: float = 0.0,
) -> tuple[Tensor, list[float]]:
    """The last iterate as pixels in [0, 1] (3×H×W) and the loss at each step, one step per (dy, dx) of `shifts`.

    Adam with rate 1, betas (0.5, 0.9), eps 1e-8, written out. The photos are given in [0, 1], the start in
    normalised space.
    """
    mean_, std_ = (torch.tensor(v)[:, None, None] for v in (mean, std))
    with torch.no_grad():
        real = maps(module, list(weights), (photos_NCHW - mean_) / std_)
    x = start_CHW.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    losses = []
    for t, shift in enumerate(shifts):
        x = x.detach().requires_grad_()
        view = torch.roll(x, shift, dims=(1, 2))
        z = {name: value[0] for name, value in maps(module, list(weights), view[None]).items()}
        loss = class_loss(z, real, weights)
        if tv or norm:
            loss = loss + tv * total_variation(view) + norm * l2(view)
        (gradient,) = torch.autograd.grad(loss, x)
        losses.append(float(loss.detach()))
        with torch.no_grad():
            first = 0.5 * first + 0.5 * gradient
            second = 0.9 * second + 0.1 * gradient.square()
            corrected = first / (1 - 0.5 ** (t + 1)) / ((second / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8)
            x = x - rate(t, len(shifts), warmup) * corrected
            x = torch.maximum(torch.minimum(x, (1 - mean_) / std_), (0 - mean_) / std_)
    return (x.detach() * std_ + mean_).clamp(0, 1), losses
