"""Augmentations: random views of pictures, drawn for each item from its own generator.

An augmentation maps pictures B×3×H×W and B generators to views (B·k)×3×H'×W', the k views of one item next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

Augment = Callable[[Tensor, Sequence[Generator]], Tensor]


def identity(images: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Returns the pictures as they are."""
    return images


def chain(*augments: Augment) -> Augment:
    """Returns the composition of augmentations, the first applied first. Only the last may give several views."""

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        for augment in augments:
            images = augment(images, generators)
        return images

    return run


def repeat_view(augment: Augment, steps: Sequence[int]) -> Augment:
    """Returns an augmentation that keeps the view of item i for `steps[i]` calls in a row.

    What was computed on a view, such as a relevance, then holds for several steps.

    Args:
        augment: what draws the views.
        steps: one per item, at least 1.
    """
    calls = 0
    states: list[Tensor] = []

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        nonlocal calls, states
        if max(steps) > 1:
            now = [g.get_state() for g in generators]
            states = [new if calls % n == 0 else old for new, old, n in zip(now, states or now, steps)]
            for generator, state in zip(generators, states):
                generator.set_state(state)
        calls += 1
        return augment(images, generators)

    return run


def roll(jitter: int) -> Augment:
    """Returns an augmentation that shifts circularly by (dy, dx), each uniform on the integers -jitter … jitter."""

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        return roll_each(images, [torch.randint(-jitter, jitter + 1, (2,), generator=g).tolist() for g in generators])

    return run


def roll_each(images: Tensor, shifts: Sequence[Sequence[int]]) -> Tensor:
    """Returns each picture rolled circularly by its own shift.

    Args:
        images: B×3×H×W.
        shifts: (dy, dx) of each picture, in pixels.
    """
    # One roll a picture: an indexed gather over the batch is slower, above all backwards.
    return torch.stack([image.roll((dy, dx), (1, 2)) for image, (dy, dx) in zip(images, shifts)])


def flip(probability: float = 0.5) -> Augment:
    """Returns an augmentation that mirrors left and right with a probability."""

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        mirrored = torch.stack([torch.rand((), generator=g) for g in generators]).to(images.device) < probability
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)

    return run


def zoom(amount: float) -> Augment:
    """Returns an augmentation that scales by U(1 - amount, 1 + amount) about the centre, bilinearly, borders mirrored."""

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        scale = torch.stack([1 + amount * (2 * torch.rand((), generator=g) - 1) for g in generators]).to(images)
        theta = torch.diag_embed(scale[:, None].expand(-1, 2))
        theta = torch.cat([theta, torch.zeros_like(theta[..., :1])], 2)  # B×2×3: a view of side `scale`
        grid = affine_grid(theta, list(images.shape), align_corners=False)
        return grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    return run


def noise(std: float, width: float = 0.0) -> Augment:
    """Returns an augmentation that adds N(0, std²) and U(-width, width) to every pixel."""

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        each = len(images) // len(generators)
        shape = (each, *images.shape[1:])
        drawn = [
            std * torch.randn(shape, generator=g) + width * (2 * torch.rand(shape, generator=g) - 1) for g in generators
        ]
        return images + torch.cat(drawn).to(images.device)

    return run


def crops(views: int, side: Callable[[Generator], Tensor], size: tuple[int, int], centre_std: float = 0.15) -> Augment:
    """Returns an augmentation that cuts square crops and resamples them bilinearly (MACO).

    Args:
        views: crops per picture.
        side: draws `views` sides from a generator, as fractions of the picture in (0, 1].
        size: height and width of a view, in pixels.
        centre_std: standard deviation of a crop's centre around 0.5, as a fraction of the picture. Crops are moved to lie
            inside the picture.
    """

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        boxes = []
        for g in generators:
            s = side(g).clamp(0.02, 1.0)  # views
            centre = 0.5 + centre_std * torch.randn(views, 2, generator=g)
            centre = torch.maximum(torch.minimum(centre, 1 - s[:, None] / 2), s[:, None] / 2)
            boxes.append(torch.cat([s[:, None], centre], 1))
        s, cy, cx = torch.cat(boxes).to(images).unbind(1)
        zero = torch.zeros_like(s)
        theta = torch.stack([torch.stack([s, zero, 2 * cx - 1], 1), torch.stack([zero, s, 2 * cy - 1], 1)], 1)
        grid = affine_grid(theta, [len(theta), 3, *size], align_corners=False)
        return grid_sample(images.repeat_interleave(views, 0), grid, padding_mode="border", align_corners=False)

    return run


def lucid_transforms(size: tuple[int, int]) -> Augment:
    """Returns the augmentation of Lucid (Olah et al. 2017), as one resampling.

    It pads 12 pixels of grey, jitters by 8, scales by 0.9 … 1.1, rotates by -10° … 10° and jitters by 4.

    Args:
        size: height and width of a view, in pixels.
    """
    scales = torch.arange(0.9, 1.1001, 0.02)
    angles = torch.tensor([*range(-10, 11), 0, 0, 0, 0, 0], dtype=torch.float32)

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        height, width = images.shape[2:]
        rows = []
        for g in generators:
            shift = torch.randint(-4, 5, (2,), generator=g) + torch.randint(-2, 3, (2,), generator=g)
            scale = scales[torch.randint(len(scales), (), generator=g)]
            angle = torch.deg2rad(angles[torch.randint(len(angles), (), generator=g)])
            cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
            aspect = height / width
            dy, dx = 2 * shift / torch.tensor([height, width])
            rows.append(torch.stack([cos, -sin * aspect, dx, sin / aspect, cos, dy]).view(2, 3))
        theta = torch.stack(rows).to(images)
        # The grey frame lies at value 0.5 of the picture: shift by 0.5 so that zero padding is grey.
        grid = affine_grid(theta, [len(images), 3, *size], align_corners=False)
        return grid_sample(images - 0.5, grid, padding_mode="zeros", align_corners=False) + 0.5

    return run


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Returns pictures after a Gaussian blur with mirrored borders.

    Args:
        images: B×C×H×W.
        sigma: standard deviation in pixels, above 0.
    """
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)  # C×1×K, one for each colour
    images = pad(images, (radius,) * 4, mode="reflect")
    images = conv2d(images, kernel[:, :, None], groups=images.shape[1])
    return conv2d(images, kernel[..., None], groups=images.shape[1])
