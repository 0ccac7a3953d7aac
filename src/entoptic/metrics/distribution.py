"""Distances between sets of pictures in the features of a network that made none of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.metrics.sets.mmd import cubic, jackknife, unbiased
from entoptic.models.model import Model


@torch.no_grad()
def features(model: Model, pictures: Tensor, batch_size: int = 25) -> Tensor:
    """Pooled penultimate features N×C float32 of a timm network for pictures N×3×h×w in [0, 1].

    Raises:
        UserError: a network without timm's `forward_features` and `forward_head`.
    """
    net = model.module
    if not has_features(model):
        raise UserError(f"{model.card.name} has no pooled features; take a timm network, such as builtin:lite1")
    parts = []
    with model.frozen():
        for chunk in pictures.split(batch_size):
            x = model.normalise(model.fit(chunk.to(model.device)))
            parts.append(net.forward_head(net.forward_features(x), pre_logits=True).float().cpu())  # type: ignore[operator]
    return torch.cat(parts)


def has_features(model: Model) -> bool:
    """Returns whether `features` can read a network."""
    return hasattr(model.module, "forward_features") and hasattr(model.module, "forward_head")


def kid(a_NC: Tensor, b_MC: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³ (Bińkowski et al. 2018, KID); may be negative."""
    return unbiased(*_kernels(a_NC, b_MC))


def kid_interval(a_NC: Tensor, b_MC: Tensor) -> tuple[float, float]:
    """95 % interval by the jackknife over the pictures a (a bootstrap's doubles would bias the unbiased estimate)."""
    return jackknife(*_kernels(a_NC, b_MC))


def frechet(a_NC: Tensor, b_MC: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two feature sets (Heusel et al. 2017); biased up for small sets.

    |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), float64; tr (Σ_a Σ_b)^½ is the sum of the singular values of
    X_a X_bᵀ/√(nm) for centred X, which needs no matrix square root.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a_NC, b_MC))
    a, b = a / math.sqrt(len(a) - 1), b / math.sqrt(len(b) - 1)
    shift = (a_NC.double().mean(0) - b_MC.double().mean(0)).square().sum()
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float(shift + a.square().sum() + b.square().sum() - 2 * cross)


def _kernels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = a.double(), b.double()
    return cubic(a, a), cubic(b, b), cubic(a, b)
