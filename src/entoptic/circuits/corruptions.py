"""Corrupted twins of photos: what stays is what a circuit need not explain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from entoptic.base.randomness import generator_for
from entoptic.errors import UserError, instead

CORRUPTIONS = {
    "blur": "the photo, so blurred that only colours and large areas stay",
    "mean": "the mean of all photos, the same for each",
    "resample": "another photo, of another class where there is one",
    "mask": "the photo with its object filled in from around it; needs masks",
    "text": "the photo itself, where the unit is looked at with its word written on it",
}
"""Every kind with what it does."""
BLUR = 10
"""Sides of a photo to the standard deviation of the blur."""


def corrupt(
    kind: str, photos: Tensor, *, others: Tensor | None = None, masks: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Makes a corrupted twin of each photo.

    Args:
        kind: one of `CORRUPTIONS`.
        photos: N×3×H×W in [0, 1].
        others: photos of other classes, for "mean" and "resample".
        masks: N×1×H×W, 1 where the object is, for "mask".
        seed: of "resample".

    Returns:
        N×3×H×W.

    Raises:
        UserError: no such kind, or what it needs is not there.
    """
    if kind == "blur":
        return blurred(photos, max(photos.shape[2:]) / BLUR)
    if kind == "mean":
        every = photos if others is None or not len(others) else torch.cat([photos, others])
        return every.mean(0, keepdim=True).expand_as(photos).clone()
    if kind == "resample":
        return _resampled(photos, others, seed)
    if kind == "text":  # the other way round: the word is on the photo that is explained
        return photos
    if kind == "mask":
        if masks is None:
            raise UserError("--corrupt mask needs --masks FOLDER: a mask for each photo, white where the object is")
        return filled(photos, masks)
    raise UserError(f'no corruption "{kind[:80]}"{instead(kind, CORRUPTIONS)}')


def blurred(photos: Tensor, sigma: float) -> Tensor:
    """Blurs pictures by a Gaussian; at the border only what is inside counts.

    Args:
        photos: N×C×H×W.
        sigma: standard deviation in pixels.
    """
    radius = min(math.ceil(3 * sigma), max(photos.shape[2:]) - 1)
    x = torch.arange(-radius, radius + 1, dtype=photos.dtype, device=photos.device)
    kernel = torch.exp(-x.square() / (2 * sigma**2))
    flat = photos.flatten(0, 1)[:, None]
    weight = torch.ones_like(flat[:1])
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        padding = (radius, 0) if shape[2] == -1 else (0, radius)
        flat, weight = (conv2d(t, kernel.view(shape), padding=padding) for t in (flat, weight))
    return (flat / weight).view_as(photos)


def filled(photos: Tensor, masks: Tensor) -> Tensor:
    """Fills what a mask covers with what lies around it, from wide to narrow.

    Args:
        photos: N×3×H×W.
        masks: N×1×H×W in [0, 1], 1 where it is covered.

    Raises:
        UserError: the masks have another shape, or one covers a whole photo or nothing.
    """
    if masks.shape != (len(photos), 1, *photos.shape[2:]):
        raise UserError(f"expected masks of shape {(len(photos), 1, *photos.shape[2:])}, got {tuple(masks.shape)}")
    covered = (masks > 0.5).to(photos)
    share = covered.mean((1, 2, 3))
    if bool(((share == 0) | (share == 1)).any()):
        wrong = int(((share == 0) | (share == 1)).nonzero()[0])
        what = "nothing" if share[wrong] == 0 else "the whole photo"
        raise UserError(f"mask {wrong} covers {what}; it must be white on the object")
    seen, side = 1 - covered, max(photos.shape[2:])
    sigma = side / 2
    found = photos * seen
    while sigma >= 1:  # each round is narrower, and counts where enough of the photo is near
        near = blurred(seen, sigma)
        estimate = blurred(photos * seen, sigma) / near.clamp_min(1e-6)
        trust = covered * (near > 0.05).to(photos)
        found = torch.where(trust.bool().expand_as(found), estimate, found)
        sigma /= 2
    return photos * seen + found * covered


def _resampled(photos: Tensor, others: Tensor | None, seed: int) -> Tensor:
    if others is not None and len(others):
        draw = generator_for("resample", seed, len(photos), len(others))
        return others[torch.randint(len(others), (len(photos),), generator=draw)]
    if len(photos) < 2:
        raise UserError("--corrupt resample needs a second photo; give more, or corrupt by blur")
    shift = 1 + int(torch.randint(len(photos) - 1, (), generator=generator_for("resample", seed, len(photos))))
    return photos.roll(shift, 0)
