"""MBAR against the plain iteration and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.oracles import frontier as oracle
from tests.oracles.ladders import bank, ladder, rng

from entoptic import UserError
from entoptic.sampling.mbar import Ladder


@pytest.mark.parametrize("seed", range(4))
def test_mbar_is_the_plain_iteration(seed: int) -> None:
    generator = rng(seed)
    rungs = (0.0, 0.4, 0.9, 1.3)
    sizes = generator.integers(20, 60, len(rungs))
    one = Ladder(rungs, [torch.from_numpy(oracle.draws(b, (n,), generator)) for b, n in zip(rungs, sizes)])
    expected = oracle.mbar(list(rungs), [s.numpy() for s in one.scores])
    found = (torch.tensor(rungs, dtype=torch.float64)[:, None] * one.all_scores() + one.log_weights()).logsumexp(1)
    assert found.numpy() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1e7), (1e-4, 0.0), (1e5, -3e8)])
def test_mbar_of_scores_of_any_size(scale: float, shift: float) -> None:
    one = ladder(rng(1))
    other = Ladder([b / scale for b in one.betas], [scale * s + shift for s in one.scores])
    assert other.log_weights().numpy() == pytest.approx(one.log_weights().numpy(), abs=1e-5)


def test_mbar_makes_a_sample_of_the_prior() -> None:
    one = ladder(rng(0), 3000)
    weights, s = one.log_weights().exp(), one.all_scores()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-8)
    for x in (-2.0, 0.0, 2.0, 3.0):
        assert float(weights[s <= x].sum()) == pytest.approx(float(oracle.cdf(np.array([x]))[0]), abs=0.02)
    tail = float(weights[s > 4.5].sum())
    expected = 1 - float(oracle.cdf(np.array([4.5]))[0])
    assert tail == pytest.approx(expected, rel=0.1), "1 in 7000: some three of the prior's own draws were there"


def test_thermodynamic_integration_has_the_right_mean_and_slope() -> None:
    """Rungs of a Gaussian score, where the cubic between means is exact: L = β²/2."""
    x = torch.from_numpy(stats.norm.ppf((np.arange(20000) + 0.5) / 20000))
    rungs = (0.0, 0.7, 1.1, 2.5)
    found = Ladder(rungs, [x + b for b in rungs]).thermodynamic_log_z()
    assert found.numpy() == pytest.approx(np.square(rungs) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("rungs", "sets", "match"),
    [
        ((0.5, 1.0), 2, "first is β = 0"),
        ((0.0, 1.0), 1, "each of its rungs"),
        ((), 0, "first is β = 0"),
        ((0.0, 1.0, 1.0), 3, "ascend"),
        ((0.0, math.inf), 2, "finite"),
        ((0.0, math.nan), 2, "finite"),
    ],
)
def test_ladders_that_are_none(rungs: tuple[float, ...], sets: int, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Ladder(rungs, [torch.zeros(3)] * sets)


def test_rungs_without_overlap_are_named() -> None:
    apart = Ladder((0.0, 0.5, 9.0), [bank(300), bank(300, 1), torch.from_numpy(oracle.draws(9, (300,), rng(2)))])
    with pytest.raises(UserError, match=r"β = 0\.5 and β = 9 .*use more particles"):
        apart.log_weights()
    disjoint = Ladder((0.0, 1.0), [torch.zeros(50), torch.full((50,), 1000.0)])
    with pytest.raises(UserError, match="β = 0 and β = 1"):
        disjoint.log_weights()
