"""Scores of the written answers of a study: similarity to the label of the unit, beside what other labels give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entoptic.errors import OutOfReach
from entoptic.names.encoders import TextEncoder
from entoptic.study.records import Answer
from entoptic.study.statistics.free_text import clean, label_similarity, score


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Scores of one written answer.

    Attributes:
        similarity: cosine to the most similar name of the own label.
        chance: mean similarity to the labels of the other units of the study, by the same rule.
        rank: of the own label among all labels, 1 is first.
        exact: whether the answer is one of the label's names.
        said: whether it says anything; "" and "don't know" are scored as chance.
    """

    similarity: float
    chance: float
    rank: float
    exact: bool
    said: bool


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Scores of all written answers.

    Attributes:
        by_answer: by (participant, trial).
        labels: that were compared.
        encoder: name.
        identity: of the encoder's weights.
        unlabelled: answers about units without a label, which have no score.
    """

    by_answer: dict[tuple[str, str], TextScore]
    labels: tuple[str, ...]
    encoder: str
    identity: str
    unlabelled: int


def score_texts(answers: Sequence[Answer], encoder: TextEncoder) -> TextScores:
    """Returns the scores of written answers; chance is taken within the task, over the labels of its main trials.

    Args:
        answers: of the task "describe".
        encoder: of texts.

    Raises:
        OutOfReach: there are no written answers about labelled units, or fewer than two labels.
    """
    written = [one for one in answers if one.text is not None and one.label]
    labels = sorted({one.label for one in written if one.kind != "practice"})
    scored = [one for one in written if one.label in labels]
    if not scored:
        raise OutOfReach("no written answer is about a unit that has a label")
    names = [(name, k) for k, label in enumerate(labels) for name in names_of(label)]
    texts = [clean(one.text or "", language=one.language) for one in scored]
    distinct = sorted({text for text in texts if text})
    rows = dict(zip(distinct, encoder.encode(distinct), strict=True))
    name_rows = encoder.encode([name for name, _ in names])
    silent = np.full(name_rows.shape[1], np.nan)
    similarity_NL = label_similarity(
        np.stack([rows.get(text, silent) for text in texts]), name_rows, [k for _, k in names], len(labels)
    )
    own = np.array([labels.index(one.label) for one in scored])
    exact = np.array([text in names_of(one.label) for text, one in zip(texts, scored)])
    found = score(similarity_NL, own, exact)
    return TextScores(
        by_answer={
            (one.participant, one.trial): TextScore(
                similarity=float(found.matched_N[i]), chance=float(found.chance_N[i]), rank=float(found.rank_N[i]),
                exact=bool(found.exact_N[i]), said=bool(texts[i]),
            )
            for i, one in enumerate(scored)
        },
        labels=tuple(labels),
        encoder=encoder.name,
        identity=encoder.identity,
        unlabelled=sum(one.text is not None and not one.label for one in answers),
    )  # fmt: skip


def names_of(label: str) -> list[str]:
    """Returns the names that a label lists, cleaned: `tench, Tinca tinca` has two."""
    return [name for part in label.split(",") if (name := clean(part))] or [label.strip().lower()]
