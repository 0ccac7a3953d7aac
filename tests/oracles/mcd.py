"""Multi-dimensional concept discovery straight from its definition: dense, slow, one vector at a time.

The oracle of entoptic.units.concepts: sparse codes by coordinate descent over all other vectors until nothing moves,
PCA by the covariance matrix, and parts by a d×d solve with the concepts' bases beside a basis of their complement.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.linalg import null_space


def lasso(rows: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """argmin_c ½|target - c rows|² + penalty |c|₁ by cyclic coordinate descent."""
    c = np.zeros(len(rows))
    left = target.copy()
    for _ in range(20_000):
        most = 0.0
        for j, row in enumerate(rows):
            energy = row @ row
            inner = row @ left + energy * c[j]
            new = np.sign(inner) * max(abs(inner) - penalty, 0.0) / energy
            if new != c[j]:
                left -= (new - c[j]) * row
                most = max(most, abs(new - c[j]))
                c[j] = new
        if most < 1e-11:
            break
    return c


def self_representation(unit: np.ndarray, gamma: float) -> np.ndarray:
    """N×N coefficients with a zero diagonal."""
    found = np.zeros((len(unit), len(unit)))
    for i, y in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        rows = unit[others]
        found[i, others] = lasso(rows, y, np.abs(rows @ y).max() / gamma)
    return found


def pca(vectors: np.ndarray, alpha: float) -> np.ndarray:
    """p×C: eigenvectors of the covariance with an eigenvalue above alpha times the largest."""
    values, directions = np.linalg.eigh(np.cov(vectors.T, bias=True))
    return directions[:, values > alpha * values[-1]].T[::-1]


def decompose(bases: list[np.ndarray], phi: np.ndarray) -> np.ndarray:
    """(K+1)×d: the part of each concept and, last, of the orthogonal complement of all of them."""
    everything = np.concatenate(bases)
    square = np.concatenate([everything, null_space(everything).T])
    coefficients = np.linalg.solve(square.T, phi)
    edges = np.cumsum([0, *[len(b) for b in bases], len(square) - len(everything)])
    return np.stack([coefficients[a:b] @ square[a:b] for a, b in pairwise(edges)])


def completeness(bases: list[np.ndarray], w: np.ndarray) -> float:
    """|P_U w| / |w| by the projector onto the union, from a pseudo-inverse."""
    everything = np.concatenate(bases)
    return float(np.linalg.norm(np.linalg.pinv(everything) @ everything @ w) / np.linalg.norm(w))


def global_relevance(bases: list[np.ndarray], w: np.ndarray) -> np.ndarray:
    return np.linalg.norm(decompose(bases, w / np.linalg.norm(w)), axis=1)


def local_relevance(bases: list[np.ndarray], w: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """B×(K+1)×D from maps B×C×D, position by position."""
    found = np.zeros((len(maps), len(bases) + 1, maps.shape[2]))
    for b in range(len(maps)):
        for d in range(maps.shape[2]):
            found[b, :, d] = decompose(bases, maps[b, :, d]) @ w
    return found


def layer_norm_weight(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """w̃ = (I - 11ᵀ/d)(γ ⊙ w)."""
    d = len(w)
    return (np.eye(d) - np.ones((d, d)) / d) @ (scale * w)
