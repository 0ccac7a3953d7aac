"""Distances of what is known already: class, strength, colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entoptic.atlases.distances import all_of, euclidean


def of_kinds(kinds: Sequence[int], vectors_ND: np.ndarray) -> np.ndarray:
    """Returns the distances between the means of points' kinds, N×N, scaled to at most 1.

    Kinds differ by how far apart they lie: 0 and 1 for same and other would leave the largest of these differences on the map.

    Args:
        kinds: a number for each point's kind; -1 stands for those whose kind is unknown.
        vectors_ND: the points.
    """
    of = np.unique(np.asarray(kinds), return_inverse=True)[1].reshape(-1)
    sums = np.zeros((of.max() + 1, vectors_ND.shape[1]))
    np.add.at(sums, of, vectors_ND)
    means = sums / np.bincount(of)[:, None]
    apart = all_of(euclidean(means), len(means))
    apart /= max(apart.max(), 1e-300)
    return apart[of[:, None], of[None]]


def of_numbers(values: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of numbers N or of rows of numbers N×M, scaled to at most 1.

    Args:
        values: finite.
    """
    distances = all_of(euclidean(np.asarray(values, np.float64).reshape(len(values), -1)), len(values))
    return distances / max(distances.max(), 1e-300)


def together(several: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of several distances, each scaled to at most 1: the sum of metrics is a metric.

    Args:
        several: one or more N×N.
    """
    return np.mean([one / max(one.max(), 1e-300) for one in several], axis=0)
