"""Vectors made comparable, and distances between them."""

from __future__ import annotations

import numpy as np

from entoptic.atlases.contract import Rows, Space

COMPONENTS = 50
"""Leading components that neighbour methods read of longer vectors."""


def standardised(values_NC: np.ndarray) -> np.ndarray:
    """Returns the columns that vary, each with mean 0 and standard deviation 1, float32.

    Args:
        values_NC: finite numbers.
    """
    values = np.asarray(values_NC, np.float64)
    centred = values - values.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    varies = spread > 1e-6 * np.maximum(1e-3, np.abs(values).max(0, initial=0))
    return np.ascontiguousarray(centred[:, varies] / spread[varies], np.float32)


def principal(vectors_ND: np.ndarray, count: int, *, centre: bool = True) -> np.ndarray:
    """Returns the coordinates of points on their leading principal axes, N×count, each axis with a fixed sign.

    Args:
        vectors_ND: the points.
        count: of axes; where there are fewer, the rest is 0.
        centre: whether the axes go through the mean, or through the origin.
    """
    x = np.asarray(vectors_ND, np.float64)
    x = x - x.mean(0) if centre else x
    axes = np.linalg.eigh(x.T @ x)[1][:, ::-1] if x.shape[1] <= len(x) else np.linalg.svd(x, full_matrices=False)[2].T
    axes = axes[:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
    found = x @ axes
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))


def reduced(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns vectors as neighbour methods read them: at most `COMPONENTS` long."""
    return principal(vectors_ND, COMPONENTS) if vectors_ND.shape[1] > COMPONENTS else vectors_ND.astype(np.float64)


def euclidean(vectors_ND: np.ndarray) -> Rows:
    """Returns the Euclidean distances of points."""
    x = np.asarray(vectors_ND, np.float64)
    x = x - x.mean(0)
    squares = (x**2).sum(1)

    def rows(chosen: np.ndarray) -> np.ndarray:
        squared = squares[chosen, None] + squares[None] - 2 * x[chosen] @ x.T
        squared[np.arange(len(chosen)), chosen] = 0
        return np.sqrt(np.maximum(squared, 0))

    return rows


def angular(vectors_ND: np.ndarray) -> Rows:
    """Returns the angles between the directions of points."""
    x = directions(vectors_ND)

    def rows(chosen: np.ndarray) -> np.ndarray:
        found = np.arccos(np.clip(x[chosen] @ x.T, -1, 1))
        found[np.arange(len(chosen)), chosen] = 0
        return found

    return rows


def held(distances_NN: np.ndarray) -> Rows:
    """Returns distances that are held already."""
    return lambda chosen: distances_NN[chosen]


def all_of(rows: Rows, n: int) -> np.ndarray:
    """Returns the distances between all n points, symmetric to the last bit."""
    found = rows(np.arange(n))
    return (found + found.T) / 2


def directions(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns vectors with length 1; the zero vector stays."""
    x = np.asarray(vectors_ND, np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1)


def on_map(positions: np.ndarray, space: Space) -> Rows:
    """Returns the distances on a map: straight lines on the plane, great circles on the sphere."""
    return angular(positions) if space is Space.SPHERE else euclidean(positions)
