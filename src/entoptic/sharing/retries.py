"""Asks a server again where it was busy or away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from entoptic.errors import NotAvailable, UserError

Answer = TypeVar("Answer")

TRIES = 6
FIRST_WAIT = 1.0
"""Seconds before the second try; each further wait is twice as long."""


def asked(call: Callable[[], Answer], what: str, *, wait: Callable[[float], None] = time.sleep) -> Answer:
    """Calls a server and returns its answer; one that is busy or away is asked again, with longer and longer waits.

    Args:
        call: asks once.
        what: is asked for, as the begin of the message.
        wait: waits for seconds.

    Raises:
        NotAvailable: the server refused, or was busy or away every time.
    """
    for tried in range(1, TRIES + 1):
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            if _of_the_disk(error):
                raise
            if not is_passing(error) or tried == TRIES:
                raise NotAvailable(f"{what}: {said(error)}") from None
            wait(FIRST_WAIT * 2 ** (tried - 1))
    raise AssertionError("the last try returns or raises")


def _of_the_disk(error: Exception) -> bool:
    """Whether it is of this machine's files: a full disk, a folder that may not be written."""
    away = isinstance(error, ConnectionError | TimeoutError) or status_of(error) is not None
    return isinstance(error, OSError) and error.errno is not None and not away


def status_of(error: BaseException) -> int | None:
    """Returns the status that a server answered with, or None where it did not answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_passing(error: BaseException) -> bool:
    """Returns whether the same request may succeed later: the server is busy, broken or away."""
    status = status_of(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    # The hub's library has had several HTTP clients; all of them call it so.
    away = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return away or isinstance(error, ConnectionError | TimeoutError)


def said(error: BaseException) -> str:
    """Returns what went wrong in a sentence. Headers, which hold the token, are no part of it."""
    status = status_of(error)
    if status is not None:
        meaning = {
            401: "the token is missing or was refused; `hf auth login` or HF_TOKEN gives one",
            403: "the token does not allow it; it needs the right to write",
            404: "there is no such repository, or it is private",
            409: "something else was stored there at the same time",
            413: "the server takes no file of this size",
            429: "the server asks to wait",
        }
        return f"the hub answered {status}" + (f" ({meaning[status]})" if status in meaning else "")
    lines = str(error).strip().splitlines()
    return f"the hub cannot be reached ({type(error).__name__}{': ' + lines[0][:160] if lines else ''})"
