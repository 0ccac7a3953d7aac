"""The sketch against exact ranks and quantiles, merged in any tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entoptic.images import quantile_sketch as sketch_module
from entoptic.images.quantile_sketch import CAPACITY, QuantileSketch


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    capacity=st.integers(9, 24),
    spread=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_the_sketchs_error_bound_holds(sizes: list[int], capacity: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.integers(0, spread, (3, size)).astype(np.float32) for size in sizes]
    if not sum(sizes):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAPACITY", capacity)
        parts = [QuantileSketch((torch.from_numpy(v),), 0, i) for i, v in enumerate(values)]
        while len(parts) > 1:  # any tree
            i = int(rng.integers(0, len(parts) - 1))
            parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    (merged,) = parts
    assert sum(level.shape[1] for level in merged.levels) <= capacity
    n = sum(sizes)
    exact_values = np.sort(np.concatenate(values, 1), 1)
    for unit in range(3):
        row = exact_values[unit]
        items, weights = merged.items(unit)
        assert weights.sum() == n
        for x in np.unique(row):
            assert abs(int((row <= x).sum()) - int(weights[items <= x].sum())) <= merged.error
        found = merged.quantiles(unit, 21, row[0], row[-1]).numpy()
        assert (np.diff(found) >= 0).all()
        if merged.error == 0:
            np.testing.assert_allclose(found, np.quantile(row, np.linspace(0, 1, 21)), rtol=1e-6, atol=1e-5)
        for level, value in zip(np.linspace(0, 1, 21), found):
            low, high = (row < value - 1e-4).sum(), (row <= value + 1e-4).sum()
            assert low - merged.rank_error - 1 <= level * (n - 1) <= high + merged.rank_error


def test_the_worst_case_error_is_small_and_the_usual_one_smaller() -> None:
    rng, parts = np.random.default_rng(0), []
    for i in range(128):  # 65,536 values
        parts.append(QuantileSketch((torch.from_numpy(rng.normal(size=(4, 512)).astype(np.float32)),), 0, i))
    values = torch.cat([part.levels[0] for part in parts], 1).sort(1).values
    while len(parts) > 1:
        parts = [a.merge(b) for a, b in zip(parts[::2], parts[1::2])]
    n = values.shape[1]
    assert sum(level.shape[1] for level in parts[0].levels) <= CAPACITY
    assert parts[0].rank_error / n < 0.005
    for unit in range(4):
        found = parts[0].quantiles(unit, 201, float(values[unit, 0]), float(values[unit, -1]))
        ranks = torch.searchsorted(values[unit], found) / n
        assert (ranks - torch.linspace(0, 1, 201)).abs().max() < 0.002
