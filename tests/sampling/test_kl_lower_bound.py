"""The lower bound on KL from many statistics, against Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from entoptic import UserError
from entoptic.sampling.frontier import Frontier, dv_bound
from entoptic.sampling.kl_lower_bound import dv_bound_features


def features(n: int, shift: list[float], seed: int, sd: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sd * torch.randn(n, len(shift), generator=generator, dtype=torch.float64) + torch.tensor(shift).double()


@pytest.mark.parametrize("shift", [[0.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 1.0, 1.0, 0], [0, 0, 0, 2.0]])
def test_the_bound_of_many_statistics_stays_below(shift: list[float]) -> None:
    """Shifted Gaussians, whose KL is half the squared shift: in expectation below, in few of 95 % intervals above."""
    true = sum(x * x for x in shift) / 2
    found = [dv_bound_features(features(96, shift, 2 * i), features(3000, [0.0] * 4, 2 * i + 1)) for i in range(60)]
    values, se = np.array([e.value for e in found]), np.array([e.se for e in found])
    assert values.mean() < true + 4 * values.std(ddof=1) / math.sqrt(60) + 1e-12
    assert sum(values - 1.96 * se > true) <= 6
    assert values.mean() > 0.75 * true - 0.02, "and it is not idle"
    if true:
        assert se.mean() == pytest.approx(values.std(ddof=1), rel=0.35)


def test_a_shift_that_the_score_does_not_see_is_found() -> None:
    """Guided draws of the right mean score that strayed in another statistic: their mean alone hides 0.72 nats."""
    q = features(256, [1.0, 1.2], 0)
    p = features(6000, [0.0, 0.0], 1)
    by_mean = dv_bound(float(q[:, 0].mean()), Frontier.from_bank(p[:, 0]))
    by_both = dv_bound_features(q, p)
    assert by_mean.interval is not None
    assert by_both.interval is not None
    assert by_both.interval[0] > by_mean.value + 0.3
    assert by_both.interval[0] < 0.5 * (1 + 1.44) < by_both.interval[1] + 0.1


def test_a_change_of_spread_shows_in_squares() -> None:
    narrow = features(400, [0.0], 0, sd=0.5)
    wide = features(6000, [0.0], 1)
    assert abs(dv_bound_features(narrow, wide).value) < 0.05, "the means agree"
    true = math.log(2) + 0.125 - 0.5
    squares = [dv_bound_features(*(torch.cat([x, x.square()], 1) for x in (narrow, wide)))]
    assert squares[0].value == pytest.approx(true, abs=0.1)


def test_far_laws_are_bounded_by_what_the_samples_can_show() -> None:
    found = dv_bound_features(features(64, [30.0, 0], 0), features(2000, [0.0, 0], 1))
    assert 2 < found.value < 450
    wholly_apart = dv_bound_features(torch.full((64, 1), 1e6), features(2000, [0.0], 1))
    assert math.isfinite(wholly_apart.value)


def test_units_repeats_and_constants_change_nothing() -> None:
    q, p = features(100, [1.0, 0.5], 0), features(2000, [0.0, 0.0], 1)
    plain = dv_bound_features(q, p)
    mix = torch.tensor([[3.0, 1.0], [0.0, -200.0]]).double()
    assert dv_bound_features(q @ mix + 7, p @ mix + 7).value == pytest.approx(plain.value, abs=1e-5)
    padded = [torch.cat([x, x[:, :1], torch.full((len(x), 1), 4.0).double()], 1) for x in (q, p)]
    assert dv_bound_features(*padded).value == pytest.approx(plain.value, abs=1e-5)
    assert dv_bound_features(torch.full((20, 1), 4.0), torch.full((400, 1), 4.0)).value == 0


def test_features_that_cannot_serve() -> None:
    p = features(400, [0.0, 0.0], 0)
    for q, other, match in (
        (torch.zeros(50, 3), p, "same F"), (torch.zeros(50), p, "same F"), (torch.zeros(7, 2), p, "at least 8"),
        (torch.zeros(50, 2), p[:100], "200 from"), (torch.zeros(50, 60), torch.zeros(400, 60), "600 from"),
        (torch.full((50, 2), math.nan), p, "finite"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=match):
            dv_bound_features(q, other)
