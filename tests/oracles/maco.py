"""MACO's canvas and its view of it, picture element by picture element."""

from __future__ import annotations

import math

import numpy as np

from oracles.fourier import COLOUR, inverse


def standardise(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Zero mean and unit (n-1) standard deviation over everything."""
    return (x - x.mean()) / (x.std(ddof=1) + eps)


def picture(phases: np.ndarray, magnitude: np.ndarray, width: int) -> np.ndarray:
    """Phases and magnitudes, both 3×H×(W//2+1), to 3×H×W in [0, 1]."""
    phi = standardise(phases)
    signal = standardise(np.stack([inverse(r * np.exp(1j * p), width) for r, p in zip(magnitude, phi)]))
    return 1 / (1 + np.exp(-np.einsum("rc,chw->rhw", COLOUR, signal)))


def crop(image: np.ndarray, side: float, centre: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Bilinear samples of a crop of C×H×W; `side` and `centre` (y, x) are fractions of the picture.

    Output pixel i covers the i-th of `size` equal parts of the crop and is read at its middle; source pixel j has
    its middle at (j + 0.5) / H. Outside the outermost middles the border is repeated.
    """
    channels, height, width = image.shape
    out = np.empty((channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = (centre[0] - side / 2 + side * (i + 0.5) / size[0]) * height - 0.5
            x = (centre[1] - side / 2 + side * (j + 0.5) / size[1]) * width - 0.5
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            y0, x0 = min(math.floor(y), height - 2), min(math.floor(x), width - 2)
            a, b = y - y0, x - x0
            out[:, i, j] = (1 - a) * ((1 - b) * image[:, y0, x0] + b * image[:, y0, x0 + 1]) + a * (
                (1 - b) * image[:, y0 + 1, x0] + b * image[:, y0 + 1, x0 + 1]
            )
    return out
