"""Trains the upsampler that belongs to a shipped prior (see `upsampler`) on crops of photos.

python -m entoptic.priors.make_upsampler --photos PHOTOS… --prior builtin:NAME --minutes 40 --out upsampler.safetensors

The loss is the mean absolute difference of pixels, and the squared difference of tokens of the first blocks of `builtin:vit-s14`,
relative to their squared length, of 8×8 patches of the picture (Johnson et al. 2016, arXiv:1603.08155, with a transformer).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from entoptic.models.sources import load
from entoptic.priors.make_denoiser import read_squares
from entoptic.priors.network_prior import DiffusionPrior
from entoptic.priors.prior import Level
from entoptic.priors.sources import load_prior
from entoptic.priors.timed_training import train_for
from entoptic.priors.upsampler import FACTOR, Upsampler, reduce, write_upsampler

BATCH = 16
"""Crops per step."""
LEAST_SIDE = 150
"""Smallest side of a crop of a photo of 224 pixels; it is resized to the side of the prior's large pictures."""
NOISIEST = 0.35
"""Highest time of the noise that the prior takes off half of the small pictures."""
SEEN, TOKENS, BLOCKS = 112, 8, (1, 2, 4)
"""Side that the transformer sees, its patches a side, and the blocks whose tokens are compared."""
WEIGHT = 0.15
"""Of the tokens' difference beside that of pixels."""


def crops(photos: Tensor, side: int, draw: Generator) -> Tensor:
    """Cuts random crops, half of them mirrored: B×3×side×side in [0, 1].

    Args:
        photos: M×3×S×S uint8 with S ≥ 150.
        side: of the crops.
        draw: of the choices.
    """
    out = []
    for row in torch.randint(len(photos), (BATCH,), generator=draw).tolist():
        cut = int(torch.randint(LEAST_SIDE, photos.shape[2] + 1, (), generator=draw))
        top, left = (int(torch.randint(photos.shape[2] + 1 - cut, (), generator=draw)) for _ in "yx")
        crop = photos[row][None, :, top : top + cut, left : left + cut].float() / 255
        crop = interpolate(crop, (side, side), mode="bilinear", antialias=True, align_corners=False)
        out.append(crop.flip(3) if float(torch.rand((), generator=draw)) < 0.5 else crop)
    return torch.cat(out)


@torch.no_grad()
def small_pictures(prior: DiffusionPrior, large: Tensor, draw: Generator) -> Tensor:
    """Reduced pictures, the first half of them noised and denoised by the prior, B×3×h×w.

    Args:
        prior: a flow-matching prior of small pictures, without an upsampler.
        large: B×3×4h×4w in [0, 1].
        draw: of the noise and its level.
    """
    small = reduce(large)
    assert prior.states is not None
    clean = prior.states(small[: len(small) // 2])
    time_, noise = 0.01 + NOISIEST * float(torch.rand((), generator=draw)), torch.randn(clean.shape, generator=draw)
    level = Level(1000 * time_, 1 - time_, time_)
    with torch.autocast("cpu", torch.bfloat16):
        found = prior.denoise((1 - time_) * clean + time_ * noise, level)
    return torch.cat([prior.decode(found.float()), small[len(clean) :]])


class Perceived:
    """Compares pictures by tokens of the transformer's first blocks."""

    def __init__(self) -> None:
        model = load("builtin:vit-s14", device="cpu")
        self._vit = cast("Any", model.module.requires_grad_(False))
        self._mean, self._std = (torch.tensor(part)[:, None, None] for part in (model.card.mean, model.card.std))
        table = self._vit.pos_embed.detach()
        grid = table[:, 1:].unflatten(1, (16, 16)).permute(0, 3, 1, 2)
        self._places = interpolate(grid, (TOKENS, TOKENS), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
        self._first = self._vit.cls_token.detach() + table[:, :1]

    def _tokens(self, pictures: Tensor) -> list[Tensor]:
        patches = self._vit.patch_embed.proj((pictures - self._mean) / self._std).flatten(2).transpose(1, 2)
        tokens, kept = torch.cat([self._first.expand(len(patches), -1, -1), patches + self._places], dim=1), []
        for number in range(max(BLOCKS) + 1):
            tokens = self._vit.blocks[number](tokens)
            if number in BLOCKS:
                kept.append(tokens[:, 1:].float())
        return kept

    def difference(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared difference of tokens over their squared length.

        Args:
            found: B×3×112×112 in [0, 1].
            wanted: the same.
        """
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                aims = self._tokens(wanted)
            seen = self._tokens(found)
        parts = [((a - s).square().sum(2) / a.square().sum(2).clamp_min(1e-6)).mean() for a, s in zip(aims, seen)]
        return torch.stack(parts).mean()


def train(
    photos: Tensor, prior: DiffusionPrior, minutes: float, *, steps: int | None = None, perceived: Perceived | None = None,
    log: Callable[[str], None] = print,
) -> tuple[Upsampler, int]:  # fmt: skip
    """Trains an upsampler; returns the running mean of its weights and the steps.

    Args:
        photos: M×3×S×S uint8 with S ≥ 150.
        prior: whose pictures it will enlarge.
        minutes: how long.
        steps: how many steps, in place of minutes.
        perceived: what compares tokens; None compares pixels alone.
        log: called with a line every 50 steps.
    """
    side = FACTOR * prior.decode(torch.zeros(1, *prior.shape)).shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, mean = Upsampler(), Upsampler()
    draw = Generator().manual_seed(0)

    def loss() -> Tensor:
        large = crops(photos, side, draw)
        small = small_pictures(prior, large, draw)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(small)
        pixels = (found.float() - large).abs().mean()
        if perceived is None:
            return pixels
        top, left = (int(torch.randint(side - SEEN + 1, (), generator=draw)) for _ in "yx")
        seen = [one[:, :, top : top + SEEN, left : left + SEEN] for one in (found.float(), large)]
        return pixels + WEIGHT * perceived.difference(*seen)

    return mean, train_for(minutes, net, mean, loss, ema=0.998, weight_decay=1e-4, steps=steps, every=50, log=log)


def main() -> None:
    """Runs the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--prior", required=True, help="one without an upsampler")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    prior = cast("DiffusionPrior", load_prior(given.prior, device="cpu"))
    net, steps = train(torch.cat(read_squares(given.photos)), prior, given.minutes, perceived=Perceived())
    write_upsampler(net, given.out)
    print(f"{steps} steps of {BATCH} crops")


if __name__ == "__main__":
    main()
