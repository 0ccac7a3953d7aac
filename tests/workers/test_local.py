"""Worker processes of this machine: they start, are killed, break and end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kept import Kept
from works import Squares

from entoptic.errors import UserError
from entoptic.workers.count import Seat, Workers
from entoptic.workers.dispatch import dispatch
from entoptic.workers.local import LocalPool
from entoptic.workers.pools import opened
from entoptic.workers.records import Chunk

ONE = [Seat(device="cpu", threads=1)]


def work(*chunks: tuple[object, ...], workers: int = 1, refusal: str = "") -> Kept:
    kept = Kept()
    with opened(Squares(refusal), Workers(count=workers, threads=1), "cpu", len(chunks)) as pool:
        dispatch(pool, [Chunk(number=i, pieces=one) for i, one in enumerate(chunks)], kept)
    return kept


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text() if Path("/proc").is_dir() else True


def test_numbers_are_squared_and_what_a_library_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    kept = work((1, 2), ("print hello", "warn careful"), ("threads",))
    assert kept.values == {1: 1, 2: 4, "print hello": "print hello", "warn careful": "warn careful", "threads": 1}
    assert kept.texts == ["careful"]
    assert "hello" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_chunk_made_again(tmp_path: Path) -> None:
    kept = work((1, f"die-once {tmp_path / 'mark'}", 3))
    assert set(kept.values) == {1, f"die-once {tmp_path / 'mark'}", 3}
    assert not kept.losses


@pytest.mark.slow
def test_what_kills_every_worker_is_listed_and_its_mates_are_made() -> None:
    kept = work((1, "die", 3), (5,), workers=2)
    assert set(kept.values) == {1, 3, 5}
    assert kept.losses == [("die", "a worker ended: it was ended by SIGKILL")]


@pytest.mark.slow
def test_a_defect_is_listed_with_its_words() -> None:
    kept = work(("break",))
    assert kept.losses == [("break", "a worker ended: ZeroDivisionError: one over none")]


@pytest.mark.slow
def test_a_failure_is_tried_by_another_process() -> None:
    kept = work(("fail",), (2,), ("sleep 0.3",), workers=2)
    assert kept.values == {2: 4, "sleep 0.3": "sleep 0.3"}
    assert [piece for piece, _ in kept.failures] == ["fail"]


def test_a_worker_that_cannot_begin_says_why() -> None:
    with pytest.raises(UserError, match="there are no photos here"):
        work((1,), refusal="there are no photos here")


def test_what_cannot_be_sent_is_refused() -> None:
    class Local(Squares):
        pass

    with pytest.raises(UserError, match="workers cannot be sent what was given"):
        LocalPool(Local(), ONE)


@pytest.mark.slow
def test_a_class_that_a_worker_cannot_import_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(Path(__file__).parent)])
    with pytest.raises(UserError, match="must be in a module that can be imported"):
        work((1,))


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_at_once() -> None:
    class Interrupted(Kept):
        def made(self, piece: object, value: object) -> None:
            raise KeyboardInterrupt

    pool = LocalPool(Squares(), ONE * 2)
    started = time.monotonic()
    processes = list(pool.processes.values())
    with pytest.raises(KeyboardInterrupt):
        dispatch(pool, [Chunk(number=0, pieces=("sleep 0.1",)), Chunk(number=1, pieces=("sleep 60",))], Interrupted())
    pool.close()
    assert time.monotonic() - started < 50
    assert not any(map(is_running, processes))


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal")
def test_workers_end_when_their_job_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from works import Squares
from entoptic.workers.local import LocalPool
from entoptic.workers.count import Seat
pool = LocalPool(Squares(), [Seat(device="cpu", threads=1)])
while not pool.events(1):
    pass
print(pool.processes["worker 1"], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        worker = int(job.stdout.readline())
        assert is_running(worker)
        job.kill()
        end = time.monotonic() + 20
        while is_running(worker) and time.monotonic() < end:
            time.sleep(0.1)
    assert not is_running(worker)
