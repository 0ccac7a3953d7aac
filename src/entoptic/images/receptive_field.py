"""`receptive_field`: the part of the picture that a position of a layer sees, and the crops that are shown for it.

Fields are measured, not derived from module types: a position's field is where the gradient of its values with respect
to the picture is not zero, over a few noise pictures. That holds for every network, whatever its code does between its
modules. For attention, squeeze-excite and global pooling the result is the whole picture, as it should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from entoptic.errors import NotAvailable, UserError
from entoptic.images.photos import Photos
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import LayerInfo, Tap
from entoptic.units.grammar import parse

if TYPE_CHECKING:
    from entoptic.images.photo_scores import Hit

_TOKENS = ("BTC", "BCT", "TBC")
_NOISE = 4  # pictures: a ReLU that blocks one path in all of them is rare
_measured: WeakKeyDictionary[Model, dict[str, ReceptiveField]] = WeakKeyDictionary()


@dataclass(frozen=True)
class ReceptiveField:
    """What the positions of a layer can see, in pixels of the input, (vertical, horizontal).

    Attributes:
        size: of the field of one position.
        stride: distance between neighbours' fields, 0 where every position sees the whole picture along that axis.
        start: first pixel of position 0's field, negative in the padding.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]


def receptive_field(model: Model, layer: str) -> ReceptiveField:
    """Measures the theoretical receptive field of a layer's positions; done once per model and layer.

    A field that touches the picture's border from the middle of the map counts as the whole picture along that axis. Layers
    without a map over the picture (vectors, tokens after attention, maps of attention) see the whole picture.

    Args:
        model: the network.
        layer: name of the layer.

    Raises:
        UserError: no such layer.
    """
    known = _measured.setdefault(model, {})
    if layer not in known:
        known[layer] = _measure(model, layer)
    return known[layer]


