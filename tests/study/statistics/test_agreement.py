"""Krippendorff's alpha and intraclass correlations: golden numbers, invariants, and alpha by all pairs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason='needs the extra "study"')

from entoptic.errors import OutOfReach
from entoptic.study.statistics.agreement import intraclass, krippendorff, matrix
from oracles import studies as oracle

A = ("* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4")
C = ("1 2 3 3 2 1 4 1 2 * * *", "1 2 3 3 2 2 4 1 2 5 * *", "* 3 3 3 2 3 4 2 2 5 1 3", "1 2 3 3 2 4 4 1 2 5 1 *")
GOLDEN = [
    (A, "nominal", 0.6914), (A, "ordinal", 0.8067), (A, "interval", 0.8108),
    (C, "nominal", 0.7434), (C, "ordinal", 0.8154), (C, "interval", 0.8491), (C, "ratio", 0.7974),
]  # fmt: skip


def read(rows: tuple[str, ...]) -> np.ndarray:
    return np.array([[np.nan if one == "*" else float(one) for one in row.split()] for row in rows])


@pytest.mark.parametrize(("rows", "level", "expected"), GOLDEN)
def test_golden_numbers(rows: tuple[str, ...], level: str, expected: float) -> None:
    found = krippendorff(read(rows), level)  # type: ignore[arg-type]
    assert found.alpha == pytest.approx(expected, abs=5e-5)
    assert found.interval is not None
    assert found.interval[0] <= found.alpha <= found.interval[1]


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
def test_it_is_what_all_pairs_give(level: str) -> None:
    ratings = np.random.default_rng(4).integers(1, 6, (5, 11)).astype(float)
    ratings[np.random.default_rng(5).random((5, 11)) < 0.35] = np.nan
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in ratings]
    assert krippendorff(ratings, level).alpha == pytest.approx(oracle.alpha(rows, level))  # type: ignore[arg-type]


def test_the_interval_is_wider_with_fewer_units() -> None:
    draw = np.random.default_rng(0)
    ratings = draw.normal(size=40)[None] + draw.normal(size=(10, 40))
    many, few = krippendorff(ratings, "interval"), krippendorff(ratings[:, :10], "interval")
    assert many.interval is not None
    assert few.interval is not None
    assert many.interval[0] < many.alpha < many.interval[1]
    assert few.interval[1] - few.interval[0] > 1.2 * (many.interval[1] - many.interval[0])
    assert krippendorff(ratings[:, :2], "interval").interval is None
    assert krippendorff(np.tile([1.0, 2.0, 5.0], (3, 1)), "interval").interval is None  # full agreement


def test_invariants() -> None:
    same = np.tile([1.0, 2.0, 5.0, 3.0], (3, 1))
    for level in ("nominal", "ordinal", "interval", "ratio"):
        assert krippendorff(same, level).alpha == 1  # type: ignore[arg-type]
    given = read(C)
    swapped = np.select([given == k for k in range(1, 6)], [3.0, 1.0, 5.0, 2.0, 4.0], np.nan)
    assert krippendorff(swapped, "nominal").alpha == pytest.approx(krippendorff(given, "nominal").alpha)
    moved = krippendorff(7 * given - 2, "interval").alpha
    assert moved == pytest.approx(krippendorff(given, "interval").alpha)


def test_a_unit_with_one_value_counts_for_nothing() -> None:
    given = read(A)
    alone = np.full((3, 1), np.nan)
    alone[0] = 4
    more = krippendorff(np.hstack([given, alone]), "ordinal")
    assert more == krippendorff(given, "ordinal")
    assert (more.units, more.values, more.raters) == (12, 26, 3)


def test_what_has_no_agreement_is_refused() -> None:
    with pytest.raises(OutOfReach, match="at least two people"):
        krippendorff(np.array([[1.0, np.nan], [np.nan, 2.0]]), "nominal")
    with pytest.raises(OutOfReach, match="all 4 answers are the same"):
        krippendorff(np.full((2, 2), 3.0), "interval")


def test_answers_become_a_table_with_gaps() -> None:
    found = matrix(["b", "a", "b"], ["u", "v", "u"], np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, [[np.nan, 2.0], [3.0, np.nan]])


def test_golden_intraclass_correlations() -> None:
    found = intraclass(np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]))
    expected = (0.16574, 0.28976, 0.71484, 0.44280, 0.62005, 0.90932)
    of_one = (found.one_way, found.random, found.fixed)
    of_means = (found.one_way_mean, found.random_mean, found.fixed_mean)
    assert of_one + of_means == pytest.approx(expected, abs=6e-6)
    with pytest.raises(OutOfReach, match="without gaps"):
        intraclass(np.array([[1.0, np.nan], [2.0, 3.0]]))
