"""Tables of truth values with patterns planted in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TWO = ((3, 17, 42), (5, 99))
DISTRACTOR = (30, 31, 32)


def plant(
    seed: int,
    n: int = 2000,
    m: int = 200,
    *,
    patterns: Sequence[Sequence[int]] = TWO,
    distractor: Sequence[int] = DISTRACTOR,
    support: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which each pattern holds in a share `support`, 85 % of them wrong against 8 % elsewhere; the items of the distractor
    are on together in every fifth row, whatever its group.

    Returns:
        N×M bool and N bool.
    """
    draw = np.random.default_rng(seed)
    on = draw.random((n, m)) < draw.uniform(0.02, 0.12, m)
    wrong = draw.random(n) < 0.08
    for items in patterns:
        rows = draw.choice(n, int(n * support), replace=False)
        on[np.ix_(rows, items)] = True
        wrong[rows] = draw.random(len(rows)) < 0.85
    on[np.ix_(draw.random(n) < 0.2, distractor)] = True
    return on, wrong


def plant_classes(
    seed: int, classes: int = 4, n: int = 300, m: int = 120
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, tuple[int, ...]]]]:
    """Rows of several classes, each with two patterns of 3 to 5 items in 40 % of its rows, and one that all classes share.

    Returns:
        N×M bool, the class of each row, and (class, items) of every pattern.
    """
    draw = np.random.default_rng(seed)
    on = draw.random((classes * n, m)) < 0.02
    group = np.repeat(np.arange(classes), n)
    order, at, planted = draw.permutation(m).tolist(), 0, []
    for number in range(classes):
        for _ in range(2):
            size = int(draw.integers(3, 6))
            items, at = tuple(sorted(order[at : at + size])), at + size
            rows = np.nonzero((group == number) & (draw.random(len(group)) < 0.4))[0]
            on[np.ix_(rows, items)] |= draw.random((len(rows), size)) > 0.05
            planted.append((number, items))
    on[np.ix_(draw.random(len(on)) < 0.3, order[at : at + 4])] = True
    return on, group, planted
