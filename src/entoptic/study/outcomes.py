"""The number that each task is judged by, taken from its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from entoptic.study.records import Answer, TaskKind
from entoptic.study.text_scores import TextScores

Name = Literal["correct", "rating", "similarity", "preferred"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A task's own number.

    Attributes:
        name: as in `Contrast.outcome`.
        title: for people.
        value: of one answer, None where it has none.
    """

    name: Name
    title: str
    value: Callable[[Answer], float | None]

    def rows(self, answers: Sequence[Answer]) -> list[tuple[Answer, float]]:
        """Returns the answers that have the number, with it."""
        return [(one, value) for one in answers if (value := self.value(one)) is not None]

    def with_texts(self, scores: TextScores) -> Outcome:
        """Returns the outcome of written answers: similarity minus chance."""

        def gain(one: Answer) -> float | None:
            score = scores.by_answer.get((one.participant, one.trial))
            return None if score is None else score.similarity - score.chance

        return replace(self, value=gain)


def _correct(one: Answer) -> float | None:
    return None if one.correct is None else float(one.correct)


def _rating(one: Answer) -> float | None:
    return None if one.rating is None else float(one.rating)


def of_preference(one: Answer, method: str) -> float:
    """Returns 1 where a method was preferred, ½ where nobody was, else 0."""
    return 0.5 if not one.preferred else float(one.preferred == method)


RIGHT = Outcome(name="correct", title="share right", value=_correct)
RATING = Outcome(name="rating", title="mean rating", value=_rating)
OUTCOMES: Mapping[TaskKind, Outcome] = {
    "class-match": RATING,
    "inner-match": RATING,
    "describe": Outcome(name="similarity", title="similarity to the label above chance", value=lambda _: None),
    "2afc": RIGHT,
    "intruder": RIGHT,
    "preference": Outcome(name="preferred", title="share preferred", value=lambda _: None),
}
"""By task. Texts need scores first, see `Outcome.with_texts`; preferences have a value for each of two methods."""
