"""Rows in which things are on, 64 to a word."""

from __future__ import annotations

import numpy as np


def pack(on: np.ndarray) -> np.ndarray:
    """Returns the rows of a table of truth values as words.

    Args:
        on: M×N bool.

    Returns:
        M×W uint64; bits behind the N-th are 0.
    """
    count = on.shape[1]
    padded = np.zeros((len(on), -(-count // 64) * 64), bool)
    padded[:, :count] = on
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def unpack(words: np.ndarray, count: int) -> np.ndarray:
    """Returns words as truth values.

    Args:
        words: …×W uint64.
        count: of truth values, N.

    Returns:
        …×N bool.
    """
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :count].astype(bool)


_OF_16 = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)


def count(words: np.ndarray) -> np.ndarray:
    """Returns how many bits are on along the last axis.

    Args:
        words: …×W uint64.
    """
    if hasattr(np, "bitwise_count"):  # from numpy 2 on
        return np.bitwise_count(words).sum(-1, dtype=np.int64)
    return _OF_16[np.ascontiguousarray(words).view(np.uint16)].sum(-1, dtype=np.int64)


def exactly_one(words: np.ndarray) -> np.ndarray:
    """Returns the rows in which exactly one of several things is on.

    Args:
        words: K×W uint64.
    """
    ones, more = np.zeros_like(words[0]), np.zeros_like(words[0])
    for one in words:
        more |= ones & one
        ones |= one
    return ones & ~more
