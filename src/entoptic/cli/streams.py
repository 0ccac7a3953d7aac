"""Streams that fail nothing: a reader that leaves (`| head`), a closed stdout, a name that is no UTF-8."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Forgiving:
    """A text stream whose reader may leave: what is written then is dropped, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

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
    """Puts streams that fail nothing in place of stdout and stderr, and flushes them at the end."""
    before = sys.stdout, sys.stderr
    out, err = (stream or _nowhere() for stream in before)
    if isinstance(out, io.TextIOWrapper):  # names that are no UTF-8 are shown escaped, as on stderr
        out.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast(TextIO, _Forgiving(stream)) for stream in (out, err))
    try:
        yield
    finally:
        try:
            with contextlib.suppress(ValueError):  # closed meanwhile
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    """A stream for a file descriptor that is closed (`>&-`)."""
    return open(os.devnull, "w", encoding="utf-8")
