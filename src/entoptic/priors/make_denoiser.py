"""Trains the local denoiser that the package ships (see `local_denoiser`) on patches of photos.

python -m entoptic.priors.make_denoiser --photos PHOTOS… --held-out PHOTOS --minutes 60 --out local.denoiser.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from entoptic.base.compact import pack
from entoptic.base.files import write_atomically
from entoptic.base.pixels import centre_square
from entoptic.images.photos import Photos
from entoptic.priors.local_denoiser import HIGHEST, LOWEST, MARK, SPREAD, LocalDenoiser
from entoptic.priors.timed_training import train_for

SIDE, PATCH, BATCH = 224, 64, 32
"""Side of the photos, of the patches that are cut from them, and patches per step."""
WHOLE_SCALE = 0.6
"""Share of patches at the photo's own resolution; others are reduced by up to half."""
TESTED = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Noise levels at which it is tested."""


def cut_patches(photos: Sequence[Tensor], count: int, draw: Generator) -> Tensor:
    """Cuts random patches, half of them mirrored: B×3×64×64 in [-1, 1].

    Args:
        photos: sets of M×3×S×S uint8 with S ≥ 64; each photo of all sets is as likely as any other.
        count: B.
        draw: of the choices.
    """
    sizes = torch.tensor([len(one) for one in photos])
    out = []
    for _ in range(count):
        at = int(torch.randint(int(sizes.sum()), (), generator=draw))
        which = int((sizes.cumsum(0) <= at).sum())
        photo = photos[which][at - int(sizes[:which].sum())]
        reduced = float(torch.rand((), generator=draw)) >= WHOLE_SCALE
        largest = min(2 * PATCH, *photo.shape[1:])
        side = int(torch.randint(PATCH, largest + 1, (), generator=draw)) if reduced else PATCH
        top, left = (int(torch.randint(length - side + 1, (), generator=draw)) for length in photo.shape[1:])
        patch = photo[None, :, top : top + side, left : left + side].float()
        if side != PATCH:
            patch = interpolate(patch, (PATCH, PATCH), mode="bilinear", antialias=True, align_corners=False)
        out.append(patch.flip(3) if float(torch.rand((), generator=draw)) < 0.5 else patch)
    return torch.cat(out) / 127.5 - 1


def denoising_loss(net: LocalDenoiser, patches: Tensor, draw: Generator) -> Tensor:
    """Returns the weighted squared error at noise levels that are even in log σ; the weights make each level count alike."""
    level = torch.rand(len(patches), generator=draw) * math.log(HIGHEST / LOWEST) + math.log(LOWEST)
    sigma = level.exp()
    noise = torch.randn(patches.shape, generator=draw)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(patches + sigma[:, None, None, None] * noise, sigma)
    weight = (sigma.square() + SPREAD**2) / (sigma * SPREAD).square()
    return (weight[:, None, None, None] * (found.float() - patches).square()).mean()


@torch.no_grad()
def errors(net: LocalDenoiser, pictures: Tensor) -> dict[str, dict[str, float]]:
    """Returns peak signal-to-noise ratios in dB, by noise level: of what it makes of noisy pictures, and of these themselves."""
    noise = torch.randn(pictures.shape, generator=Generator().manual_seed(1))
    table = {}
    for sigma in TESTED:
        found = torch.cat([
            net(part, torch.full((len(part),), sigma)) for part in (pictures + sigma * noise).split(16)
        ])  # fmt: skip
        psnr = 10 * math.log10(4 / float((found - pictures).square().mean()))
        table[str(sigma)] = {"psnr": round(psnr, 2), "noisy": round(-20 * math.log10(sigma / 2), 2)}
    return table


def train(
    photos: Sequence[Tensor],
    minutes: float,
    seed: int = 0,
    log: Callable[[str], None] = print,
    steps: int | None = None,
) -> tuple[LocalDenoiser, int]:
    """Trains a denoiser for so many minutes, or steps if given; returns the running mean of its weights and the steps.

    Args:
        photos: sets of M×3×S×S uint8.
        minutes: how long.
        seed: of weights, patches and noise.
        log: called with a line every 200 steps.
        steps: how many steps, in place of minutes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, mean = LocalDenoiser(), LocalDenoiser()
    draw = Generator().manual_seed(seed)
    made = train_for(
        minutes, net, mean, lambda: denoising_loss(net, cut_patches(photos, BATCH, draw), draw), ema=0.999,
        weight_decay=1e-3, steps=steps, every=200, log=log,
    )  # fmt: skip
    return mean, made


def write_denoiser(net: LocalDenoiser, card: dict[str, Any], out: Path) -> None:
    """Writes a denoiser in 8 bits a weight with its card."""
    write_atomically(out, save(pack(net.state_dict()), {MARK: json.dumps(card)}))


def read_squares(sources: Sequence[str], side: int = SIDE) -> list[Tensor]:
    """Reads photos as squares: per source M×3×side×side uint8."""
    return [
        torch.cat([images for _, images in Photos.open(source).batches(lambda one: centre_square(one, side), 64)])
        for source in sources
    ]


def main() -> None:
    """Runs the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--about", default="", help="the photos, in words")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    photos = read_squares(given.photos)
    net, steps = train(photos, given.minutes)
    middle = (SIDE - 96) // 2
    kept = read_squares([given.held_out])[0][:200, :, middle : middle + 96, middle : middle + 96]
    card = {
        "title": "Local denoiser of photos", "data": given.about, "photos": sum(map(len, photos)), "patches_seen": steps * BATCH,
        "steps": steps, "parameters": sum(p.numel() for p in net.parameters()), "held_out": len(kept),
        "licence": "apache-2.0 (weights); the photos carry ImageNet's terms and are not included",
        "errors": errors(net, kept.float() / 127.5 - 1),
    }  # fmt: skip
    write_denoiser(net, card, given.out)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
