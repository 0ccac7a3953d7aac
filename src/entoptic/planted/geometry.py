"""Outlines of shapes and free places for them, for generated scenes."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from entoptic.errors import UserError


def signed_distance(shape: str, x: float, y: float, radius: float, angle: float, size: int) -> np.ndarray:
    """Computes the distance in pixels to a shape's edge, negative inside; it is exact or nearly so.

    Args:
        shape: ring, disc, square, triangle or cross.
        x: column of the centre.
        y: row of the centre.
        radius: of the circle around the shape.
        angle: of its rotation, in radians.
        size: height and width of the picture.

    Returns:
        size×size distances.
    """
    rows, columns = np.mgrid[:size, :size] + 0.5
    dx, dy = columns - x, rows - y
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.78 * radius) - 0.22 * radius
    if shape == "disc":
        return np.hypot(u, v) - radius
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.75 * radius
    if shape == "triangle":
        sides = [np.cos(a) * u + np.sin(a) * v for a in 2 * np.pi * np.arange(3) / 3]
        return np.max(sides, 0) - 0.5 * radius
    if shape != "cross":
        raise UserError(f'no shape "{shape}"; there are ring, disc, square, triangle, cross')
    arm = 0.28 * radius
    bars = [np.maximum(np.abs(u) - radius, np.abs(v) - arm), np.maximum(np.abs(v) - radius, np.abs(u) - arm)]
    return np.min(bars, 0)


def free_place(
    taken: list[tuple[float, float, float]], radius: float, size: int, rng: Generator, gap: float = 1.0
) -> tuple[float, float]:
    """Draws the centre (column, row) of a circle that keeps clear of those that are there.

    Args:
        taken: column, row and radius of each circle that is there.
        radius: of the new one.
        size: height and width of the picture.
        rng: of the draw.
        gap: pixels between two circles.
    """
    for _ in range(200):
        x, y = rng.uniform(radius, size - radius, 2)
        if all(np.hypot(x - a, y - b) > radius + r + gap for a, b, r in taken):
            return x, y
    raise ValueError(f"no room for {len(taken) + 1} objects")
