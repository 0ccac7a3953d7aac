"""Exact statements about a proportion from a number of successes: tails, and Clopper-Pearson bounds."""

from __future__ import annotations

from functools import cache
from math import lgamma

import numpy as np


def tail(successes: int, n: int, p: float) -> float:
    """Returns P(X ≥ successes) for X binomial(n, p).

    Args:
        successes: at least 0.
        n: trials.
        p: probability of a success.
    """
    if successes <= 0 or p >= 1:
        return 1.0
    if successes > n or p <= 0:
        return 0.0
    logs = _log_choose(n)[successes:] + np.arange(successes, n + 1) * np.log(p)
    logs = logs + np.arange(n - successes, -1, -1) * np.log1p(-p)
    return float(min(1.0, np.exp(logs).sum()))


def lower_bound(successes: int, n: int, alpha: float) -> float:
    """Returns the one-sided lower Clopper-Pearson bound: above the true proportion with probability at most α.

    Args:
        successes: of n trials.
        n: trials, at least 1.
        alpha: of this one bound.
    """
    return 0.0 if successes == 0 else _lower(successes, n, alpha)


@cache
def _lower(successes: int, n: int, alpha: float) -> float:
    """The p at which so many successes or more have probability α: the tail rises with p, so halves of an interval find it."""
    low, high = 0.0, successes / n
    if successes == n:
        return float(alpha ** (1 / n))
    for _ in range(60):
        middle = (low + high) / 2
        if tail(successes, n, middle) < alpha:
            low = middle
        else:
            high = middle
    return low


@cache
def _log_choose(n: int) -> np.ndarray:
    k = np.arange(n + 1)
    table = np.array([lgamma(i + 1) for i in range(n + 1)])
    return table[n] - table[k] - table[n - k]
