"""Where a person stands in their trials: a function of the assignment and of what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entoptic.study.protocol import PRELOADED
from entoptic.study.records import Stage, Trial


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a person stands.

    Attributes:
        stage: of the session.
        trial: the current one, or None.
        following: trials to load before they are shown.
        done: main and catch trials that are answered.
        total: main and catch trials in all.
        round: of practice, from 0.
        rounds: of practice at most.
        block: of the current trial.
    """

    stage: Stage
    trial: Trial | None = None
    following: tuple[Trial, ...] = ()
    done: int
    total: int
    round: int = 0
    rounds: int = 0
    block: int = 0


def standing(
    trials: Sequence[Trial],
    right: Mapping[str, bool | None],
    *,
    instructed: bool,
    breaks: int,
    questioned: bool,
) -> Standing:
    """Returns where a person stands.

    Args:
        trials: of the assignment, in their order.
        right: whether each answered trial was right, by id; None where there is no right answer, or for a technical failure.
        instructed: whether the instructions were read.
        breaks: number of the last block whose break is over.
        questioned: whether the questions at the end were answered.
    """
    counted = [one for one in trials if one.kind != "practice"]
    done, total = sum(one.id in right for one in counted), len(counted)
    if not instructed:
        return Standing(stage="instructions", done=done, total=total, following=tuple(trials[:PRELOADED]))
    left, failed = _left(trials, right)
    if failed:
        return Standing(stage="screened-out", done=done, total=total)
    if not left:
        return Standing(stage="finished" if questioned else "questions", done=done, total=total)
    first = left[0]
    rounds = 1 + max((one.round for one in trials if one.kind == "practice" and one.task == first.task), default=0)
    following = tuple(left[1 : 1 + PRELOADED])
    if first.block > breaks and first.round == 0:
        return Standing(
            stage="break", following=tuple(left[:PRELOADED]), done=done, total=total, rounds=rounds, block=first.block
        )
    return Standing(
        stage="practice" if first.kind == "practice" else "trials", trial=first, following=following, done=done, total=total,
        round=first.round, rounds=rounds, block=first.block,
    )  # fmt: skip


def _left(trials: Sequence[Trial], right: Mapping[str, bool | None]) -> tuple[list[Trial], bool]:
    """Trials that are still to come, and whether a task's practice failed in its last round.

    Rounds behind the first that was all right are passed over, and so are those behind the first that is not over. A picture
    that could not be shown counts against nobody, but who saw none of a round has not practised.
    """
    left: list[Trial] = []
    passed: set[str] = set()
    rounds: dict[tuple[str, int], list[Trial]] = {}
    for one in trials:
        if one.kind == "practice":
            rounds.setdefault((one.task, one.round), []).append(one)
    for one in trials:
        if one.kind != "practice":
            if one.id not in right:
                left.append(one)
            continue
        members = rounds[one.task, one.round]
        if one is not members[0] or one.task in passed:
            continue
        open_ones = [member for member in members if member.id not in right]
        left += open_ones
        if open_ones or _passed([right[member.id] for member in members if member.right]):
            passed.add(one.task)
        elif (one.task, one.round + 1) not in rounds:
            return left, True
    return left, False


def _passed(answers: Sequence[bool | None]) -> bool:
    """Whether a round of practice is passed, by its answers to trials in which something is right."""
    return not answers or (False not in answers and True in answers)


def practice_rounds(trials: Sequence[Trial], right: Mapping[str, bool | None]) -> int:
    """Returns how many rounds of practice were begun in the task that needed most."""
    return max((1 + one.round for one in trials if one.kind == "practice" and one.id in right), default=0)
