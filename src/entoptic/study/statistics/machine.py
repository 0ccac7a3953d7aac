"""The machine interpretability score: the same trials answered by distances in a network's features.

It screens units and plans studies. It is never a result about people, and it is circular where a method optimises the same
network's features. Definition: a(q, E) is the mean similarity of a query to a reference set, Δ(q) = a(q, E⁺) − a(q, E⁻), and
P = σ(α·(Δ(q⁺) − Δ(q⁻))).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

ALPHA = 10.0
"""Default sharpness α. The published value is not known; reports name the one that was used."""


def leaning(to_high_K: np.ndarray, to_low_K: np.ndarray) -> float:
    """Returns Δ of a query: its mean similarity to the high references minus that to the low ones."""
    return float(np.mean(to_high_K) - np.mean(to_low_K))


def chance_right(
    right_to_high_K: np.ndarray, right_to_low_K: np.ndarray, wrong_to_high_K: np.ndarray, wrong_to_low_K: np.ndarray,
    *, alpha: float = ALPHA,
) -> float:  # fmt: skip
    """Returns the probability with which the machine takes the right query of one trial.

    Args:
        right_to_high_K: similarities of the right query to the K high references.
        right_to_low_K: to the low ones.
        wrong_to_high_K: similarities of the other query to the high references.
        wrong_to_low_K: to the low ones.
        alpha: sharpness; 0 guesses, infinity always takes the larger.
    """
    gap = leaning(right_to_high_K, right_to_low_K) - leaning(wrong_to_high_K, wrong_to_low_K)
    if np.isinf(alpha):
        return 0.5 if gap == 0 else float(gap > 0)
    return float(expit(alpha * gap))


def query_chances(
    queries_QC: np.ndarray, high_KC: np.ndarray, low_KC: np.ndarray | None, *, alpha: float = ALPHA
) -> np.ndarray:
    """Returns the probability of choosing each of Q queries, a softmax of α·Δ; with two it is the score's P.

    Args:
        queries_QC: features of the queries.
        high_KC: of the high references; without any, all queries are alike.
        low_KC: of the low references, or None where only high ones are shown.
        alpha: sharpness.
    """
    if not len(high_KC):
        return np.full(len(queries_QC), 1 / len(queries_QC))
    queries = _normalised(queries_QC)
    lean_Q = (queries @ _normalised(high_KC).T).mean(1)
    if low_KC is not None and len(low_KC):
        lean_Q = lean_Q - (queries @ _normalised(low_KC).T).mean(1)
    return _softmax(alpha * lean_Q)


def odd_chances(pictures_QC: np.ndarray, *, alpha: float = ALPHA) -> np.ndarray:
    """Returns the probability of calling each of Q pictures the odd one: a softmax of its mean distance to the others.

    Args:
        pictures_QC: features of the pictures.
        alpha: sharpness.
    """
    pictures = _normalised(pictures_QC)
    alike = pictures @ pictures.T
    others = (alike.sum(1) - np.diag(alike)) / max(len(alike) - 1, 1)
    return _softmax(-alpha * others)


def _normalised(rows_NC: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows_NC, float)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _softmax(values_Q: np.ndarray) -> np.ndarray:
    powers = np.exp(values_Q - values_Q.max())
    return powers / powers.sum()
