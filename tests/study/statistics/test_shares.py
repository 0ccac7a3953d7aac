"""Shares of right answers, corrections and ratings: golden numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason='needs the extra "study"')
pytest.importorskip("statsmodels", reason='needs the extra "study"')

from scipy import stats

from entoptic.base.estimates import wilson
from entoptic.errors import OutOfReach
from entoptic.study.statistics.multiplicity import benjamini_hochberg, holm
from entoptic.study.statistics.proportions import (
    binomial_p,
    clopper_pearson,
    d_prime,
    independent_power,
    independent_sample_size,
    mcnemar_p,
)
from entoptic.study.statistics.ratings import (
    level_chances,
    rank_biserial,
    superiority,
    superiority_table,
    thresholds,
    wilcoxon_p,
)
from oracles import studies as oracle

NATURAL = (44, 42, 40, 41, 42, 40, 41, 43, 41, 41)
SYNTHETIC = (36, 36, 40, 39, 32, 37, 37, 40, 32, 40)


def test_golden_intervals_of_shares() -> None:
    assert wilson(369, 450) == pytest.approx((0.78184, 0.85274), abs=6e-6)
    assert wilson(415, 450) == pytest.approx((0.89375, 0.94355), abs=6e-6)
    assert clopper_pearson(0, 20)[1] == pytest.approx(0.168433, abs=1e-6)


def test_golden_d_prime() -> None:
    found = [d_prime(p) for p in (0.60, 0.68, 0.75, 0.82, 0.92)]
    assert found == pytest.approx([0.35829, 0.66143, 0.95387, 1.29452, 1.98707], abs=6e-6)
    assert d_prime(1.0, 20) == d_prime(1 - 1 / 40)
    assert math.isfinite(float(d_prime(0.0, 20)))


def test_golden_exact_tests() -> None:
    assert binomial_p(15, 20, alternative="greater") == pytest.approx(0.0206947, abs=1e-7)
    assert binomial_p(14, 20, alternative="greater") == pytest.approx(0.0576591, abs=1e-7)
    assert binomial_p(194, 450) == pytest.approx(0.0039835, abs=1e-7)
    assert mcnemar_p(10, 2) == pytest.approx(0.0385742, abs=1e-7)
    assert binomial_p(1, 10) == pytest.approx(0.0214844, abs=1e-7)


def test_golden_paired_test_of_the_lab_study() -> None:
    differences = [a - b for a, b in zip(NATURAL, SYNTHETIC)]
    assert differences == [8, 6, 0, 2, 10, 3, 4, 3, 9, 1]
    assert wilcoxon_p(differences) == 0.00390625
    assert 100 * np.mean(differences) / 45 == pytest.approx(10.22, abs=0.005)
    errors = [200 * np.std(counts, ddof=1) / 45 / math.sqrt(10) for counts in (SYNTHETIC, NATURAL)]
    assert errors == pytest.approx([4.3, 1.8], abs=0.05)
    assert rank_biserial(differences) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_signed_ranks_with_ties_are_those_of_all_signs(seed: int) -> None:
    differences = [float(d) for d in np.random.default_rng(seed).integers(-4, 6, 11)]
    assert wilcoxon_p(differences) == pytest.approx(oracle.wilcoxon(differences))
    assert wilcoxon_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("shares", "pooled", "unpooled", "arcsine", "h"),
    [
        ((0.82, 0.92), 176.36, 173.62, 171.23, 0.302785),
        ((0.50, 0.60), 387.34, 384.60, 387.17, 0.201358),
        ((0.50, 0.75), 57.67, 54.94, 57.26, math.pi / 6),
        ((0.60, 0.68), 563.94, 561.19, 563.47, None),
    ],
)
def test_golden_sample_sizes(
    shares: tuple[float, float], pooled: float, unpooled: float, arcsine: float, h: float | None
) -> None:
    found = independent_sample_size(*shares)
    assert (found.pooled, found.unpooled, found.arcsine) == pytest.approx((pooled, unpooled, arcsine), abs=0.006)
    assert h is None or found.h == pytest.approx(h, abs=1e-6)


def test_golden_power() -> None:
    assert independent_power(0.82, 0.92, 100) == pytest.approx(0.55734, abs=6e-6)
    assert independent_power(0.82, 0.92, 200) == pytest.approx(0.84730, abs=6e-6)
    with pytest.raises(OutOfReach, match="two different shares"):
        independent_sample_size(0.5, 0.5)


def test_golden_corrections() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]) == []


def test_golden_gates() -> None:
    four_of_five = float(stats.binom.sf(3, 5, 0.5))
    assert four_of_five == 0.1875
    assert float(stats.binom.sf(1, 3, 0.5)) == 0.5
    practice = 1 - (1 - 0.5**5) ** 3
    assert practice == pytest.approx(0.0908508, abs=1e-7)
    assert practice * four_of_five == pytest.approx(0.0170345, abs=1e-7)
    assert 1 - float(stats.binom.cdf(3, 5, 0.95)) == pytest.approx(1 - 0.0226, abs=5e-5)


def test_golden_thresholds() -> None:
    expected = [-2.197225, -0.847298, 0.847298, 2.197225]
    assert thresholds([5, 10, 20, 10, 5]) == pytest.approx(expected, abs=1e-6)
    assert level_chances(expected, np.zeros(1))[0] == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.1], abs=1e-6)
    assert level_chances(expected, np.array([1.0]))[0] @ np.arange(1, 6) > 3
    with pytest.raises(OutOfReach, match="both ends"):
        thresholds([0, 3, 4])


def test_two_levels_are_the_logistic_model() -> None:
    a, b, c, d = 12, 8, 5, 15
    low_first, low_second = thresholds([a, b])[0], thresholds([c, d])[0]
    assert low_first - low_second == pytest.approx(math.log(a * d / (b * c)))


def test_golden_superiority() -> None:
    first, second = [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]
    assert float(superiority(np.array([[*first, *second]], float))[0]) == pytest.approx(0.90)
    ratings = [np.repeat(np.arange(1, 6), one) for one in (first, second)]
    assert [float(np.mean(one)) for one in ratings] == [4, 2]
    assert [float(np.median(one)) for one in ratings] == [4, 2]


def test_superiority_is_that_of_all_pairs() -> None:
    draw = np.random.default_rng(1)
    rating, given = draw.integers(1, 6, 60), draw.choice(["x", "y", "z"], 60)
    persons, units = [f"p{i % 6}" for i in range(60)], [f"u{i // 6}" for i in range(60)]
    table, statistic = superiority_table(persons, units, given.tolist(), rating, ("x", "y"))
    expected = oracle.superiority(rating[given == "x"].tolist(), rating[given == "y"].tolist())
    assert float(statistic(table.totals_K[None])[0]) == pytest.approx(expected)
    assert table.answers == int((given != "z").sum())


def test_golden_confidence_tables() -> None:
    synthetic, natural = [(111, 155), (131, 162), (127, 133)], [(45, 58), (97, 112), (273, 280)]
    assert [sum(column) for column in zip(*synthetic)] == [sum(SYNTHETIC), 450] == [369, 450]
    assert [sum(column) for column in zip(*natural)] == [sum(NATURAL), 450] == [415, 450]
    assert [round(100 * (184 + 234 - 82) / 460, 1), round(100 * 300 / 460, 1)] == [73.0, 65.2]
