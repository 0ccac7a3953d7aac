"""The decorrelated colour space that spectral canvases paint in."""

from __future__ import annotations

import torch
from torch import Tensor

# Correlation of colour channels in natural images (Lucid), scaled so that the longest column has norm 1.
_COLOUR = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOUR = _COLOUR / _COLOUR.norm(dim=0).max()


def to_rgb(decorrelated: Tensor) -> Tensor:
    """B×3×H×W with independent channels to correlated RGB (before any sigmoid)."""
    return torch.einsum("rc,bchw->brhw", COLOUR.to(decorrelated), decorrelated)


def from_rgb(rgb: Tensor) -> Tensor:
    """Inverse of `to_rgb`."""
    return torch.einsum("cr,brhw->bchw", torch.linalg.inv(COLOUR).to(rgb), rgb)


def natural_spectrum(rgb: Tensor) -> Tensor:
    """Sum over B pictures of |rfft2| in the decorrelated space, 3×H×(W//2+1)."""
    return torch.fft.rfft2(from_rgb(rgb)).abs().sum(0)
