"""Gives the chunks of a job to its workers until all are made; what is lost is made elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from entoptic.base.unread import hear
from entoptic.errors import UserError
from entoptic.workers.records import Chunk, Done, Failed, Lost, Made, Pool, Ready, Refused, Said, Step, Told

LOSSES = 3
"""Workers that may end over one chunk before its pieces are tried alone, or over one piece before it is given up."""
_WAIT = 1.0


class Sink(Protocol):
    """The job behind the work: it keeps what is made and is told how the workers are."""

    def made(self, piece: Any, value: Any) -> None:
        """Keeps a finished piece."""
        ...

    def failed(self, piece: Any, value: Any) -> None:
        """Keeps why a piece could not be made, after it was tried twice."""
        ...

    def lost(self, piece: Any, reason: str) -> None:
        """Keeps that workers ended over a piece, again and again."""
        ...

    def finished(self, pieces: int, seconds: float) -> None:
        """Is told of a chunk that is through."""
        ...

    def said(self, text: str) -> None:
        """Warns people."""
        ...

    def state(self, busy: list[Busy]) -> None:
        """Is told what is at work, about once a second."""
        ...


@dataclass(kw_only=True)
class Busy:
    """A chunk at work.

    Attributes:
        worker: that has it.
        chunk: the chunk.
        since: when it was given, by `time.time`.
        share: of it that is done.
    """

    worker: str
    chunk: Chunk
    since: float
    share: float = 0.0


def dispatch(pool: Pool, chunks: Iterable[Chunk], sink: Sink) -> None:
    """Has every chunk made.

    Args:
        pool: the workers.
        chunks: the work.
        sink: keeps what is made.

    Raises:
        UserError: no worker can do the work; what is made is kept.
    """
    _Dispatcher(pool, deque(chunks), sink).run()


class _Dispatcher:
    def __init__(self, pool: Pool, waiting: deque[Chunk], sink: Sink) -> None:
        self.pool, self.waiting, self.sink = pool, waiting, sink
        self.idle: list[str] = []
        self.busy: dict[str, Busy] = {}
        self.open: dict[str, set[int]] = {}
        self.again: dict[str, list[Failed]] = {}
        self.refusals: list[str] = []
        self.next = 1 + max((chunk.number for chunk in waiting), default=0)

    def run(self) -> None:
        """Goes on until nothing waits and nothing is at work."""
        while self.waiting or self.busy:
            for event in self.pool.events(_WAIT):
                self._take(event)
            self._give()
            self.sink.state(list(self.busy.values()))
            if not self.busy and self.waiting and self.pool.hopeless():
                raise UserError(self.refusals[-1] if self.refusals else "no worker is left")

    def _take(self, event: Ready | Told | Done | Lost | Refused) -> None:
        if isinstance(event, Ready):
            self.idle.append(event.worker)
        elif isinstance(event, Told):
            self._told(event)
        elif isinstance(event, Done):
            self._done(event.worker)
        elif isinstance(event, Lost):
            self._lost(event)
        else:
            if event.reason not in self.refusals:
                self.refusals.append(event.reason)
                if not self.pool.hopeless():
                    self.sink.said(f"{event.worker} does not take part: {event.reason}")

    def _told(self, event: Told) -> None:
        busy, answer = self.busy.get(event.worker), event.answer
        if isinstance(answer, Said):
            lost = answer.unread
            if lost is None or not hear(lost.source, lost.total, lost.reasons):
                self.sink.said(answer.text)
        elif busy is None:
            return
        elif isinstance(answer, Step):
            busy.share = answer.share
        elif isinstance(answer, Made):
            self.sink.made(busy.chunk.pieces[answer.piece], answer.value)
            self.open[event.worker].discard(answer.piece)
        elif isinstance(answer, Failed):
            self.open[event.worker].discard(answer.piece)
            if answer.final or busy.chunk.failed_at:
                self.sink.failed(busy.chunk.pieces[answer.piece], answer.value)
            else:
                self.again[event.worker].append(answer)

    def _done(self, worker: str) -> None:
        busy = self.busy.pop(worker, None)
        self.idle.append(worker)
        if busy is None:
            return
        chunk, again = busy.chunk, self.again.pop(worker)
        for place in sorted(self.open.pop(worker)):  # the handler forgot it
            self.sink.lost(chunk.pieces[place], "it was neither made nor refused")
        for failed in again:
            self._add(Chunk(number=self.next, pieces=(chunk.pieces[failed.piece],), failed_at=worker))
        self.sink.finished(len(chunk.pieces) - len(again), time.time() - busy.since)

    def _lost(self, event: Lost) -> None:
        self.idle = [worker for worker in self.idle if worker != event.worker]
        if (busy := self.busy.pop(event.worker, None)) is None:
            return
        left, again = self.open.pop(event.worker), self.again.pop(event.worker)
        chunk = replace(busy.chunk, losses=busy.chunk.losses + 1)
        if chunk.losses < LOSSES:
            # The whole chunk: a batch of fewer pictures may differ from this one in the last bit.
            self.waiting.appendleft(chunk)
            return
        places = sorted(left | {failed.piece for failed in again})
        if len(chunk.pieces) == 1:
            for place in places:
                self.sink.lost(chunk.pieces[place], event.reason)
            self.sink.finished(1, time.time() - busy.since)
            return
        for place in places:
            self._add(Chunk(number=self.next, pieces=(chunk.pieces[place],), losses=LOSSES - 2))
        self.sink.finished(len(chunk.pieces) - len(places), time.time() - busy.since)

    def _add(self, chunk: Chunk) -> None:
        self.waiting.append(chunk)
        self.next += 1

    def _give(self) -> None:
        """Gives waiting chunks to idle workers; what failed at a worker goes to another, if there is one."""
        for _ in range(len(self.waiting)):
            if not self.idle:
                return
            chunk = self.waiting.popleft()
            worker = next((one for one in self.idle if one != chunk.failed_at), None)
            if worker is None and any(one != chunk.failed_at for one in self.busy):
                self.waiting.append(chunk)  # another worker is coming free
                continue
            worker = worker or self.idle[0]
            self.idle.remove(worker)
            self.busy[worker] = Busy(worker=worker, chunk=chunk, since=time.time())
            self.open[worker], self.again[worker] = set(range(len(chunk.pieces))), []
            self.pool.give(worker, chunk)
