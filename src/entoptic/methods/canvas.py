"""What an image is painted on: the parameters that gradient ascent changes, and how they become pixels.

Every canvas holds one leaf tensor whose first axis is the item, drawn from each item's own generator, and maps it
to B×3×H×W in [0, 1]; nothing it does mixes items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from entoptic.images.colour import to_rgb


class Canvas(Protocol):
    """Something that paints: `parameter` is optimised, `image()` shows it, `project()` follows each step."""

    parameter: Tensor

    def image(self) -> Tensor:
        """B×3×H×W in [0, 1], differentiable in `parameter`."""
        ...

    def project(self) -> None:
        """Brings `parameter` back to where `image()` is valid, in place."""
        ...


def _draw(generators: Sequence[Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


class Pixels:
    """x = mean + scale·p with p the parameter, clamped to [0, 1] after each step (VITAL's canvas).

    Args:
        generators: one per item. size: height and width. std: of the start, in units of `scale`.
        mean, scale: of the affine map to pixels; the published method uses the model card's mean and std.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        size: tuple[int, int],
        device: torch.device,
        *,
        std: float = 1.0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        scale: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self._mean = torch.tensor(mean, device=device).expand(3)[:, None, None]
        self._scale = torch.tensor(scale, device=device).expand(3)[:, None, None]
        self.parameter = (std * _draw(generators, (3, *size), device)).requires_grad_()

    def image(self) -> Tensor:
        return self._mean + self._scale * self.parameter

    @torch.no_grad()
    def project(self) -> None:
        self.parameter.copy_(self.parameter.clamp((0 - self._mean) / self._scale, (1 - self._mean) / self._scale))


def frequencies(size: tuple[int, int]) -> Tensor:
    """|f| in cycles per pixel of `rfft2`'s layout, H×(W//2+1)."""
    fy, fx = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    return (fy.square() + fx.square()).sqrt()


class Spectrum:
    """sigmoid(colour(irfft2(s / max(f, 1/size)^decay))): Fourier parameterisation (Olah et al. 2017).

    Args:
        std: of the start, per real and imaginary part. decay: exponent of the frequency scaling.
        gain: overall scale of the spectrum in the orthonormal transform; None scales it to unit RMS over
            frequencies, Lucid's is 1/4.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        size: tuple[int, int],
        device: torch.device,
        *,
        std: float = 0.01,
        decay: float = 1.0,
        gain: float | None = None,
    ) -> None:
        scale = 1 / frequencies(size).clamp_min(1 / max(size)) ** decay
        scale = scale / scale.square().mean().sqrt() if gain is None else scale * gain
        self._size, self._scale = size, scale.to(device)
        self.parameter = (std * _draw(generators, (3, *scale.shape, 2), device)).requires_grad_()

    def image(self) -> Tensor:
        spectrum = torch.view_as_complex(self.parameter) * self._scale
        return torch.sigmoid(to_rgb(torch.fft.irfft2(spectrum, s=self._size, norm="ortho")))

    def project(self) -> None:
        pass


class Phase:
    """sigmoid(colour(standardise(irfft2(|r|·exp(i·φ))))) with fixed magnitudes |r|: MACO (Fel et al. 2023).

    Args:
        magnitude: 3×H×(W//2+1), the mean |rfft2| of natural images in the decorrelated colour space.
        φ is the parameter, standardised per item over all of its phases, as the paper's code does.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        size: tuple[int, int],
        device: torch.device,
        *,
        magnitude: Tensor,
    ) -> None:
        self._size, self._magnitude = size, magnitude.to(device)
        self.parameter = _draw(generators, tuple(magnitude.shape), device).requires_grad_()

    def image(self) -> Tensor:
        return torch.sigmoid(to_rgb(self.signal()))

    def signal(self) -> Tensor:
        """The image before colour and sigmoid, zero mean and unit standard deviation per item."""
        phi = _standardise(self.parameter)
        x = torch.fft.irfft2(torch.polar(self._magnitude.expand_as(phi), phi), s=self._size)
        return _standardise(x)

    def project(self) -> None:
        pass


def _standardise(x: Tensor, eps: float = 1e-5) -> Tensor:
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + eps)
