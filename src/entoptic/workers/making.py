"""What a worker does, wherever it runs: it begins once, and makes chunks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from entoptic.base.unread import UnreadPhotos
from entoptic.workers import frames
from entoptic.workers.records import Answer, Failed, Handler, Made, Said, Step, Tell

_EVERY = 0.5
"""Seconds between two reports of how far a chunk is."""


def begin(work: bytes, device: str, threads: int) -> Handler:
    """Sets the threads and loads what the work needs. Warnings are the job's, which has loaded the same.

    Args:
        work: see `frames.packed`.
        device: of this worker, "" for the job's own choice.
        threads: on the CPU.

    Raises:
        UserError: the work cannot be done here.
    """
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Handler = frames.unpacked(work).start(device)
        return found


def make(handler: Handler, pieces: Sequence[Any], tell: Tell) -> None:
    """Makes a chunk and tells of every piece; warnings are told, too.

    Args:
        handler: of the work.
        pieces: the chunk.
        tell: takes the answers.
    """
    last = time.monotonic()

    def now_and_then(answer: Answer) -> None:
        nonlocal last
        if isinstance(answer, Step):
            if time.monotonic() - last < _EVERY:
                return
            last = time.monotonic()
        tell(answer)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: tell(_said(message))
        handler(pieces, now_and_then)


def _said(message: Warning | str) -> Said:
    return Said(text=str(message), unread=message if isinstance(message, UnreadPhotos) else None)


def collected(handler: Handler, pieces: Sequence[Any]) -> list[Answer]:
    """Makes a chunk and returns its answers all at once, but for how far it was."""
    found: list[Answer] = []
    make(handler, pieces, found.append)
    return [answer for answer in found if isinstance(answer, Made | Failed | Said)]


def own_versions() -> dict[str, str]:
    """Returns the versions here of what can change a result."""
    found = {}
    for name in ("entoptic", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # it runs from its source tree
            found[name] = "unknown"
    return found


def differing(here: dict[str, str], there: dict[str, str]) -> str:
    """Returns what differs, in words: "torch 2.5.0 where the job has 2.6.0"; "" where nothing does."""
    return " and ".join(
        f"{name} {there.get(name, 'unknown')} where the job has {version}"
        for name, version in here.items()
        if there.get(name) != version
    )
