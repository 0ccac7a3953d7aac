"""The decorrelated colour space that spectral canvases paint in, and the Fourier spectrum of photos in it."""

from __future__ import annotations

import torch
from torch import Tensor

# Correlation of colour channels in natural images (Lucid), scaled so that the longest column has norm 1.
_COLOUR = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOUR = _COLOUR / _COLOUR.norm(dim=0).max()


def to_rgb(decorrelated: Tensor) -> Tensor:
    """Converts B×3×H×W with independent channels to correlated RGB (before any sigmoid)."""
    return torch.einsum("rc,bchw->brhw", COLOUR.to(decorrelated), decorrelated)


def from_rgb(rgb: Tensor) -> Tensor:
    """Converts RGB to independent channels: the inverse of `to_rgb`."""
    return torch.einsum("cr,brhw->bchw", torch.linalg.inv(COLOUR).to(rgb), rgb)


def natural_spectrum(rgb: Tensor) -> Tensor:
    """Sums |rfft2| over B pictures in the decorrelated space: 3×H×(W//2+1)."""
    return torch.fft.rfft2(from_rgb(rgb)).abs().sum(0)


def resample_spectrum(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples |rfft2| magnitudes to another picture size, along each axis over the same range of cycles per pixel.

    Args:
        spectrum: 3×H×(W//2+1).
        size: height and width of the picture.

    Returns:
        3×height×(width//2+1).
    """
    height, width = spectrum.shape[1], 2 * (spectrum.shape[2] - 1)
    centred = torch.fft.fftshift(spectrum, dim=1)  # row height // 2 holds frequency 0
    rows = torch.fft.fftfreq(size[0]) * height + height // 2
    columns = torch.fft.rfftfreq(size[1]) * width
    # Straight lines between the coefficients at both sides: frequency 0 stays what it is and ±f stay alike.
    return _between(_between(centred, rows, 1), columns, 2)


def _between(table: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Interpolates `table` linearly along an axis at fractional indices, the ends repeated."""
    indices = indices.clamp(0, table.shape[axis] - 1)
    left = indices.floor().long().clamp_max(table.shape[axis] - 2)
    share = (indices - left).view([-1 if i == axis else 1 for i in range(table.ndim)])
    return table.index_select(axis, left) * (1 - share) + table.index_select(axis, left + 1) * share
