"""Progress without a terminal: a line now and then."""

from __future__ import annotations

import io

from entoptic.base.progress import EVERY, Heartbeat, Reporter, reporter, short_time


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_seldom_and_say_what_is_left() -> None:
    clock, said = Clock(), io.StringIO()
    beat = Heartbeat(said, clock)
    beat.start("vital", 6, 0)
    for step in range(1, 101):
        clock.now += 0.75
        beat.step(step, 100, 3)
    beat.finish(3, 60.0)
    lines = said.getvalue().splitlines()
    assert len(lines) == 75 // EVERY
    assert lines[0] == "vital: 0.6 of 6 pictures, 15 s so far, 2 min left"
    assert lines[-1] == "vital: 3 of 6 pictures, 75 s so far, 75 s left"


def test_a_short_job_says_nothing() -> None:
    clock, said = Clock(), io.StringIO()
    beat = Heartbeat(said, clock)
    beat.start("vital", 1, 0)
    for done in range(10):
        clock.now += 0.2
        beat.progress("reading photos", done, 10)
        beat.step(done, 10, 1)
    beat.finish(1, 2.0)
    assert said.getvalue() == ""


def test_passes_have_lines_too() -> None:
    clock, said = Clock(), io.StringIO()
    beat = Heartbeat(said, clock)
    for done in (1, 2, 4):
        clock.now += 20
        beat.progress("verifying", done, 4)
    clock.now += 20
    beat.start("vital", 1, 0)
    clock.now += 5
    beat.step(1, 2, 1)
    assert said.getvalue().splitlines() == [
        "verifying: 1 of 4, 0 s so far",
        "verifying: 2 of 4, 20 s so far, 40 s left",
        "verifying: 4 of 4, 40 s so far",
        "vital: 0.5 of 1 picture, 5 s so far",
    ]


def test_what_is_read_once_does_not_count_as_pace() -> None:
    clock, said = Clock(), io.StringIO()
    beat = Heartbeat(said, clock)
    beat.start("vital", 10, 0)
    clock.now += 40  # references are read
    beat.step(1, 10, 10)
    clock.now += 20
    beat.step(3, 10, 10)
    assert said.getvalue().splitlines() == [
        "vital: 1 of 10 pictures, 40 s so far",
        "vital: 3 of 10 pictures, 60 s so far, 70 s left",
    ]


def test_numbers_are_short() -> None:
    clock, said = Clock(), io.StringIO()
    beat = Heartbeat(said, clock)
    beat.progress("reading photos", 0, 2_000_000)
    clock.now += 20
    beat.progress("reading photos", 1_000_000, 2_000_000)
    beat.start("fourier", 4, 0)
    beat.step(0, 150, 2)
    clock.now += 20
    beat.step(149, 150, 2)
    assert said.getvalue().splitlines() == [
        "reading photos: 1000000 of 2000000, 20 s so far, 20 s left",
        "fourier: 2 of 4 pictures, 20 s so far, 20 s left",
    ]


def test_which_reporter() -> None:
    with reporter(show=False) as silent:
        assert type(silent) is Reporter
    with reporter() as piped:  # a test has no terminal
        assert isinstance(piped, Heartbeat)


def test_durations() -> None:
    assert [short_time(s) for s in (0.4, 119, 150, 9000)] == ["0 s", "119 s", "2 min", "2.5 h"]
