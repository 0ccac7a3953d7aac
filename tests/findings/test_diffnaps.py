"""DiffNaps finds patterns of many classes at once, and none where classes mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entoptic.findings.diffnaps import NapsConfig, mine_classes
from findings.tables import plant_classes

SMALL = NapsConfig(hidden=120)


def f1(found: list[tuple[int, tuple[int, ...]]], planted: list[tuple[int, tuple[int, ...]]]) -> float:
    """Soft F1: each pattern by its best match of the same class (Jaccard)."""

    def best(one: tuple[int, tuple[int, ...]], others: list[tuple[int, tuple[int, ...]]]) -> float:
        mine = set(one[1])
        return max((len(mine & set(o[1])) / len(mine | set(o[1])) for o in others if o[0] == one[0]), default=0.0)

    precision = float(np.mean([best(one, planted) for one in found])) if found else 0.0
    recall = float(np.mean([best(one, found) for one in planted]))
    return 2 * precision * recall / max(precision + recall, 1e-9)


def test_planted_patterns_of_four_classes() -> None:
    on, group, planted = plant_classes(0)
    found = mine_classes(on, group, config=SMALL)
    assert f1([(number, p.items) for number, p in found], planted) > 0.9
    for number, pattern in found:
        holds = on[:, list(pattern.items)].all(1)
        assert pattern.on == (int((holds & (group != number)).sum()), int((holds & (group == number)).sum()))
        assert pattern.towards == 1
        assert pattern.bits > 0
    again = mine_classes(on, group, config=SMALL)
    assert [p.items for _, p in again] == [p.items for _, p in found]


def test_shuffled_classes_give_nothing() -> None:
    on, group, _ = plant_classes(0)
    assert mine_classes(on, np.random.default_rng(0).permutation(group), config=replace(SMALL, epochs=10)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_planted_patterns_of_other_draws(seed: int) -> None:
    on, group, planted = plant_classes(seed)
    assert f1([(number, p.items) for number, p in mine_classes(on, group, config=SMALL)], planted) > 0.85
