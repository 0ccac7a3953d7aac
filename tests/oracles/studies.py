"""Statistics of studies, answer by answer and pair by pair."""

from __future__ import annotations

import math
from itertools import combinations, permutations

Answer = tuple[str, str, str, float]
"""person, unit, condition, value"""


def difference(answers: list[Answer], first: str, second: str) -> float:
    """Mean of one condition minus mean of another."""
    means = []
    for condition in (first, second):
        values = [value for _, _, given, value in answers if given == condition]
        means.append(sum(values) / len(values) if values else math.nan)
    return means[0] - means[1]


def drawn_difference(answers: list[Answer], first: str, second: str, persons: list[str], units: list[str]) -> float:
    """The difference on one draw: every drawn person with every drawn unit, as often as they were drawn."""
    copies = []
    for person in persons:
        for unit in units:
            copies += [answer for answer in answers if answer[:2] == (person, unit)]
    return difference(copies, first, second)


def clustered_variance(answers: list[Answer]) -> float:
    """Two-way cluster-robust variance of a mean, with P/(P − 1) and U/(U − 1)."""
    mean = sum(value for *_, value in answers) / len(answers)
    total = 0.0
    for key in (0, 1):
        names = sorted({answer[key] for answer in answers})
        sums = [sum(value - mean for *who, _, value in answers if who[key] == name) for name in names]
        total += len(names) / (len(names) - 1) * sum(one**2 for one in sums)
    cells: dict[tuple[str, str], float] = {}
    for person, unit, _, value in answers:
        cells[person, unit] = cells.get((person, unit), 0.0) + value - mean
    return (total - sum(one**2 for one in cells.values())) / len(answers) ** 2


def alpha(ratings: list[list[float | None]], level: str) -> float:
    """Krippendorff's alpha as 1 − D_o/D_e, by all pairs of values inside units and of all values."""
    columns = [[value for value in column if value is not None] for column in zip(*ratings)]
    columns = [column for column in columns if len(column) > 1]
    everything = [value for column in columns for value in column]
    n = len(everything)
    order = sorted(set(everything))
    count = {value: everything.count(value) for value in order}

    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        if level == "ratio":
            return ((a - b) / (a + b)) ** 2 if a + b else 0.0
        low, high = sorted((a, b))
        between = sum(count[value] for value in order if low <= value <= high)
        return (between - (count[low] + count[high]) / 2) ** 2

    observed = sum(
        apart(a, b) / (len(column) - 1)
        for column in columns
        for i, a in enumerate(column)
        for j, b in enumerate(column)
        if i != j
    )
    expected = sum(apart(a, b) for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    return 1 - (observed / n) / (expected / (n * (n - 1)))


def bradley_terry(wins: dict[tuple[str, str], float], rounds: int = 3_000) -> dict[str, float]:
    """Strengths by the MM step π_i ← W_i / Σ_j n_ij/(π_i + π_j), as logarithms with sum 0."""
    items = sorted({item for pair in wins for item in pair})
    pi = dict.fromkeys(items, 1.0)
    for _ in range(rounds):
        new = {}
        for i in items:
            won = sum(wins.get((i, j), 0.0) for j in items if j != i)
            weight = sum((wins.get((i, j), 0) + wins.get((j, i), 0)) / (pi[i] + pi[j]) for j in items if j != i)
            new[i] = won / weight
        scale = math.exp(sum(math.log(v) for v in new.values()) / len(items))
        pi = {i: v / scale for i, v in new.items()}
    return {i: math.log(v) for i, v in pi.items()}


def davidson(
    wins: dict[tuple[str, str], float], ties: dict[tuple[str, str], float], theta: dict[str, float], nu: float
) -> float:
    """Log-likelihood of strengths and ν."""
    total = 0.0
    for i, j in combinations(sorted(theta), 2):
        a, b = math.exp(theta[i]), math.exp(theta[j])
        all_of_it = a + b + nu * math.sqrt(a * b)
        total += wins.get((i, j), 0) * math.log(a / all_of_it) + wins.get((j, i), 0) * math.log(b / all_of_it)
        total += ties.get((i, j), 0) * math.log(nu * math.sqrt(a * b) / all_of_it) if nu else 0.0
    return total


def superiority(first: list[int], second: list[int]) -> float:
    """P(first > second) + ½ P(tie), by all pairs."""
    points = [(a > b) + 0.5 * (a == b) for a in first for b in second]
    return sum(points) / len(points)


def wilcoxon(differences: list[float]) -> float:
    """Exact two-sided p by all signs."""
    kept = [d for d in differences if d]
    sizes = sorted(abs(d) for d in kept)
    rank = {size: sum(i + 1 for i, s in enumerate(sizes) if s == size) / sizes.count(size) for size in sizes}
    ranks = [rank[abs(d)] for d in kept]
    reached = sum(r for r, d in zip(ranks, kept) if d > 0)
    sums = [sum(r for k, r in enumerate(ranks) if signs >> k & 1) for signs in range(2 ** len(ranks))]
    low, high = sum(s <= reached for s in sums), sum(s >= reached for s in sums)
    return min(1.0, 2 * min(low, high) / len(sums))


def shuffled_means(similarity: list[list[float]]) -> tuple[float, float]:
    """Mean matched similarity over all permutations of the labels, and over all single mismatches."""
    n = len(similarity)
    over = [sum(similarity[i][p[i]] for i in range(n)) / n for p in permutations(range(n))]
    off = [similarity[i][j] for i in range(n) for j in range(n) if i != j]
    return sum(over) / len(over), sum(off) / len(off)
