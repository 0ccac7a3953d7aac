"""The most telling number of a picture in words."""

from __future__ import annotations

import pytest

from entoptic.runs.headline import _percentile


@pytest.mark.parametrize(
    ("value", "said"), [(100.0, "all of 24 photos"), (99.97, "99.9 % of 24 photos"), (50.0, "50.0 % of 24 photos")]
)
def test_all_photos_are_called_all(value: float, said: str) -> None:
    assert _percentile({"value": value, "n": 24}) == f"drives the unit more than {said}"
