"""Words that several rooms put into sentences."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun: `1 picture`, `2 pictures`, `3 classes`."""
    return f"{n} {plural(n, noun)}"


def plural(n: int, noun: str) -> str:
    """Returns a noun as it stands behind a number."""
    return noun if n == 1 else noun + ("es" if noun.endswith("s") else "s")
