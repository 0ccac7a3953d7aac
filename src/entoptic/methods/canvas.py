"""Canvases: the parameters that gradient ascent changes, and the map from them to pixels.

A canvas holds one leaf tensor whose first axis is the item. It starts from each item's own generator, and the map to
B×3×H×W in [0, 1] never mixes items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from entoptic.images.colour import from_rgb, to_rgb
from entoptic.priors.local_denoiser import denoise


class Canvas(Protocol):
    """Parameters of B pictures.

    Attributes:
        parameter: B×…, the leaf tensor that is optimised.
    """

    parameter: Tensor

    def image(self) -> Tensor:
        """Returns the pictures, B×3×H×W in [0, 1], differentiable in `parameter`."""
        ...

    def project(self) -> None:
        """Moves `parameter`, in place, to where `image()` is in [0, 1]. It is called after each step."""
        ...


def _normal_start(generators: Sequence[Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


class Pixels:
    """Pixels x = mean + scale·p with p the parameter, clamped to [0, 1] after each step (VITAL's canvas).

    Args:
        generators: one per picture.
        size: height and width in pixels.
        device: of the parameter.
        std: standard deviation of the start, in units of `scale`.
        mean: of the affine map to pixels, one per colour. VITAL uses the mean of the model card.
        scale: of the affine map to pixels, one per colour. VITAL uses the std of the model card.
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
        self.parameter = (std * _normal_start(generators, (3, *size), device)).requires_grad_()

    def image(self) -> Tensor:
        """Returns the pictures, B×3×H×W in [0, 1]."""
        return self._mean + self._scale * self.parameter

    @torch.no_grad()
    def set(self, images: Tensor) -> None:
        """Makes the pictures `images`, B×3×H×W in [0, 1]."""
        self.parameter.copy_((images - self._mean) / self._scale)

    @torch.no_grad()
    def project(self) -> None:
        """Clamps the pixels to [0, 1], in place."""
        self.parameter.copy_(self.parameter.clamp((0 - self._mean) / self._scale, (1 - self._mean) / self._scale))


class Denoised:
    """Pixels that are drawn towards what photos look like locally, every few steps: x ← (1 - w)·x + w·D(x, σ).

    D is the denoiser of `priors.local_denoiser`; σ falls geometrically over the steps, so that first large surfaces and in
    the end fine textures become those of photos. Each picture is denoised on its own.

    Args:
        canvas: the pixels.
        weight: w, in [0, 1].
        steps: of the ascent; `project` is called once each.
        every: steps from one denoising to the next.
        sigma: of the first and of the last step, for pixels in [-1, 1].
    """

    def __init__(
        self, canvas: Pixels, weight: float, steps: int, *, every: int = 10, sigma: tuple[float, float] = (0.4, 0.05)
    ) -> None:
        self.parameter, self._canvas, self._weight = canvas.parameter, canvas, weight
        self._steps, self._every, self._sigma, self._done = steps, every, sigma, 0

    def image(self) -> Tensor:
        """Returns the pictures, B×3×H×W in [0, 1]."""
        return self._canvas.image()

    def level(self, step: int) -> float:
        """Returns σ after so many steps."""
        first, last = self._sigma
        return float(first * (last / first) ** (step / self._steps))

    @torch.no_grad()
    def project(self) -> None:
        """Clamps the pixels to [0, 1], and denoises them where it is time, in place."""
        self._canvas.project()
        self._done += 1
        if self._done % self._every == 0:
            image = self._canvas.image()
            self._canvas.set(image.lerp(denoise(image, self.level(self._done)), self._weight))


def frequencies(size: tuple[int, int]) -> Tensor:
    """Returns the absolute frequencies |f| of `rfft2`, H×(W//2+1), in cycles per pixel.

    Args:
        size: height and width in pixels.
    """
    fy, fx = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    return (fy.square() + fx.square()).sqrt()


class Spectrum:
    """A spectrum s as the parameter, x = sigmoid(colour(irfft2(s / max(f, 1/size)^decay))) (Olah et al. 2017).

    Args:
        generators: one per picture.
        size: height and width in pixels.
        device: of the parameter.
        std: standard deviation of the start, per real and imaginary part.
        decay: exponent of the frequency scaling.
        gain: overall scale of the spectrum in the orthonormal transform. Lucid's is 1/4. None scales it to a root mean
            square of 1 over frequencies.
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
        self.parameter = (std * _normal_start(generators, (3, *scale.shape, 2), device)).requires_grad_()

    def image(self) -> Tensor:
        """Returns the pictures, B×3×H×W in (0, 1)."""
        spectrum = torch.view_as_complex(self.parameter) * self._scale
        return torch.sigmoid(to_rgb(torch.fft.irfft2(spectrum, s=self._size, norm="ortho")))

    @torch.no_grad()
    def start_at(self, photos: Tensor) -> None:
        """Makes the pictures photos, but for pixels nearer than 0.01 to black or white, which no finite spectrum reaches.

        Args:
            photos: in [0, 1], of the canvas's size: 3×H×W for all, or B×3×H×W.
        """
        each = photos if photos.ndim == 4 else photos[None]
        decorrelated = from_rgb(each.to(self.parameter).clamp(0.01, 0.99).logit())
        spectrum = torch.fft.rfft2(decorrelated, norm="ortho") / self._scale
        self.parameter.copy_(torch.view_as_real(spectrum).expand_as(self.parameter))

    def project(self) -> None:
        """Does nothing: every parameter is valid."""


class Phase:
    """Phases φ as the parameter, x = sigmoid(colour(z(irfft2(|r|·exp(i·z(φ)))))) with fixed magnitudes |r| (Fel et al. 2023).

    z(·) subtracts an item's mean and divides by its standard deviation, as in the code of MACO.

    Args:
        generators: one per picture.
        size: height and width in pixels.
        device: of the parameter.
        magnitude: |r|, 3×H×(W//2+1), the mean |rfft2| of natural images in the decorrelated colour space.
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
        self.parameter = _normal_start(generators, tuple(magnitude.shape), device).requires_grad_()

    def image(self) -> Tensor:
        """Returns the pictures, B×3×H×W in (0, 1)."""
        return torch.sigmoid(to_rgb(self.signal()))

    def signal(self) -> Tensor:
        """Returns the pictures before colour and sigmoid, B×3×H×W, each with mean 0 and standard deviation 1."""
        phi = _zero_mean_unit_sd(self.parameter)
        x = torch.fft.irfft2(torch.polar(self._magnitude.expand_as(phi), phi), s=self._size)
        return _zero_mean_unit_sd(x)

    def project(self) -> None:
        """Does nothing: every parameter is valid."""


def _zero_mean_unit_sd(x: Tensor, eps: float = 1e-5) -> Tensor:
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + eps)
