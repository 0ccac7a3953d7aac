"""Overlays of steered pictures."""

from __future__ import annotations

import numpy as np

from entoptic.plots.steering import outlined


def test_the_outline_is_the_edge_of_the_region() -> None:
    region = np.zeros((8, 8), bool)
    region[2:6, 0:4] = True
    overlay = outlined(np.zeros((8, 8, 4), np.uint8), region)
    white = (overlay == 255).all(2)
    expected = region.copy()
    expected[3:5, 1:3] = False
    assert np.array_equal(white, expected)
    black = (overlay == (0, 0, 0, 200)).all(2)
    assert black[1, 0:4].all()
    assert black[2:6, 4].all()
    assert not (black & region).any()