def _measure(model: Model, layer: str) -> ReceptiveField:
    info, size = model.layer(layer), model.card.size
    grid = picture_grid(model, info)
    if grid is None:
        return ReceptiveField(size, (0, 0), (0, 0))
    first = tokens_before(info, grid)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(_NOISE, 3, *size, generator=generator).to(model.device).requires_grad_()
    with model.frozen(), torch.enable_grad():
        values = model.read(pictures, [Tap(layer)])[Tap(layer)]  # B×C×D
        signs = torch.randn(values.shape[:2], generator=generator).to(values)  # channels must not cancel out
        middle = (grid[0] // 2, grid[1] // 2)

        def support(row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
            """Returns (first, last) pixel of a position's field along each axis."""
            total = (values[:, :, first + row * grid[1] + column] * signs).sum()
            if not total.requires_grad:
                return (0, size[0] - 1), (0, size[1] - 1)
            (gradient,) = torch.autograd.grad(total, pictures, retain_graph=True, allow_unused=True)
            seen = (
                torch.zeros(size, dtype=torch.bool) if gradient is None else (gradient != 0).flatten(0, 1).any(0).cpu()
            )
            if not seen.any():
                return (0, size[0] - 1), (0, size[1] - 1)
            ys, xs = seen.any(1).nonzero(), seen.any(0).nonzero()
            return (int(ys[0]), int(ys[-1])), (int(xs[0]), int(xs[-1]))

        here = support(*middle)
        before = support(max(0, middle[0] - 1), max(0, middle[1] - 1))
    axes = []
    for axis in (0, 1):
        low, high = here[axis]
        step = low - before[axis][0]
        # The neighbour may stick out of the picture; then the distance is that of their far ends.
        step = step if before[axis][0] > 0 else high - before[axis][1]
        if grid[axis] < 2 or low == 0 or high == size[axis] - 1 or step < 1:
            axes.append((size[axis], 0, 0))
        else:
            axes.append((high - low + 1, step, low - middle[axis] * step))
    (h, sy, y), (w, sx, x) = axes
    return ReceptiveField((h, w), (sy, sx), (y, x))


def picture_grid(model: Model, info: LayerInfo) -> tuple[int, int] | None:
    """Returns rows and columns of a layer's map over the picture, or None where it has none.

    Tokens lie over the picture as the last map before them does; class and register tokens come first and lie nowhere.
    Maps of attention (heads × tokens, tokens × tokens) are distinguished from maps over the picture by their shape.
    """
    if info.name == LOGITS or info.grid == (1, 1):
        return None
    height, width = model.card.size
    if info.layout in _TOKENS:
        maps = [
            other
            for other in model.layers.values()
            if other.layout in ("BCHW", "BHWC") and other.order < info.order and _lies_flat(other.grid, (height, width))
            and 0 <= info.grid[0] - other.grid[0] * other.grid[1] <= 16
        ]  # fmt: skip
        return max(maps, key=lambda other: other.order).grid if maps else None
    return info.grid if _lies_flat(info.grid, (height, width)) and ".attn." not in f".{info.name}" else None


def _lies_flat(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid has the picture's proportions, to within a position or two of padding."""
    strides = size[0] / grid[0], size[1] / grid[1]
    return min(grid) > 1 and max(strides) <= 1.5 * min(strides)


def tokens_before(info: LayerInfo, grid: tuple[int, int]) -> int:
    """Returns the number of tokens that come before the patches and lie nowhere; 0 for maps."""
    return info.grid[0] - grid[0] * grid[1] if info.layout in _TOKENS else 0


def crop_box(model: Model, layer: str, row: int, column: int, *, max_share: float = 0.5) -> tuple[int, int, int, int]:
    """Chooses the part of the picture by which a position is shown.

    It is the position's receptive field, clipped to the picture. Where that is longer than `max_share` of the picture, most
    of it hardly counts (the effective field is much smaller, Luo et al. 2016, arXiv:1701.04128): then it is a square around
    the position's centre with a side of `max_share` of the picture's shorter side, moved inside the picture. Positions that
    lie nowhere in the picture (vectors, class tokens) give the whole picture.

    Args:
        model: the network.
        layer: name of the layer.
        row: as in `Hit`; for tokens the token.
        column: as in `Hit`; for tokens 0.
        max_share: largest side as a share of the picture, in (0, 1].

    Returns:
        (top, left, height, width) in pixels of the input.

    Raises:
        UserError: no such layer or position.
    """
    info, (height, width) = model.layer(layer), model.card.size
    if not (0 <= row < info.grid[0] and 0 <= column < info.grid[1]):
        raise UserError(
            f"no position {row}, {column} in {layer}: it has rows 0 to {info.grid[0] - 1}, columns 0 to {info.grid[1] - 1}"
        )
    if not 0 < max_share <= 1:
        raise UserError(f"max_share must be above 0 and at most 1, got {max_share}")
    grid = picture_grid(model, info)
    if grid is None:
        return 0, 0, height, width
    if info.layout in _TOKENS:
        patch = row - tokens_before(info, grid)
        if patch < 0:
            return 0, 0, height, width
        row, column = divmod(patch, grid[1])
    field = receptive_field(model, layer)
    if all(f <= max_share * s for f, s in zip(field.size, (height, width))):
        boxes = []
        for axis, (at, length) in enumerate(((row, height), (column, width))):
            low = field.start[axis] + at * field.stride[axis]
            first, last = max(0, low), min(length, low + field.size[axis])
            boxes.append((first, max(1, last - first)))
        (top, tall), (left, wide) = boxes
        return top, left, tall, wide
    side = max(1, round(max_share * min(height, width)))
    starts = []
    for axis, (at, length) in enumerate(((row, height), (column, width))):
        stride = field.stride[axis]
        centre = field.start[axis] + at * stride + field.size[axis] / 2 if stride else (at + 0.5) * length / grid[axis]
        starts.append(min(max(0, round(centre - side / 2)), length - side))
    return starts[0], starts[1], side, side


def crop(model: Model, photos: Photos, hit: Hit, *, max_share: float = 0.5) -> Tensor:
    """Cuts the part of a photo by which a hit is shown: `crop_box` of the photo as the network sees it.

    Args:
        model: the network.
        photos: the set of the hit.
        hit: a photo among a unit's strongest or weakest.
        max_share: see `crop_box`.

    Returns:
        3×H×W in [0, 1], resized to the input size.

    Raises:
        NotAvailable: the photo is not among `photos`, or can no longer be read.
    """
    index = hit.index
    if not (index < len(photos) and photos[index].name == hit.photo):
        index = next((i for i, photo in enumerate(photos) if photo.name == hit.photo), -1)
    photo = photos.read(index) if index >= 0 else None
    if photo is None:
        raise NotAvailable(f"the photo {hit.photo} is not in {photos.source}, or can no longer be read")
    image = model.as_seen(model.card.prepare(photo)[None])
    top, left, height, width = crop_box(model, parse(hit.unit).layer, hit.row, hit.column, max_share=max_share)
    cut = image[:, :, top : top + height, left : left + width]
    return interpolate(cut, model.card.size, mode="bicubic", antialias=True).clamp(0, 1)[0]
