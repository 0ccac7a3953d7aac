"""Free texts: golden similarities, chance by all shuffles, clean-up, and the machine score."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason='needs the extra "study"')

from entoptic.errors import OutOfReach
from entoptic.study.statistics.free_text import clean, gain, label_similarity, normalised, score
from entoptic.study.statistics.machine import chance_right, odd_chances, query_chances
from oracles import studies as oracle

S = [[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.4, 0.7]]


def test_golden_similarities() -> None:
    found = score(np.array(S), np.arange(3))
    shuffled, mismatched = oracle.shuffled_means(S)
    assert shuffled == pytest.approx(0.411111, abs=1e-6)
    assert float(np.mean(S)) == pytest.approx(shuffled)
    assert found.matched_N.mean() == pytest.approx(0.8)
    assert found.chance_N.mean() == pytest.approx(mismatched)
    assert mismatched == pytest.approx(0.216667, abs=1e-6)
    totals = np.array([[found.matched_N.sum(), found.chance_N.sum(), 3.0]])
    assert float(normalised(totals)[0]) == pytest.approx(0.744681, abs=1e-6)
    assert float(gain(totals)[0]) == pytest.approx(0.8 - 0.216667, abs=1e-6)
    assert (1 / found.rank_N).mean() == 1


def test_who_says_nothing_is_scored_as_chance() -> None:
    found = score(np.array([*S, [np.nan] * 3]), np.array([0, 1, 2, 0]), np.array([True, False, False, True]))
    assert found.matched_N[3] == found.chance_N[3] == pytest.approx(0.216667, abs=1e-6)
    assert found.rank_N[3] == 2
    assert found.exact_N.tolist() == [True, False, False, False]


def test_equal_similarities_share_their_ranks() -> None:
    assert score(np.full((1, 5), 0.4), np.array([2])).rank_N[0] == 3
    assert score(np.array([[0.1, 0.9, 0.9]]), np.array([1])).rank_N[0] == 1.5


def test_the_most_similar_name_counts_for_own_and_other_labels() -> None:
    names = np.eye(4)[:, :4]
    answers = np.array([[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 0.8, 0.6]])
    found = label_similarity(answers, names, [0, 0, 1, 1], 2)
    np.testing.assert_allclose(found, [[0.8, 0.0], [0.0, 0.8]])


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  A Golden Retriever! ", "golden retriever"), ("I don't know", ""), ("?", ""), ("Weiß nicht", ""),
        ("e\u0301clair", "\u00e9clair"),
        ("the dog’s nose", "dogs nose"), ("<b>dog</b>", "b dog b"),
    ],
)  # fmt: skip
def test_clean_up(typed: str, kept: str) -> None:
    assert clean(typed) == kept


def test_articles_are_of_the_language() -> None:
    assert clean("Die Kirche", language="de-AT") == "kirche"
    assert clean("Die Kirche", language="fr") == "die kirche"


def test_one_label_has_no_chance_level() -> None:
    with pytest.raises(OutOfReach, match="at least two labels"):
        score(np.ones((3, 1)), np.zeros(3, int))


def test_golden_machine_score() -> None:
    high, low = (np.array([0.6, 0.6]), np.array([0.2, 0.2])), (np.array([0.3, 0.3]), np.array([0.5, 0.5]))
    assert chance_right(*high, *low, alpha=10) == pytest.approx(0.997527, abs=1e-6)
    assert chance_right(*high, *low, alpha=0) == 0.5
    assert chance_right(*high, *low, alpha=math.inf) == 1
    assert chance_right(*high, *high, alpha=10) == 0.5
    assert chance_right(*high, *low) + chance_right(*low, *high) == pytest.approx(1)
    swapped = chance_right(*low[::-1], *high[::-1])
    assert swapped == pytest.approx(chance_right(*high, *low))


def test_machine_choices() -> None:
    draw = np.random.default_rng(0)
    high, low = draw.normal(1, 0.1, (9, 6)), -draw.normal(1, 0.1, (9, 6))
    queries = np.stack([high.mean(0), low.mean(0)])
    chances = query_chances(queries, high, low)
    assert chances.sum() == pytest.approx(1)
    assert chances[0] > 0.99
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    q, h, l = unit(queries), unit(high), unit(low)  # noqa: E741
    assert chances[0] == pytest.approx(chance_right(q[0] @ h.T, q[0] @ l.T, q[1] @ h.T, q[1] @ l.T))
    np.testing.assert_allclose(query_chances(queries, high[::-1], low), chances)
    np.testing.assert_allclose(query_chances(queries, np.zeros((0, 6)), None), 0.5)
    odd = odd_chances(np.concatenate([high[:4], low[:1]]))
    assert odd.argmax() == 4
    assert odd.sum() == pytest.approx(1)
