"""Numbers and labels as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.gallery.formats import MINUS, number, ordinal, percent, percentage, with_article


def test_labels_take_the_article_that_fits() -> None:
    labels = ["church", "English springer", "sunglasses", "compass", "unicycle"]
    expected = ["a church", "an English springer", "sunglasses", "a compass", "a unicycle"]
    assert [with_article(label) for label in labels] == expected


@given(st.floats(0, 100))
def test_a_percentage_is_all_or_none_only_where_it_is(value: float) -> None:
    assert (percentage(value) == "100") == (value == 100)
    assert (percentage(value) == "0") == (value == 0)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_their_sign_and_size(value: float) -> None:
    text = number(value).replace(MINUS, "-").replace(",", "")
    assert float(text) == pytest.approx(value, rel=0.051, abs=1e-30)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.001, "0.001"), (0.0009994, "1.0e-03"), (0.04216, "0.0422"), (12.345, "12.3"), (123.4, "123"), (999.4, "999"),
        (1000, "1,000"), (1_500_000, "1,500,000"), (1e9, "1.00e+09"), (-0.5, f"{MINUS}0.5"), (-1500, f"{MINUS}1,500"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_and_percentages_are_rounded() -> None:
    assert [percent(share) for share in (0, 0.004, 0.256, 0.994, 0.999, 1)] == ["0", "below 1", "26", "99", "99", "100"]
    assert [percentage(value) for value in (0, 0.04, 12.34, 50, 99.94, 99.97, 100)] == [
        "0", "below 0.1", "12.3", "50", "99.9", "99.9", "100",
    ]  # fmt: skip
    assert percent(-0.2) == f"{MINUS}20"


def test_ordinals_are_english() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 101, 111, 122)] == [
        "1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "20th", "21st", "101st", "111th", "122nd",
    ]  # fmt: skip
