"""DeepInversion with explicit loops over groups, layers, channels, pictures and positions.

Nothing here is fast and nothing is shared with `entoptic.methods`. Pictures are normalised, (x - mean) / std.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oracles.vital import l2, total_variation


def forward(module: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, list[tuple[Tensor, nn.BatchNorm2d]]]:
    """Logits, and each BatchNorm2d with its input, in the order in which they run; `module` is in evaluation mode."""
    fed: list[tuple[Tensor, nn.BatchNorm2d]] = []
    layers = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_hook(lambda m, args, out: fed.append((args[0], m))) for m in layers]
    try:
        logits = module(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return logits, fed


def statistics(input_NCHW: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """‖var - running var‖₂ + ‖mean - running mean‖₂ of the pictures of one group."""
    count, channels, height, width = input_NCHW.shape
    positions = count * height * width
    squares_mean, squares_variance = 0.0, 0.0
    for c in range(channels):
        values = [input_NCHW[n, c, y, x] for n in range(count) for y in range(height) for x in range(width)]
        mean = sum(values) / positions
        variance = sum((v - mean) ** 2 for v in values) / positions
        squares_mean = squares_mean + (mean - layer.running_mean[c]) ** 2
        squares_variance = squares_variance + (variance - layer.running_var[c]) ** 2
    return squares_variance**0.5 + squares_mean**0.5


def loss(
    module: nn.Module, x_NCHW: Tensor, wanted: int, *, feature: float, tv: float, norm: float, first: float = 10.0
) -> Tensor:
    """The loss of one group of pictures of one class; TV and L2 are the mean over its pictures."""
    logits, fed = forward(module, x_NCHW)
    total = torch.zeros((), dtype=x_NCHW.dtype)
    for row, x in zip(logits, x_NCHW):
        exponentials = [math.e**value for value in row - row.max()]
        total = total - (exponentials[wanted] / sum(exponentials)).log() / len(x_NCHW)
        total = total + (tv * total_variation(x) + norm * l2(x)) / len(x_NCHW)
    for b, (input_NCHW, layer) in enumerate(fed):
        total = total + feature * (first if b == 0 else 1.0) * statistics(input_NCHW, layer)
    return total


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, of numbers that are already clamped."""
    total = 0.0
    for a, b in zip(p, q):
        m = (a + b) / 2
        total += 0.5 * a * math.log(a / m) + 0.5 * b * math.log(b / m)
    return total


def rates(steps: int, low: int) -> list[float]:
    """Rate of each step in units of the full one: a warm-up of a tenth (100 at most) and a cosine, in each stage."""
    found = []
    for length in (low, steps - low):
        warmup = min(100, length // 10)
        for t in range(length):
            cosine = 0.5 * (1 + math.cos(math.pi * (t - warmup) / (length - warmup)))
            found.append((t + 1) / warmup if t < warmup else cosine)
    return found
