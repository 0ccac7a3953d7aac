"""Words that several rooms put into sentences."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun: `1 picture`, `2 pictures`, `3 classes`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}{'es' if noun.endswith('s') else 's'}"
