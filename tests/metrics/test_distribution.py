"""Distances between sets of pictures against slow forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from entoptic import UserError
from entoptic.metrics.distribution import features, frechet, kid, kid_interval
from entoptic.models.model import Model


def sets(n: int = 30, m: int = 40, d: int = 6, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=draw), torch.randn(m, d, generator=draw) + shift


def test_kid_is_the_mean_over_pairs() -> None:
    a, b = sets(5, 6)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x.double() @ y.double() / 6 + 1) ** 3)

    within_a = np.mean([kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(6) for j in range(6) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kid(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_kid_interval_is_the_jackknife() -> None:
    a, b = sets()
    left_out = np.array([kid(a[torch.arange(30) != i], b) for i in range(30)])
    error = np.sqrt(29 / 30 * ((left_out - left_out.mean()) ** 2).sum())
    low, high = kid_interval(a, b)
    assert (high - low) / 2 == pytest.approx(1.96 * error)
    assert (high + low) / 2 == pytest.approx(kid(a, b))


def test_kid_is_unbiased() -> None:
    draw = torch.Generator().manual_seed(0)
    values = np.array([kid(torch.randn(20, 4, generator=draw), torch.randn(20, 4, generator=draw)) for _ in range(300)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(300)


def test_frechet_is_that_of_the_matrix_square_root() -> None:
    a, b = sets(200, 150, 5, shift=0.7)
    b = b * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    ca, cb = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    gap = (a.double().mean(0) - b.double().mean(0)).numpy()
    expected = gap @ gap + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_features_need_a_timm_network(tiny: Model) -> None:
    with pytest.raises(UserError, match="builtin:lite1"):
        features(tiny, torch.rand(2, 3, 32, 32))
