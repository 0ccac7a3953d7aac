"""Where a person stands, as a function of what was answered."""

from __future__ import annotations

from typing import Any

from entoptic.study.progress_of import practice_rounds, standing
from entoptic.study.records import Trial


def trial(name: str, kind: str = "main", *, block: int = 0, number: int = 0, task: str = "2afc") -> Trial:
    return Trial(
        id=name, task=task, kind=kind, arm="natural", method="", unit="u", pictures=(), block=block, round=number,  # type: ignore[arg-type]
        right=(0,) if task == "2afc" and kind != "main" else (),
    )  # fmt: skip


TRIALS = [
    trial("p00", "practice"), trial("p01", "practice"), trial("p10", "practice", number=1), trial("p11", "practice", number=1),
    trial("m0"), trial("c0", "catch"), trial("m1", block=1),
    trial("q0", "practice", block=2, task="describe"), trial("d0", block=2, task="describe"),
]  # fmt: skip


def at(right: dict[str, bool | None], **more: Any) -> Any:
    return standing(TRIALS, right, **({"instructed": True, "breaks": 0, "questioned": False} | more))


def test_instructions_come_first() -> None:
    assert at({}, instructed=False).stage == "instructions"


def test_practice_until_all_are_right() -> None:
    assert (at({}).stage, at({}).trial.id, at({}).rounds) == ("practice", "p00", 2)
    assert at({"p00": False}).trial.id == "p01"
    again = at({"p00": False, "p01": True})
    assert (again.stage, again.round, again.trial.id) == ("practice", 1, "p10")
    assert at({"p00": True, "p01": True}).trial.id == "m0"
    assert at({"p00": True, "p01": None}).trial.id == "m0"  # what could not be shown counts against nobody
    assert at({"p00": True, "p01": False, "p10": True, "p11": True}).trial.id == "m0"


def test_who_could_see_no_picture_of_a_round_has_not_practised() -> None:
    assert at({"p00": None, "p01": None}).trial.id == "p10"
    assert at({"p00": None, "p01": None, "p10": None, "p11": None}).stage == "screened-out"


def test_who_fails_the_last_round_leaves() -> None:
    assert at({"p00": True, "p01": False, "p10": True, "p11": False}).stage == "screened-out"


def test_breaks_lie_between_blocks_and_once() -> None:
    right: dict[str, bool | None] = {"p00": True, "p01": True, "m0": None, "c0": True}
    rest = at(right)
    assert (rest.stage, rest.block, rest.trial, rest.following[0].id) == ("break", 1, None, "m1")
    assert (at(right, breaks=1).stage, at(right, breaks=1).done, at(right, breaks=1).total) == ("trials", 2, 4)


def test_the_end() -> None:
    right: dict[str, bool | None] = {"p00": True, "p01": True, "m0": None, "c0": True, "m1": None, "q0": None}
    assert at(right, breaks=2).trial.id == "d0"
    right["d0"] = None
    assert at(right, breaks=2).stage == "questions"
    assert at(right, breaks=2, questioned=True).stage == "finished"


def test_rounds_of_practice() -> None:
    assert practice_rounds(TRIALS, {}) == 0
    assert practice_rounds(TRIALS, {"p00": False, "p10": True}) == 2
