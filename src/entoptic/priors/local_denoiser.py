"""A denoiser of pictures that knows how photos look locally: edges, surfaces, textures, and no objects.

It estimates a photo x from y = x + σ·n with Gaussian noise n, at any noise level σ: D(y, σ) ≈ E[x | y]. Then D(y, σ) - y = σ²·∇ log
p_σ(y), the direction towards more probable pictures (Tweedie's formula; Robbins 1956). Methods that change pixels use it as a
regulariser: a step towards D(x, σ), with σ falling (plug and play; Venkatakrishnan et al. 2013, Zhang et al. 2021,
arXiv:2008.13751). The network is convolutional and sees a neighbourhood of about 150 pixels at most. It was trained on patches of
photos by `make_denoiser`. The preconditioning is that of Karras et al. 2022 (arXiv:2206.00364, table 1).
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, silu

from entoptic.base.compact import unpack
from entoptic.base.records import read_tensors
from entoptic.errors import UserError

FILE = "local.denoiser.safetensors"
MARK = "entoptic-local-denoiser"
"""Name of the card in the file's metadata."""
BLOCK, COARSEST = 4, 8
"""Side in pixels of the blocks that are one position, and of what one position at the lower resolution covers."""
SPREAD = 0.5
"""Standard deviation of photos' pixels in [-1, 1]."""
LOWEST, HIGHEST = 0.02, 1.2
"""Noise levels that it was trained on, for pixels in [-1, 1]."""


class _Block(nn.Module):
    """Two convolutions, scaled and shifted by the noise level in between; no statistics over positions."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        self.f = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns B×C×h×w of x, B×C×h×w, and the embedded level, B×E."""
        scale, shift = self.f(level)[:, :, None, None].chunk(2, dim=1)
        return x + self.b(silu(self.a(x) * (1 + scale) + shift))


class LocalDenoiser(nn.Module):
    """The network; `forward` is D(y, σ) for pixels in [-1, 1].

    A position's answer depends on its neighbourhood alone, so patches and whole pictures agree away from their borders.

    Args:
        fine: channels at the resolution of 4×4 pixels.
        coarse: channels at half that resolution.
        embedding: numbers that describe the noise level.
    """

    def __init__(self, fine: int = 96, coarse: int = 128, embedding: int = 64) -> None:
        super().__init__()
        self.i = nn.Conv2d(3 * BLOCK**2, fine, 3, padding=1)
        self.e1, self.e2 = nn.Linear(17, embedding), nn.Linear(embedding, embedding)
        self.d1 = _Block(fine, embedding)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.m1, self.m2 = _Block(coarse, embedding), _Block(coarse, embedding)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.u1, self.u2 = _Block(fine, embedding), _Block(fine, embedding)
        self.o = nn.Conv2d(fine, 3 * BLOCK**2, 3, padding=1)

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Returns the estimate of the pictures, B×3×H×W.

        Args:
            y: B×3×H×W, pictures in [-1, 1] plus noise; H and W multiples of 8.
            sigma: B, standard deviation of the noise.
        """
        s_B111 = sigma[:, None, None, None]
        both = s_B111.square() + SPREAD**2
        value = self._network(y / both.sqrt(), sigma.log() / 4)
        return y * (SPREAD**2 / both) + value * (s_B111 * SPREAD / both.sqrt())

    def _network(self, x: Tensor, level: Tensor) -> Tensor:
        angles = level[:, None] * torch.exp(torch.linspace(0, math.log(8), 8, device=x.device))
        embedded = silu(self.e1(torch.cat([level[:, None], angles.sin(), angles.cos()], dim=1)))
        embedded = silu(self.e2(embedded))
        fine = self.d1(self.i(pixel_unshuffle(x, BLOCK)), embedded)
        coarse = self.m2(self.m1(self.down(fine), embedded), embedded)
        out = self.u2(self.u1(pixel_shuffle(self.up(coarse), 2) + fine, embedded), embedded)
        return pixel_shuffle(self.o(out), BLOCK)


@lru_cache(maxsize=2)
def shipped_denoiser(device: torch.device | str = "cpu") -> LocalDenoiser:
    """Returns the denoiser that is part of the package, frozen.

    Args:
        device: where it goes.
    """
    net = LocalDenoiser()
    net.load_state_dict(unpack(read_tensors(_file()).tensors))
    net = net.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def denoiser_card() -> dict[str, Any]:
    """Returns what the file says of the shipped denoiser: data, training, errors on photos it has not seen."""
    from safetensors import safe_open

    with safe_open(_file(), "pt") as stored:
        card: dict[str, Any] = json.loads(stored.metadata()[MARK])
    return card


def _file() -> Path:
    return Path(str(resources.files("entoptic") / "data" / FILE))


@torch.no_grad()
def denoise(images: Tensor, sigma: float, *, net: LocalDenoiser | None = None) -> Tensor:
    """Returns the most likely pictures behind noisy ones, B×3×H×W in [0, 1].

    Args:
        images: B×3×H×W in [0, 1], of any size.
        sigma: assumed standard deviation of the noise, for pixels in [-1, 1] (twice that for [0, 1]); from 0.02 to 1.2.
        net: the denoiser; None for the shipped one.

    Raises:
        UserError: a noise level that it was not trained on.
    """
    if not LOWEST <= sigma <= HIGHEST:
        raise UserError(f"the denoiser knows noise of {LOWEST} to {HIGHEST}, got {sigma:g}")
    net = net or shipped_denoiser(images.device)
    height, width = images.shape[2:]
    y = pad(2 * images - 1, (0, -width % COARSEST, 0, -height % COARSEST), mode="replicate")
    y = y.contiguous(memory_format=torch.channels_last)
    level = torch.full((len(images),), sigma, device=images.device, dtype=images.dtype)
    return ((net(y, level)[:, :, :height, :width] + 1) / 2).clamp(0, 1)
