"""Errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_FEW = 8
"""How many choices a sentence lists at most."""


class UserError(Exception):
    """Something the caller can mend: says what was given, what was expected and the nearest valid choice.

    The command line prints it as one sentence and exits with code 2; anything else is a defect of Entoptic
    (exit code 1).
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class OutOfReach(UserError):
    """Asked for more than the data or the model supports."""


class Unreadable(UserError):
    """A file or a record cannot be read."""


class NoneReadable(Unreadable):
    """None of several files can be read.

    Args:
        text: the sentence.
        names: files that it names with their reasons.
    """

    def __init__(self, text: str, names: Iterable[str]) -> None:
        super().__init__(text)
        self.names = frozenset(names)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.names)


class NotAvailable(UserError):
    """Something that is needed is not there: photos, statistics, a package, a map."""


def nearest(word: str, choices: Iterable[str], *, note: str = "") -> str:
    """Suggests the closest of `choices`: `'; did you mean "layer4.2"?'`, or an empty string when none is close.

    Args:
        word: what was given.
        choices: what there is.
        note: placed behind the suggestion (say, `" (2048 channels)"`).
    """
    close = closest(word, choices)
    return f'; did you mean "{close}"{note}?' if close is not None else ""


def instead(word: str, choices: Iterable[str], *, where: str = "") -> str:
    """Says what an unknown word may have meant: the nearest choice, else all of them where they are few.

    Args:
        word: what was given.
        choices: what there is.
        where: a command that lists a long set, such as `entoptic ls methods`.

    Returns:
        What follows the sentence about the word, from its `; ` on.
    """
    known = list(choices)
    if hint := nearest(word, known):
        return hint
    if len(known) <= _FEW:
        return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}"
    return f"; `{where}` lists them" if where else f"; there are {len(known)}, such as {', '.join(known[:3])}"


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the closest of `choices` to a word, whatever their case, or None when none is close."""
    known = list(choices)
    by_lower = {choice.lower(): choice for choice in known}
    low = word.lower()
    close = difflib.get_close_matches(low, list(by_lower), n=12, cutoff=0.55)
    if close:  # among those that share about as many letters, the one that the fewest slips of a finger lead to
        best = _likeness(low, close[0])
        return by_lower[min((c for c in close if _likeness(low, c) > best - 0.1), key=lambda c: slips(low, c))]
    inside = [choice for lower, choice in by_lower.items() if low and low in lower]
    return min(inside, key=len) if inside else None


def closest_slip(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that at most two slips of a finger lead to, or None."""
    near = [(slips(word.lower(), choice.lower()), choice) for choice in choices]
    return min((one for one in near if one[0] <= 2), default=(0, None))[1]


def _likeness(word: str, choice: str) -> float:
    return difflib.SequenceMatcher(None, choice, word).ratio()


def slips(word: str, other: str) -> int:
    """Returns how many letters were left out, put in, changed or swapped with their neighbour between two words."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(word):
        above, before, row = before, row, [i + 1]
        for j, b in enumerate(other):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (a != b)))
            if i and j and a == other[j - 1] and b == word[i - 1]:
                row[-1] = min(row[-1], above[j - 1] + 1)
    return row[-1]


def counted(n: int, noun: str, many: str = "") -> str:
    """Returns a number with its noun: `1 picture`, `2 pictures`, `3 classes`.

    Args:
        n: how many.
        noun: for one.
        many: for more; "" is the noun with an s or es.
    """
    return f"{n} {plural(n, noun, many)}"


def plural(n: int, noun: str, many: str = "") -> str:
    """Returns a noun as it stands behind a number; see `counted`."""
    return noun if n == 1 else many or noun + ("es" if noun.endswith("s") else "s")


def printable(text: str) -> str:
    """Returns a text as any terminal or file takes it: bytes of a file's name that are no UTF-8 (lone surrogates) are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
