"""What `--workers` means."""

from __future__ import annotations

import pytest

from entoptic.errors import UserError
from entoptic.workers import count
from entoptic.workers.count import Seat, Workers, seats


def test_words() -> None:
    assert Workers.parse(None) is None
    assert Workers.parse("3") == Workers.parse(3) == Workers(count=3)
    assert Workers.parse("auto", threads=2) == Workers(count=0, threads=2)
    assert Workers.parse("ray") == Workers(cluster="ray")
    assert Workers.parse("ray://head:10001", threads=1) == Workers(cluster="ray://head:10001", threads=1)
    assert Workers.parse(Workers(count=2)) == Workers(count=2)


@pytest.mark.parametrize(
    "text", ["", "two", "0", "-1", "1.5", "2000", "ray:", "ray:head", "ray://head", "ray://head:x", True]
)
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"workers|address"):
        Workers.parse(text)


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "available_cores", lambda: 8)
    monkeypatch.setattr(count, "_free_memory", lambda: 6 * 2**30)
    assert seats(Workers(count=3), "cpu", 100) == [Seat(device="cpu", threads=2)] * 3
    assert seats(Workers(count=3, threads=1), "cpu", 100) == [Seat(device="cpu", threads=1)] * 3
    assert seats(Workers(), "cpu", 100) == [Seat(device="cpu", threads=2)] * 3, "two gigabytes for each"
    assert seats(Workers(count=5), "cpu", 2) == [Seat(device="cpu", threads=4)] * 2, "no more workers than chunks"
    assert seats(Workers(count=16), "cpu", 100)[0].threads == 1


def test_one_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = [seat.device for seat in seats(Workers(), "auto", 100)]
    assert devices == ["cuda:0", "cuda:1"]
    assert [s.device for s in seats(Workers(count=4), "cuda", 100)] == ["cuda:0", "cuda:1"] * 2
    assert [s.device for s in seats(Workers(count=2), "cuda:1", 100)] == ["cuda:1"] * 2
