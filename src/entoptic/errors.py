"""Errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the closest of `choices` to a word, whatever their case, or None when none is close."""
    known = list(choices)
    by_lower = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.55)
    if not close:
        inside = [choice for low, choice in by_lower.items() if word and word.lower() in low]
        close = [min(inside, key=len).lower()] if inside else []
    return by_lower[close[0]] if close else None


def counted(n: int, noun: str, plural: str = "") -> str:
    """Returns a number with its noun: `1 picture`, `2 pictures`.

    Args:
        n: how many.
        noun: for one.
        plural: for more; "" is the noun with an s.
    """
    return f"{n} {noun}" if n == 1 else f"{n} {plural or noun + 's'}"


def printable(text: str) -> str:
    """Returns a text as any terminal or file takes it: bytes of a file's name that are no UTF-8 (lone surrogates) are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
