"""The Fourier parameterisation by direct sums, and the colour space from published numbers."""

from __future__ import annotations

import cmath
import math

import numpy as np

# The colour matrix as other implementations store it: transposed, divided by its largest column norm.
COLOUR = np.array(
    [
        [0.56282854, 0.58447580, 0.58447580],
        [0.19482528, 0.0, -0.19482528],
        [0.04329450, -0.10823626, 0.06494176],
    ]
).T


def frequency(index: int, length: int) -> float:
    """Cycles per pixel of coefficient `index` of a transform of that length."""
    return (index if index <= (length - 1) // 2 else index - length) / length


def scale(height: int, width: int, decay: float) -> np.ndarray:
    """1 / max(|f|, 1/max(H, W))^decay on the H×(W//2+1) half spectrum."""
    table = np.empty((height, width // 2 + 1))
    for ky in range(height):
        for kx in range(width // 2 + 1):
            f = math.hypot(frequency(ky, height), kx / width)
            table[ky, kx] = 1 / max(f, 1 / max(height, width)) ** decay
    return table


def inverse(spectrum: np.ndarray, width: int) -> np.ndarray:
    """Orthonormal inverse real transform of one H×(W//2+1) half spectrum, H×W, as sums over coefficients.

    A real picture has conjugate coefficients at ±f: every column but the first (and the last of an even width)
    stands for two, and of those single ones only the real part after the sum over rows is used.
    """
    height, columns = spectrum.shape
    picture = np.zeros((height, width))
    for y in range(height):
        rows = [
            sum(spectrum[ky, kx] * cmath.exp(2j * math.pi * ky * y / height) for ky in range(height))
            for kx in range(columns)
        ]
        for x in range(width):
            total = 0.0
            for kx, value in enumerate(rows):
                if kx == 0 or 2 * kx == width:
                    total += value.real * math.cos(2 * math.pi * kx * x / width)
                else:
                    total += 2 * (value * cmath.exp(2j * math.pi * kx * x / width)).real
            picture[y, x] = total
    return picture / math.sqrt(height * width)


def picture(spectrum: np.ndarray, width: int, decay: float, gain: float) -> np.ndarray:
    """3×H×(W//2+1) complex parameters to 3×H×W in [0, 1]."""
    height = spectrum.shape[1]
    decorrelated = np.stack([inverse(s * scale(height, width, decay), width) * gain for s in spectrum])
    rgb = np.einsum("rc,chw->rhw", COLOUR, decorrelated)
    return 1 / (1 + np.exp(-rgb))
