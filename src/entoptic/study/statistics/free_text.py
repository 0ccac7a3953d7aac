"""Free descriptions scored against the right label: similarity beside what shuffled labels give, and the label's rank.

Raw similarities of two encoders cannot be compared, and two nouns are never at 0. So the raw mean stands beside its chance level,
which is exact: the mean similarity of the answers to the labels of the other items.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entoptic.errors import OutOfReach

_ARTICLES = {
    "en": frozenset({"a", "an", "the", "some"}),
    "de": frozenset({"der", "die", "das", "den", "dem", "des", "ein", "eine", "einen", "einem", "einer", "eines"}),
}
_NOTHING = frozenset(
    {
        "",
        "dont know",
        "i dont know",
        "do not know",
        "idk",
        "no idea",
        "not sure",
        "unsure",
        "unclear",
        "nothing",
        "none",
        "na",
    }
    | {"weiß nicht", "weiss nicht", "ich weiß nicht", "ich weiss nicht", "keine ahnung", "nichts", "unklar"}
)
_NOT_LETTERS = re.compile(f"[{re.escape(string.punctuation)}“”„’‘…–—«»]+")


def clean(text: str, *, language: str = "en") -> str:
    """Returns an answer in lower case, composed (NFC), without articles and punctuation; "" where it says nothing.

    Args:
        text: as it was typed.
        language: of the articles, such as "en"; of others none are taken out.
    """
    lower = unicodedata.normalize("NFC", text).lower()
    plain = " ".join(_NOT_LETTERS.sub(" ", re.sub("['’‘]", "", lower)).split())
    if plain in _NOTHING:
        return ""
    articles = _ARTICLES.get(language.partition("-")[0], frozenset())
    return " ".join(word for word in plain.split() if word not in articles)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Answers scored against labels, one entry an answer.

    Attributes:
        matched_N: similarity to the own label; of several names of a thing the most similar counts.
        chance_N: mean similarity to the labels of the other items, by the same rule.
        rank_N: rank of the own label among all labels, 1 is first; ties take the middle.
        exact_N: whether the text is one of the label's names.
        labels: how many labels there are.
    """

    matched_N: np.ndarray
    chance_N: np.ndarray
    rank_N: np.ndarray
    exact_N: np.ndarray
    labels: int


def score(similarity_NL: np.ndarray, own_N: np.ndarray, exact_N: np.ndarray | None = None) -> Scored:
    """Returns the scores of answers.

    Args:
        similarity_NL: similarity of each answer to each of L labels; a row of NaN is an answer that says nothing, scored as chance.
        own_N: number of each answer's label.
        exact_N: whether the answer is a name of its label.

    Raises:
        OutOfReach: there are fewer than two labels, or no answers.
    """
    similarity, own = np.asarray(similarity_NL, float), np.asarray(own_N, int)
    answers, labels = similarity.shape if similarity.ndim == 2 else (0, 0)
    if labels < 2 or not answers:
        raise OutOfReach(f"chance needs answers and at least two labels, there are {answers} and {labels}")
    said = np.isfinite(similarity).all(1)
    known = np.where(said[:, None], similarity, 0.0)
    matched = known[np.arange(answers), own]
    chance = (known.sum(1) - matched) / (labels - 1)
    above = (known > matched[:, None]).sum(1)
    level = (known == matched[:, None]).sum(1) - 1
    # One who says nothing is given what the others get by chance, and the middle rank.
    fallback = float(chance[said].mean()) if said.any() else 0.0
    return Scored(
        matched_N=np.where(said, matched, fallback),
        chance_N=np.where(said, chance, fallback),
        rank_N=np.where(said, 1 + above + level / 2, (labels + 1) / 2),
        exact_N=np.zeros(answers, bool) if exact_N is None else np.asarray(exact_N, bool) & said,
        labels=labels,
    )


def gain(totals_DK: np.ndarray) -> np.ndarray:
    """Matched similarity minus chance, from totals (matched, chance, count)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (totals_DK[..., 0] - totals_DK[..., 1]) / totals_DK[..., 2]


def normalised(totals_DK: np.ndarray) -> np.ndarray:
    """(s − c)/(1 − c), from totals (matched, chance, count): 0 is chance, 1 is a similarity of 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (totals_DK[..., 0] - totals_DK[..., 1]) / (totals_DK[..., 2] - totals_DK[..., 1])


def label_similarity(
    answers_NC: np.ndarray, names_MC: np.ndarray, label_of_M: Sequence[int], labels: int
) -> np.ndarray:
    """Returns the similarity of answers to labels, N×L: of several names of a label the most similar counts, for all labels alike.

    Args:
        answers_NC: unit vectors of the answers; rows of NaN say nothing.
        names_MC: unit vectors of all names.
        label_of_M: which label each is a name of.
        labels: L.
    """
    cosine_NM = np.asarray(answers_NC) @ np.asarray(names_MC).T
    label_of = np.asarray(label_of_M)
    return np.stack([cosine_NM[:, label_of == label].max(1) for label in range(labels)], 1)
