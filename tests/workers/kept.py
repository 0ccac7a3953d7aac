"""A sink that keeps everything."""

from __future__ import annotations

from typing import Any


class Kept:
    """What a job was told."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.failures: list[tuple[Any, Any]] = []
        self.losses: list[tuple[Any, str]] = []
        self.texts: list[str] = []
        self.through = 0
        self.states: list[Any] = []

    def made(self, piece: Any, value: Any) -> None:
        self.values[piece] = value

    def failed(self, piece: Any, value: Any) -> None:
        self.failures.append((piece, value))

    def lost(self, piece: Any, reason: str) -> None:
        self.losses.append((piece, reason))

    def finished(self, pieces: int, seconds: float) -> None:
        self.through += pieces

    def said(self, text: str) -> None:
        self.texts.append(text)

    def state(self, busy: Any) -> None:
        self.states.append(busy)
