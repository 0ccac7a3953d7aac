"""Fisher's exact test, one-sided, of many two-by-two tables at once."""

from __future__ import annotations

import numpy as np

from entoptic.findings.codes import choose

_LAST_DIGIT = 1e-17


def fisher(on: np.ndarray, other: np.ndarray, size: int, other_size: int) -> np.ndarray:
    """Returns P(X ≥ on) where `on` + `other` rows are drawn from both groups without regard to the group.

    Args:
        on: rows of the group where the thing is on, N whole numbers.
        other: rows of the other group where it is on.
        size: rows of the group.
        other_size: rows of the other group.
    """
    on, both = np.asarray(on), np.asarray(on) + np.asarray(other)
    if not on.size:
        return np.zeros(0)
    logs = choose(size, on) + choose(other_size, both - on) - choose(size + other_size, both)
    term = np.exp2(logs)
    total = term.copy()
    k = on.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(size):
            # the next table has one more row of the group; beyond the last possible one the factor is 0
            term = np.where((k < size) & (k < both), term * (size - k) * (both - k), 0.0)
            term = np.where(term > 0, term / ((k + 1) * (other_size - both + k + 1)), 0.0)
            total += term
            k += 1
            if not (term > _LAST_DIGIT * total).any():
                break
    return np.minimum(total, 1.0)


def towards(on0: np.ndarray, on1: np.ndarray, size0: int, size1: int) -> np.ndarray:
    """Returns in which of two groups things are on more often: 0 or 1 (a tie is 0).

    Args:
        on0: rows of group 0 where each is on.
        on1: rows of group 1 where each is on.
        size0: rows of group 0.
        size1: rows of group 1.
    """
    return (np.asarray(on1) * size0 > np.asarray(on0) * size1).astype(np.int64)


def p_values(on0: np.ndarray, on1: np.ndarray, size0: int, size1: int) -> np.ndarray:
    """Returns the one-sided p towards the group in which each thing is on more often.

    Args:
        on0: rows of group 0 where each is on.
        on1: rows of group 1 where each is on.
        size0: rows of group 0.
        size1: rows of group 1.
    """
    side = towards(on0, on1, size0, size1).astype(bool)
    found = np.empty(len(side))
    found[side] = fisher(np.asarray(on1)[side], np.asarray(on0)[side], size1, size0)
    found[~side] = fisher(np.asarray(on0)[~side], np.asarray(on1)[~side], size0, size1)
    return found
