"""Errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the caller can mend: says what was given, what was expected and the nearest valid choice.

    The command line prints it as one sentence and exits with code 2; anything else is a defect of Entoptic
    (exit code 1).
    """


class OutOfReach(UserError):
    """Asked for more than the data or the model supports."""


class Unreadable(UserError):
    """A file or a record cannot be read."""


class NotAvailable(UserError):
    """Something that is needed is not there: photos, statistics, a package, a map."""


def nearest(word: str, choices: Iterable[str], *, note: str = "") -> str:
    """`'; did you mean "layer4.2"?'` for the closest of `choices`, or an empty string when none is close.

    `note` is placed behind the suggestion (say, `" (2048 channels)"`).
    """
    known = list(choices)
    by_lower = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.55)
    if not close:
        inside = [choice for low, choice in by_lower.items() if word and word.lower() in low]
        close = [min(inside, key=len).lower()] if inside else []
    return f'; did you mean "{by_lower[close[0]]}"{note}?' if close else ""
