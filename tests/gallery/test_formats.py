"""Numbers and labels as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entoptic.gallery.formats import MINUS, number, percentage, with_article


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
