"""Which cause a picture shows, in closed form and from pixels alone: the meter shares nothing with any planted network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from entoptic.planted.causes import ASPECTS, COLOURS, PAINTS, PLACES, SHAPES, Cause
from entoptic.planted.geometry import signed_distance

LEAST: dict[str, float] = {"colour": 0.01, "texture": 0.02, "shape": 0.6, "place": 0.4}
"""What is below this does not count as shown: shares of pixels, a correlation, and a share of what is painted."""

_HUE = math.radians(30)
_CHROMA = 0.15  # in opponent colours; a ground's tint has 0.02
_RADII = (10, 12, 14)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a picture shows of each aspect.

    Attributes:
        colour: share of pixels in each colour.
        texture: share of pixels in stripes that lie ("rows") or stand ("columns").
        shape: highest correlation of what is painted with each shape.
        place: share of what is painted in each quarter.
    """

    colour: dict[str, float]
    texture: dict[str, float]
    shape: dict[str, float]
    place: dict[str, float]

    def leading(self, aspect: str) -> str | None:
        """Returns the value of an aspect that is shown most, or None where none is.

        Args:
            aspect: a key of `ASPECTS`.
        """
        found: dict[str, float] = getattr(self, aspect)
        best = max(found, key=lambda value: found[value])
        if found[best] >= LEAST[aspect]:
            return best
        return "plain" if aspect == "texture" and max(self.colour.values()) >= LEAST["colour"] else None

    def shows(self, cause: Cause) -> bool:
        """Returns whether every aspect that the cause names is the leading one.

        Args:
            cause: the cause.
        """
        return all(self.leading(aspect) == value for aspect, value in cause.named.items())

    @property
    def text(self) -> str:
        """The leading value of each aspect, in words."""
        return ", ".join(f"{aspect} {self.leading(aspect) or 'none'}" for aspect in ASPECTS)


def read(image: Tensor) -> Reading:
    """Measures which cause a picture shows.

    Colours are decided by hue in opponent colours after a small blur, at any contrast above the ground's tint. Stripes are
    where brightness repeats after 4 pixels and is unlike after 2. Shapes are found by normalised correlation with outlines of
    several sizes at all positions, in what has any colour and in what has each of the four.

    Args:
        image: 3×H×W in [0, 1].
    """
    masks = colour_masks(image)
    vivid = opponent(blur(image, 1.0)).norm(dim=0) >= _CHROMA
    painted = vivid.float()
    total = float(painted.sum())
    height, width = painted.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    quarters = (painted[:rows, :columns], painted[:rows, columns:], painted[rows:, :columns], painted[rows:, columns:])
    everywhere, there = torch.ones_like(vivid), vivid
    # Narrow strokes repeat only among what is painted; stripes of no colour only among all pixels.
    lie, stand = (
        float((_striped(image, everywhere, axis) | _striped(image, there, axis)).float().mean()) for axis in (0, 1)
    )
    return Reading(
        colour=dict(zip(COLOURS, masks.float().mean((1, 2)).tolist())),
        texture={"rows": lie, "columns": stand},
        shape={shape: _correlation(torch.cat([vivid[None], masks]).float(), shape) for shape in SHAPES},
        place={place: float(part.sum()) / total if total else 0.0 for place, part in zip(PLACES, quarters)},
    )


def colour_masks(image: Tensor) -> Tensor:
    """Finds the pixels of each colour: 4×H×W bool, in the order of `COLOURS`.

    Args:
        image: 3×H×W in [0, 1].
    """
    pixels = opponent(blur(image, 1.0))  # 2×H×W
    chroma = pixels.norm(dim=0)
    found = []
    for colour in COLOURS:
        paint = opponent(torch.tensor(PAINTS[colour])[:, None, None])
        along = (pixels * paint).sum(0) / paint.norm(dim=0)
        found.append((chroma >= _CHROMA) & (along >= math.cos(_HUE) * chroma))
    return torch.stack(found)


def opponent(image: Tensor) -> Tensor:
    """Converts a picture to the linear opponent colours ((R - G)/√2, (R + G - 2B)/√6).

    Args:
        image: 3×H×W.

    Returns:
        2×H×W.
    """
    red, green, blue = image
    return torch.stack([(red - green) / math.sqrt(2), (red + green - 2 * blue) / math.sqrt(6)])


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blurs a picture by a Gaussian whose edges are mirrored.

    Args:
        image: 3×H×W.
        sigma: in pixels, up to 2.
    """
    x = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)  # one for each colour
    padded = pad(image[None], (4,) * 4, mode="reflect")
    return conv2d(conv2d(padded, kernel[:, :, None], groups=3), kernel[..., None], groups=3)[0]


def _striped(image: Tensor, within: Tensor, axis: int) -> Tensor:
    """H×W bool: brightness repeats along an axis after 4 pixels and is unlike after 2, among the pixels of a mask."""
    light, reach, window = image.mean(0), 4, 9
    keep = light.shape[axis] - reach

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values.narrow(axis, 0, keep)[None, None], window, 1, window // 2)[0, 0]

    def unlike(lag: int) -> tuple[Tensor, Tensor]:
        both = (within & within.roll(-lag, axis)).float()
        weight = mean(both)
        return mean(both * (light - light.roll(-lag, axis)) ** 2) / weight.clamp_min(1e-6), weight

    (two, _), (four, weight) = unlike(2), unlike(4)
    return (two > 0.012) & (four < 0.45 * two) & (weight > 0.1) & within.narrow(axis, 0, keep)


@cache
def _template(shape: str, radius: int) -> tuple[Tensor, Tensor]:
    """The shape less its mean over a disc that is 3 pixels wider, of norm 1, and that disc with sum 1."""
    side = 2 * (radius + 3) + 1
    inside = torch.from_numpy(signed_distance(shape, side / 2, side / 2, radius, 0.0, side) < 0).float()
    window = torch.from_numpy(signed_distance("disc", side / 2, side / 2, radius + 3, 0.0, side) < 0).float()
    window = window / window.sum()
    centred = (inside - (inside * window).sum()) * (window > 0)
    return centred / centred.norm(), window


def _correlation(masks: Tensor, shape: str) -> float:
    """The highest correlation of a shape with any of the masks (M×H×W, 0 or 1)."""
    best = 0.0
    for radius in _RADII:
        template, window = _template(shape, radius)
        if min(masks.shape[1:]) < template.shape[0] // 2:
            continue
        padded = pad(masks[:, None], (template.shape[0] // 2,) * 4)
        along, mean = conv2d(padded, torch.stack([template, window])[:, None]).unbind(1)
        norm = (float((window > 0).sum()) * (mean - mean**2).clamp_min(0)).sqrt()  # a square of 0 or 1 is itself
        best = max(best, float((along / norm.clamp_min(3.0)).max()))
    return best
