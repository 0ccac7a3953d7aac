"""Sidecars of many pictures in little memory: what every page needs is held as it is, the rest is packed."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_HELD = (
    "unit",
    "label",
    "layer",
    "readout",
    "method",
    "method_title",
    "sample",
    "key",
    "seed",
    "alt",
    "model",
    "config",
)
"""What pages of other units, the index and the order of pages read of a picture."""
_UNPACKED = 64
"""Sidecars that are held unpacked: about those of one page."""


class PackedSidecar(Mapping[str, Any]):
    """A sidecar whose rarer entries are unpacked when they are asked for.

    Args:
        record: the sidecar's content, which is JSON.
    """

    __slots__ = ("_held", "_packed")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._held = {name: _shared(record[name]) for name in _HELD if name in record}
        rest = {name: value for name, value in record.items() if name not in self._held}
        self._packed = zlib.compress(json.dumps(rest, ensure_ascii=True, separators=(",", ":")).encode(), 1)

    def __getitem__(self, name: str) -> Any:
        return self._held[name] if name in _HELD else _unpacked(self._packed)[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._held
        yield from _unpacked(self._packed)

    def __len__(self) -> int:
        return len(self._held) + len(_unpacked(self._packed))


def _shared(value: Any) -> Any:
    """A value that others may hold too: pictures of a run share their network, layer and method."""
    if isinstance(value, str):
        return sys.intern(value)
    return _parsed(json.dumps(value)) if isinstance(value, dict) else value


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    return json.loads(text)


@lru_cache(maxsize=_UNPACKED)
def _unpacked(packed: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(packed))
    return found
