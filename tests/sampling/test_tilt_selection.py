"""The mean score of top-K selection, from a bank of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from tests.oracles import frontier as oracle
from tests.oracles.ladders import bank, exact, rng

from entoptic import UserError
from entoptic.sampling.frontier import excess_nats
from entoptic.sampling.tilt import _rank_weights, selection_kl, selection_mean


@pytest.mark.parametrize(("m", "n", "k"), [(9, 4, 2), (9, 4, 1), (8, 8, 3), (8, 5, 5), (7, 6, 5), (10, 1, 1)])
def test_weights_of_ranks_are_those_of_all_subsets(m: int, n: int, k: int) -> None:
    s = rng(0).normal(size=m)
    weights = _rank_weights(m, n, k)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights @ torch.from_numpy(np.sort(s)[::-1].copy())) == pytest.approx(oracle.subset_mean(s, n, k))


def test_weights_of_ranks_become_the_density_of_the_law() -> None:
    weights = 200_000 * _rank_weights(200_000, 1000, 10)
    u = 1 - (np.arange(200_000) + 0.5) / 200_000
    assert weights.numpy() == pytest.approx(oracle.top_weight(u, 1000, 10), abs=0.3)
    nats = float(special.xlogy(weights.numpy(), weights.numpy()).mean())
    assert nats == pytest.approx(selection_kl(1000, 10), abs=2e-3)


@pytest.mark.parametrize(
    ("n", "k", "mean", "excess"), [(100, 5, 3.3287, 0.1197), (1000, 10, 3.8636, 0.5109), (1, 1, -0.625, 0)]
)
def test_selection_from_a_bank(n: int, k: int, mean: float, excess: float) -> None:
    """Top-K's mean from scores alone, and what it spends above the frontier."""
    found = [selection_mean(bank(8000, seed), n, k) for seed in range(40)]
    errors = np.array([e.value for e in found]) - mean
    spread = errors.std(ddof=1)
    assert abs(errors.mean()) < 4 * spread / math.sqrt(40)
    assert np.mean([e.se for e in found]) == pytest.approx(spread, rel=0.35)
    covered = sum(e.interval is not None and e.interval[0] <= mean <= e.interval[1] for e in found)
    assert covered >= 34
    if k > 1:
        frontier = exact()
        assert excess_nats(selection_kl(n, k), mean, frontier).value == pytest.approx(excess, abs=3e-4)
    simulated = oracle.draws(0, (1500, n), rng(1))
    top = np.sort(simulated, 1)[:, -k:].mean(1)
    assert abs(top.mean() - mean) < 4 * top.std(ddof=1) / math.sqrt(1500)


def test_impossible_selections_are_refused() -> None:
    for n, k in ((5, 6), (5, 0)):
        with pytest.raises(UserError, match="1 ≤ K ≤ N"):
            selection_mean(bank(100), n, k)
    with pytest.raises(UserError, match="largest selection they serve is from 50"):
        selection_mean(bank(100), 60, 3)
