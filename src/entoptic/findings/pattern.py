"""`Pattern`: things that are on together in more photos of one group than of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Clause = tuple[int, ...]
"""Items of which exactly one is on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """A conjunction of clauses with what was counted.

    Attributes:
        clauses: what is on together; most clauses are a single item.
        on: rows of group 0 and of group 1 in which it holds.
        size: rows of both groups.
        towards: the group in which it holds more often, 0 or 1.
        bits: what it saves, given the other patterns.
        p: Fisher's exact test, one-sided towards that group, of this pattern alone.
        rows: N bool, where it holds.
    """

    clauses: tuple[Clause, ...]
    on: tuple[int, int]
    size: tuple[int, int]
    towards: int
    bits: float
    p: float
    rows: np.ndarray

    @property
    def items(self) -> tuple[int, ...]:
        """All items, ascending."""
        return tuple(sorted(item for clause in self.clauses for item in clause))

    def __str__(self) -> str:
        words = " and ".join(" xor ".join(map(str, clause)) for clause in self.clauses)
        return f"{words} ({self.on[0]} of {self.size[0]}, {self.on[1]} of {self.size[1]})"
