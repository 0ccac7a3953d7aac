"""What a job and its workers tell each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from entoptic.base.unread import UnreadPhotos


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Pieces of work that one worker does together.

    Attributes:
        number: of the chunk in its job.
        pieces: descriptions that the job's `Work` understands; they can be sent to another process.
        losses: workers that ended while they had it.
        failed_at: the worker at which its pieces failed before, "" where they are tried for the first time.
    """

    number: int
    pieces: tuple[Any, ...]
    losses: int = 0
    failed_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished piece.

    Attributes:
        piece: its place in its chunk.
        value: what was made.
    """

    piece: int
    value: Any


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A piece that could not be made.

    Attributes:
        piece: its place in its chunk.
        value: why, in the form that the job keeps.
        final: whether it would fail anywhere.
    """

    piece: int
    value: Any
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a chunk is.

    Attributes:
        share: of it that is done, from 0 to 1.
    """

    share: float


@dataclass(frozen=True, kw_only=True)
class Said:
    """A warning for people.

    Attributes:
        text: the warning.
        unread: where it is that photos could not be read.
    """

    text: str
    unread: UnreadPhotos | None = None


Answer = Made | Failed | Step | Said
"""What a worker tells while it makes a chunk."""
Tell = Callable[[Answer], None]
Handler = Callable[[Sequence[Any], Tell], None]
"""Makes the pieces of a chunk; every piece is told of as made or failed."""


class Work(Protocol):
    """A job as a worker gets it. It is sent to other processes."""

    def start(self, device: str) -> Handler:
        """Loads what the work needs, once for each worker.

        Args:
            device: of the worker, "" where the job's own choice stands.

        Raises:
            UserError: it cannot be done here.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has loaded what it needs.

    Attributes:
        worker: its name.
    """

    worker: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer of a worker about its chunk.

    Attributes:
        worker: its name.
        answer: what it says.
    """

    worker: str
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Done:
    """A worker is through with its chunk and takes the next.

    Attributes:
        worker: its name.
    """

    worker: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker has ended, by a signal, a defect or with its machine. What it had is to be made elsewhere.

    Attributes:
        worker: its name.
        reason: what ended it.
    """

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A worker cannot do this work at all: it does not see the photos, has other versions, cannot load the network.

    Attributes:
        worker: its name.
        reason: why, in a sentence.
    """

    worker: str
    reason: str


Event = Ready | Told | Done | Lost | Refused


class Pool(Protocol):
    """Workers of one kind. Those that end are replaced, and new ones may come at any time."""

    def events(self, timeout: float) -> list[Event]:
        """Returns what happened, after at most `timeout` seconds."""
        ...

    def give(self, worker: str, chunk: Chunk) -> None:
        """Gives a chunk to a worker that is ready or done."""
        ...

    def hopeless(self) -> bool:
        """Whether no worker is left and none will come."""
        ...

    def close(self) -> None:
        """Ends all workers."""
        ...
