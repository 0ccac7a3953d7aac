"""Mistyped labels are answered with the label of the right words."""

from __future__ import annotations

import random
import string

import pytest

from entoptic.models.model import Model
from entoptic.units.near_labels import near_labels, nearest_label

LABELS = ("gown", "golden retriever", "Labrador retriever", "church", "clutch", "French horn", "tench")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("goldn retriever", "golden retriever"),
        ("chruch", "church"),
        ("retriever golden", "golden retriever"),
        ("goldenretriever", "golden retriever"),
        ("golden retreiver", "golden retriever"),
        ("golden", "golden retriever"),
        ("frnch-horn", "French horn"),
        ("Tnech", "tench"),
    ],
)
def test_the_right_words_come_first(given: str, meant: str) -> None:
    assert near_labels(given, LABELS)[0] == meant
    assert nearest_label(given, LABELS) == f'; did you mean "{meant}"?'


def test_what_is_near_nothing_gets_no_label() -> None:
    assert near_labels("zzzzzz", LABELS) == []
    assert near_labels("", LABELS) == []
    assert nearest_label("zzzzzz", LABELS) == ""
    assert nearest_label("zzzzzz", []) == ""


def test_labels_that_are_as_near_are_all_named() -> None:
    assert nearest_label("bat", ["cat", "rat", "elephant"]) == '; did you mean "cat" or "rat"?'


def mistyped(label: str, draw: random.Random) -> str:
    """One slip in one word of at least two letters: a letter left out, put in, changed, or swapped with the next."""
    words = label.split(" ")
    at = draw.choice([i for i, word in enumerate(words) if len(word) >= 2])
    word, letter = words[at], draw.choice(string.ascii_lowercase)
    i = draw.randrange(len(word) - 1)
    words[at] = draw.choice(
        (word[:i] + word[i + 1 :], word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :],
         word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    )  # fmt: skip
    return " ".join(words)


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_one_slip_in_any_of_a_thousand_labels_finds_it_again(lite0: Model, every: int) -> None:
    labels = lite0.card.labels
    assert labels is not None
    draw = random.Random(0)
    asked = [(mistyped(label, draw), label) for label in labels[::every]]
    near = [(near_labels(typed, labels), label) for typed, label in asked]
    share = sum(label in found for found, label in near) / len(near)
    first = sum(label == found[0] for found, label in near if found) / len(near)
    print(f"n = {len(near)}: first {first:.3f}, among the first three {share:.3f}")
    assert (share, first) >= (0.97, 0.9), [one for one in near if one[1] not in one[0]][:9]
