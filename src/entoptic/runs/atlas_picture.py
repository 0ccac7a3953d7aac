"""One still picture of a map: for readers without scripts, for papers and for documentation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from entoptic.atlases.contract import Layout, Space
from entoptic.runs.atlas_points import Column, Points
from entoptic.runs.atlas_thumbnails import Thumbnails

WIDTH, HEIGHT = 1200, 900
_EDGE = 40
_SHOWN = 44
"""Side of a picture on it, in pixels."""
_PAPER = (251, 250, 248)
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#edc948", "#9c755f", "#ff9da7", "#8a8a8a",
)  # fmt: skip
"""Colours of kinds; further ones come round again."""
SCALE = ("#30246e", "#4b50a8", "#3f7fb5", "#3aa3a0", "#6cc07a", "#c3d25b", "#f2d34c")
"""Colours of numbers, from the 2 % quantile to the 98 % quantile."""
UNKNOWN = "#b5b1aa"


def colours_of(column: Column) -> list[str]:
    """Returns the colour of each point by a column.

    Args:
        column: kinds or numbers.
    """
    if column.kinds is not None:
        return [PALETTE[v % len(PALETTE)] if v >= 0 else UNKNOWN for v in column.values.tolist()]
    finite = column.values[np.isfinite(column.values)]
    low, high = np.quantile(finite, [0.02, 0.98]) if len(finite) else (0.0, 1.0)
    steps = np.clip((column.values - low) / max(high - low, 1e-300), 0, 1) * (len(SCALE) - 1)
    return [SCALE[round(step)] if np.isfinite(step) else UNKNOWN for step in steps]


def flat(layout: Layout) -> np.ndarray:
    """Returns where points lie in a picture of shape 1 by 1: as on the map; of a sphere, its two halves side by side.

    Args:
        layout: the map.
    """
    at = layout.positions.astype(np.float64)
    if layout.space is Space.SPHERE:
        front = at[:, 2] >= 0
        across = np.where(front, at[:, 0], 2.1 - at[:, 0])
        at = np.stack([across, at[:, 1]], 1)
        return (at - [-1, -1.55]) / 3.1
    low, high = at.min(0), at.max(0)
    return (at - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5


def draw_map(points: Points, layout: Layout, thumbnails: Thumbnails, column: Column) -> bytes:
    """Draws every point in its colour, and pictures wherever there is room for one.

    Args:
        points: of the map.
        layout: the map.
        thumbnails: of the points.
        column: that colours them.

    Returns:
        A file in WebP.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(image)
    side = min(WIDTH, HEIGHT) - 2 * _EDGE
    span = WIDTH - 2 * _EDGE if layout.space is Space.SPHERE else side
    at = flat(layout) * span + [WIDTH / 2 - span / 2, HEIGHT / 2 - span / 2]
    at[:, 1] = HEIGHT - at[:, 1]
    colours = colours_of(column)
    radius = 2 if len(points) > 3000 else 3
    for (x, y), colour in zip(at.tolist(), colours):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    opened: dict[int, Image.Image] = {}
    taken = np.zeros((0, 2))
    for i, (x, y) in enumerate(at.tolist()):
        if len(taken) and (np.abs(taken - [x, y]).max(1) < _SHOWN + 6).any():
            continue
        taken = np.concatenate([taken, [[x, y]]])
        which, place = divmod(i, thumbnails.on_sheet)
        if which not in opened:
            opened[which] = Image.open(io.BytesIO(thumbnails.sheets[which])).convert("RGB")
        left, top = place % thumbnails.on_row * thumbnails.cell, place // thumbnails.on_row * thumbnails.cell
        small = opened[which].crop((left, top, left + thumbnails.cell, top + thumbnails.cell))
        half = _SHOWN // 2
        box = (round(x) - half, round(y) - half, round(x) + half, round(y) + half)
        draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 1, box[3] + 1), fill=colours[i])
        image.paste(small.resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC), box[:2])
    file = io.BytesIO()
    image.save(file, "WEBP", quality=75, method=4)
    return file.getvalue()
