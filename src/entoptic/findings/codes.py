"""Lengths of codes in bits: of which rows a thing is on in, of a binomial's parameter, of a whole number."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

_NORMALISER = math.log2(2.865064)  # makes the code of whole numbers complete (Rissanen 1983)


@cache
def log_factorials(n: int) -> np.ndarray:
    """Returns log2 k! for k = 0 … n."""
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, n + 1)))])


def choose(n: np.ndarray | int, k: np.ndarray | int) -> np.ndarray:
    """Returns log2 of the binomial coefficient, for 0 ≤ k ≤ n.

    Args:
        n: whole numbers.
        k: whole numbers of a shape that fits.
    """
    n, k = np.asarray(n), np.asarray(k)
    table = log_factorials(int(n.max(initial=0)))
    return table[n] - table[k] - table[n - k]


@cache
def nml(n: int) -> float:
    """Returns log2 of the normalised maximum likelihood's sum for a binomial of n trials.

    The sum Σ_h C(n,h) (h/n)^h (1-h/n)^(n-h) equals Σ_k n!/((n-k)! n^k), whose terms fall like exp(-k²/2n): after some √n of
    them the rest is below the last digit (Mononen and Myllymäki 2008).

    Args:
        n: trials.
    """
    term, total = 1.0, 1.0
    for k in range(n):
        term *= (n - k) / n
        total += term
        if term < 1e-16 * total:
            break
    return math.log2(total)


def whole_number(n: int) -> float:
    """Returns the length of the universal code of a whole number from 1 on (Rissanen 1983).

    Args:
        n: the number.
    """
    length, rest = _NORMALISER, math.log2(n)
    while rest > 0:
        length += rest
        rest = math.log2(rest)
    return length


def rule_bits(used: list[int], on: tuple[int, int], size: tuple[int, int], items: int) -> float:
    """Returns what one rule of single items saves in a table that has no other rule (see `entoptic.findings.premise`).

    Args:
        used: rows in which each of its items is on.
        on: rows of each group in which all of them are on.
        size: rows of each group.
        items: in all.
    """
    rows, both = sum(size), sum(on)
    saved = sum(float(choose(rows, u) - choose(rows, u - both)) for u in used)
    said = float(choose(size[0], on[0]) + choose(size[1], on[1])) + nml(size[0]) + nml(size[1])
    which = len(used) * (math.log2(items) + nml(items)) + whole_number(len(used)) + whole_number(2) - whole_number(1)
    return saved - said - which
