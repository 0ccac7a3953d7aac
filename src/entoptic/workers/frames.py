"""Objects over pipes between a job and a worker that it started: a length, then a pickle."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import threading
from typing import Any, BinaryIO

from entoptic.errors import UserError

_LENGTH = struct.Struct(">Q")
_LOCK = type(threading.Lock())


def send(stream: BinaryIO, value: Any) -> None:
    """Writes an object.

    Raises:
        OSError: the other side has ended.
    """
    data = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Reads an object that `send` wrote.

    Raises:
        EOFError: the other side has ended, also in the middle of an object.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if data is None or len(data) < length:
        raise EOFError
    return data


class _Pickler(pickle.Pickler):
    """Makes locks anew, and names torch's memory formats by their module: pickle takes whatever module has an attribute `torch`."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _LOCK):
            return threading.Lock, ()
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.memory_format):
            return _memory_format, (str(value).removeprefix("torch."),)
        return NotImplemented


def _memory_format(name: str) -> Any:
    import torch

    return getattr(torch, name)


def packed(work: Any) -> bytes:
    """Returns a job's work as bytes for other processes.

    Raises:
        UserError: it holds what cannot be sent.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(work)
        return buffer.getvalue()
    except Exception as error:  # a class of a notebook, a lock, an open file: each says it in its own way
        raise UserError(
            f"workers cannot be sent what was given ({type(error).__name__}: {str(error)[:160]}); give the network and the "
            "photos by name, or leave workers out"
        ) from None


def unpacked(data: bytes) -> Any:
    """Returns the work that `packed` took.

    Raises:
        UserError: its classes are not here.
    """
    try:
        return pickle.loads(data)
    except (AttributeError, ImportError) as error:
        raise UserError(
            f"a worker cannot load what was given ({error}); classes must be in a module that can be imported, "
            "not in a script or a notebook, or give the network by name"
        ) from None
