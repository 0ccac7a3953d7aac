"""Streams that fail nothing: a reader that leaves (`| head`), a closed stdout, a name that is no UTF-8."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from entoptic.errors import UserError


class _Forgiving:
    """A text stream whose reader may leave: what is written then is dropped, and the work goes on.

    Anything else that stops it, a full disk for instance, is a `UserError`, but for the stream of errors itself.
    """

    def __init__(self, stream: TextIO, is_for_errors: bool) -> None:
        self._stream, self._is_for_errors = stream, is_for_errors

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self._drop()
            if not (isinstance(error, BrokenPipeError) or self._is_for_errors):
                raise UserError(f"the answer cannot be written ({error.strerror})") from None

    def _drop(self) -> None:
        """Leads the stream nowhere, so that what it still holds can be flushed when Python ends."""
        with contextlib.suppress(OSError, ValueError):  # a stream of a test has no file behind it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Puts streams that fail nothing in place of stdout and stderr."""
    before = sys.stdout, sys.stderr
    out, err = (stream or _nowhere() for stream in before)
    if isinstance(out, io.TextIOWrapper):  # names that are no UTF-8 are shown escaped, as on stderr
        out.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = cast(TextIO, _Forgiving(out, False)), cast(TextIO, _Forgiving(err, True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    """A stream for a file descriptor that is closed (`>&-`)."""
    return open(os.devnull, "w", encoding="utf-8")
