"""Chunks are given out, lost ones are made elsewhere, and nothing is forgotten; with a pool that follows a script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from kept import Kept

from entoptic.errors import UserError
from entoptic.workers.dispatch import dispatch
from entoptic.workers.records import Chunk, Done, Event, Failed, Lost, Made, Ready, Refused, Said, Told

Act = Callable[[str, Chunk], Sequence[Event]]


class Scripted:
    """Workers by name, all of which do what a function says."""

    def __init__(self, names: Sequence[str], act: Act) -> None:
        self.names, self.act = list(names), act
        self.queue: deque[Event] = deque(Ready(worker=name) for name in names)
        self.given: list[tuple[str, tuple[Any, ...]]] = []

    def events(self, timeout: float) -> list[Event]:
        return [self.queue.popleft()] if self.queue else []

    def give(self, worker: str, chunk: Chunk) -> None:
        self.given.append((worker, chunk.pieces))
        for event in self.act(worker, chunk):
            self.queue.append(event)
            if isinstance(event, Lost):
                self.queue.append(Ready(worker=worker))

    def hopeless(self) -> bool:
        return not self.names

    def close(self) -> None:
        pass


def all_made(worker: str, chunk: Chunk) -> list[Event]:
    made = [Told(worker=worker, answer=Made(piece=i, value=piece * 10)) for i, piece in enumerate(chunk.pieces)]
    return [*made, Done(worker=worker)]


def chunks(*pieces: tuple[int, ...]) -> list[Chunk]:
    return [Chunk(number=i, pieces=one) for i, one in enumerate(pieces)]


def test_every_piece_is_made_once_by_any_worker() -> None:
    pool, kept = Scripted(["a", "b"], all_made), Kept()
    dispatch(pool, chunks((1, 2), (3, 4), (5,)), kept)
    assert kept.values == {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
    assert [pieces for _, pieces in pool.given] == [(1, 2), (3, 4), (5,)]
    assert kept.through == 5
    assert {worker for worker, _ in pool.given} == {"a", "b"}


def test_a_lost_chunk_is_made_again_whole() -> None:
    """A batch of the pictures that were left would be another batch."""
    died = []

    def act(worker: str, chunk: Chunk) -> list[Event]:
        if chunk.pieces == (1, 2) and not died:
            died.append(worker)
            return [Told(worker=worker, answer=Made(piece=0, value=10)), Lost(worker=worker, reason="SIGKILL")]
        return all_made(worker, chunk)

    pool, kept = Scripted(["a", "b"], act), Kept()
    dispatch(pool, chunks((1, 2), (3,)), kept)
    assert kept.values == {1: 10, 2: 20, 3: 30}
    assert sorted(pieces for _, pieces in pool.given) == [(1, 2), (1, 2), (3,)]
    assert not kept.losses


def test_a_piece_that_ends_every_worker_costs_none_of_its_mates() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        return [Lost(worker=worker, reason="SIGSEGV")] if 2 in chunk.pieces else all_made(worker, chunk)

    pool, kept = Scripted(["a"], act), Kept()
    dispatch(pool, chunks((1, 2, 3)), kept)
    assert kept.values == {1: 10, 3: 30}
    assert kept.losses == [(2, "SIGSEGV")]
    assert kept.through == 3


def test_a_failed_piece_is_tried_once_elsewhere() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        if 2 not in chunk.pieces or worker == "b":
            return all_made(worker, chunk)
        return [
            *(
                Told(worker=worker, answer=Failed(piece=i, value="no") if p == 2 else Made(piece=i, value=p * 10))
                for i, p in enumerate(chunk.pieces)
            ),
            Done(worker=worker),
        ]

    pool, kept = Scripted(["a", "b"], act), Kept()
    dispatch(pool, chunks((1, 2), (3,), (4,)), kept)
    assert kept.values == {1: 10, 2: 20, 3: 30, 4: 40}
    assert not kept.failures
    assert pool.given[-1] == ("b", (2,))


def test_a_piece_that_fails_twice_is_listed_with_its_reason() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        return [Told(worker=worker, answer=Failed(piece=0, value=f"no at {worker}")), Done(worker=worker)]

    pool, kept = Scripted(["a", "b"], act), Kept()
    dispatch(pool, chunks((1,)), kept)
    assert kept.failures == [(1, "no at b")]
    assert [worker for worker, _ in pool.given] == ["a", "b"]


def test_what_would_fail_anywhere_is_tried_once() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        return [Told(worker=worker, answer=Failed(piece=0, value="no", final=True)), Done(worker=worker)]

    pool, kept = Scripted(["a", "b"], act), Kept()
    dispatch(pool, chunks((1,)), kept)
    assert kept.failures == [(1, "no")]
    assert len(pool.given) == 1


def test_a_single_worker_tries_again_itself() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        again = Failed(piece=0, value="no") if len(pool.given) == 1 else Made(piece=0, value=7)
        return [Told(worker=worker, answer=again), Done(worker=worker)]

    pool, kept = Scripted(["a"], act), Kept()
    dispatch(pool, chunks((1,)), kept)
    assert kept.values == {1: 7}


def test_a_forgotten_piece_is_no_silent_loss() -> None:
    pool, kept = Scripted(["a"], lambda worker, chunk: [Done(worker=worker)]), Kept()
    dispatch(pool, chunks((1,)), kept)
    assert kept.losses == [(1, "it was neither made nor refused")]


def test_where_all_workers_refuse_their_reason_is_said() -> None:
    pool, kept = Scripted([], all_made), Kept()
    pool.queue.append(Refused(worker="a", reason="there are no photos here"))
    with pytest.raises(UserError, match="there are no photos here"):
        dispatch(pool, chunks((1,)), kept)


def test_where_one_worker_refuses_the_others_go_on_and_it_is_said() -> None:
    pool, kept = Scripted(["a"], all_made), Kept()
    pool.queue.appendleft(Refused(worker="b", reason="there are no photos here"))
    dispatch(pool, chunks((1,), (2,)), kept)
    assert kept.values == {1: 10, 2: 20}
    assert kept.texts == ["b does not take part: there are no photos here"]


def test_a_worker_that_comes_late_takes_part() -> None:
    def act(worker: str, chunk: Chunk) -> list[Event]:
        if len(pool.given) == 1:
            return [Ready(worker="late"), *all_made(worker, chunk)]
        return all_made(worker, chunk)

    pool, kept = Scripted(["a"], act), Kept()
    dispatch(pool, chunks((1,), (2,), (3,)), kept)
    assert len(kept.values) == 3
    assert {worker for worker, _ in pool.given} == {"a", "late"}


def test_warnings_are_passed_on() -> None:
    pool = Scripted(["a"], lambda w, c: [Told(worker=w, answer=Said(text="careful")), *all_made(w, c)])
    kept = Kept()
    dispatch(pool, chunks((1,)), kept)
    assert kept.texts == ["careful"]
