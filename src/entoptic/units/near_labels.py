"""The labels that a mistyped one may mean, matched word by word.

`goldn retriever` is one slip from `golden retriever`. `gown` has similar letters, but lacks a whole word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from entoptic.errors import nearest, slips

_MOST_SLIPS = 3
"""Words that differ by more are other words."""
_MORE_WORDS = 0.5
"""Cost of each word of a label that was not given."""
_SHARE = 0.4
"""Slips a letter above which nothing is near."""


def near_labels(text: str, labels: Iterable[str], count: int = 3) -> list[str]:
    """Returns the labels that a text is fewest slips from, the nearest first; none where none is near.

    Args:
        text: what was given.
        labels: what there is.
        count: how many are returned at most.
    """
    wanted = _words(text[:80])
    if not wanted:
        return []
    letters = sum(map(len, wanted))
    scored = sorted((_cost(wanted, _words(label)), i, label) for i, label in enumerate(dict.fromkeys(labels)))
    return [label for cost, _, label in scored[:count] if cost <= max(1.0, _SHARE * letters)]


def nearest_label(text: str, labels: Iterable[str]) -> str:
    """Suggests the nearest label: `'; did you mean "golden retriever"?'`, or those that are as near.

    Args:
        text: what was given.
        labels: what there is.
    """
    known = list(labels)
    near = near_labels(text, known)
    if not near:
        return nearest(text, known)
    wanted = _words(text[:80])
    best = _cost(wanted, _words(near[0]))
    quoted = [f'"{label}"' for label in near if _cost(wanted, _words(label)) <= best]
    return f"; did you mean {' or '.join([', '.join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)}?"


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _cost(wanted: tuple[str, ...], label: tuple[str, ...]) -> float:
    """Slips between two names: word by word, or of the whole where a space was left out or put in."""
    pairs = sorted((_slips(w, k), i, j) for i, w in enumerate(wanted) for j, k in enumerate(label))
    left, kept, cost = set(range(len(wanted))), set(range(len(label))), 0.0
    for slipped, i, j in pairs:
        if i in left and j in kept and slipped <= _MOST_SLIPS and slipped < len(wanted[i]):
            left.remove(i)
            kept.remove(j)
            cost += slipped
    cost += sum(len(wanted[i]) for i in left) + _MORE_WORDS * len(kept)
    return min(cost, joined) if (joined := _slips("".join(wanted), "".join(label))) <= _MOST_SLIPS else cost


@lru_cache(maxsize=1 << 16)
def _slips(word: str, other: str) -> int:
    """Slips between two words, or one more than the most that count."""
    if abs(len(word) - len(other)) > _MOST_SLIPS or max(len(set(word) - set(other)), len(set(other) - set(word))) > 3:
        return _MOST_SLIPS + 1
    return slips(word, other)
