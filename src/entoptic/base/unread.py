"""Says once what a job could not read of its photos, however many passes it makes over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec, TypeVar

from entoptic.errors import NoneReadable, counted, printable

P = ParamSpec("P")
R = TypeVar("R")

NAMED = 5
"""Photos that are named in a sentence; the rest is counted."""
_LONGEST = 120
"""Characters of a name in a sentence."""


class UnreadPhotos(UserWarning):
    """Photos that could not be read, and why.

    Args:
        source: where they are.
        total: photos there.
        reasons: why each could not be read, by its name.
        recorded: the sentence of an earlier job, where nothing was read by this one.
    """

    def __init__(self, source: str, total: int, reasons: Mapping[str, str], recorded: str = "") -> None:
        super().__init__(source, total, dict(reasons), recorded)
        self.source, self.total, self.reasons, self.recorded = source, total, dict(reasons), recorded

    def __str__(self) -> str:
        return f"{unread_sentence(self.total, self.reasons) or printable(self.recorded)} (photos: {printable(self.source)})"


def unread_sentence(total: int, reasons: Mapping[str, str]) -> str:
    """Returns how many photos could not be read, which and why; "" where all could.

    Args:
        total: photos that there are.
        reasons: why each of those could not be read, by its name.
    """
    if not reasons:
        return ""
    first = [f"{one_line(name)} ({reasons[name]})" for name in list(reasons)[:NAMED]]
    more = [f"and {len(reasons) - NAMED:,} more"] if len(reasons) > NAMED else []
    return f"{len(reasons):,} of {counted(total, 'photo')} could not be read: {printable('; '.join(first + more))}"


def one_line(name: str) -> str:
    """Returns a photo's name as it stands in a sentence: without line breaks and other control characters, and not endless.

    Args:
        name: of the photo; lone surrogates, which stand for bytes that are no UTF-8, are kept.
    """
    plain = "".join(letter if letter.isprintable() or "\ud800" <= letter <= "\udfff" else "?" for letter in name)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST // 2]}...{plain[-_LONGEST // 2 + 3 :]}"


@dataclass
class _Unread:
    """What is known so far of one set of photos; see `UnreadPhotos`."""

    total: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    recorded: str = ""


_Heard = dict[str, _Unread]
_heard: ContextVar[_Heard | None] = ContextVar("heard", default=None)


def hear(source: str, total: int, reasons: Mapping[str, str]) -> bool:
    """Keeps unread photos for the sentence of the job that is under way.

    Args:
        source: where they are.
        total: photos there.
        reasons: why each of those could not be read, by its name.

    Returns:
        Whether there is such a job; otherwise the caller says it.
    """
    heard = _heard.get()
    if heard is not None:
        found = heard.setdefault(source, _Unread())
        found.total = max(total, found.total)
        for name, reason in reasons.items():
            found.reasons.setdefault(name, reason)
    return heard is not None


def hear_again(source: str, recorded: object) -> None:
    """Keeps the sentence that an earlier job wrote down: it is said where this job reads no photo itself.

    Args:
        source: where the photos are.
        recorded: the sentence; anything else is passed over.
    """
    heard = _heard.get()
    if heard is not None and isinstance(recorded, str) and recorded:
        heard.setdefault(source, _Unread()).recorded = recorded


@contextmanager
def _hearing(kept: _Heard) -> Iterator[None]:
    token = _heard.set(kept)
    try:
        yield
    finally:
        _heard.reset(token)


def names_unread(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function that says at its end, in one warning a set of photos, which could not be read and why.

    What it calls leaves that to it. An error that names them all is enough.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _heard.get() is not None:
            return function(*args, **kwargs)
        kept: _Heard = {}
        told = frozenset[str]()
        try:
            with _hearing(kept):
                return function(*args, **kwargs)
        except NoneReadable as error:
            told = error.names
            raise
        finally:
            for source, one in kept.items():
                in_the_error = bool(one.reasons) and one.reasons.keys() <= told
                if (one.reasons or one.recorded) and not in_the_error:
                    warnings.warn(UnreadPhotos(source, one.total, one.reasons, one.recorded), stacklevel=2)

    return run


@contextmanager
def said_elsewhere() -> Iterator[None]:
    """Keeps the warning back: for a caller whose own answer names these photos."""
    with _hearing({}):
        yield
