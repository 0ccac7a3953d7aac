"""Resampling, effective sample sizes, error bars of islands, and when particles are refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.oracles.smc import generator_scores, reweighted
from tests.oracles.toys import BIG, gmm3, gmm8, seeded, total
from torch import Tensor

from entoptic.errors import UserError
from entoptic.sampling.particles import (
    AUTOCORRELATION_MAX,
    ParticleSet,
    Rung,
    TiltTarget,
    effective_sample_size,
    ess_by_lineage,
    estimate_across_islands,
    pooled_ess,
    pooled_log_weights,
    refusal,
    resample_systematically,
)
from entoptic.sampling.smc import noise_smc


@given(st.lists(st.floats(0, 5), min_size=1, max_size=9), st.floats(0, 1, exclude_max=True), st.integers(1, 40))
def test_systematic_resampling_is_as_even_as_it_can_be(weights: list[float], uniform: float, count: int) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    w[0] += 0.1
    u = torch.tensor([uniform], dtype=torch.float64)
    picks = resample_systematically(w.log()[None], u, count)[0]
    times = picks.bincount(minlength=len(w)).double()
    expected = count * w / w.sum()
    assert picks.shape == (count,)
    assert bool((times > expected - 1 - 1e-9).all())
    assert bool((times < expected + 1 + 1e-9).all())
    assert not bool(times[w == 0].any())


def test_systematic_resampling_is_unbiased_and_stays_inside() -> None:
    w = torch.tensor([0.0, 0.5, 0.03, 0.37, 0.1, 0.0], dtype=torch.float64)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # all of [0, 1)
    picks = resample_systematically(w.log().expand(len(u), -1), u, 7)
    share = picks.flatten().bincount(minlength=6).double() / len(u)
    torch.testing.assert_close(share, 7 * w, atol=1e-3, rtol=0)
    edge = resample_systematically(w.log()[None], torch.tensor([1 - 2**-53], dtype=torch.float64), 64)
    assert int(edge.max()) == 4


def test_effective_sample_size() -> None:
    log_w = torch.tensor([[0.0, 0, 0, 0], [0, -math.inf, 0, -math.inf], [-math.inf] * 4], dtype=torch.float64)
    assert effective_sample_size(log_w + 300).tolist() == pytest.approx([4, 2, 0])


def test_error_bars_of_islands_cover() -> None:
    """95 % intervals of 4 islands each, over 200 repetitions, hold the truth 90 to 99 % of the time."""
    prior, steps, beta = gmm3(), 3, 0.5
    s = generator_scores(prior, total, steps, 1_000_000, torch.Generator().manual_seed(9))
    log_z, _, mean, _ = reweighted(s, beta)
    particle_sets = noise_smc(
        prior, total, TiltTarget(beta=beta), seeded(800), particles=64, steps=steps, moves=3, batch=BIG
    )
    width = stats.t(3).ppf(0.975)
    reports = [estimate_across_islands(particle_sets[i : i + 4]) for i in range(0, 800, 4)]
    in_z = sum(abs(r.log_z - log_z) < width * r.log_z_se for r in reports) / 200
    in_mean = sum(abs(r.mean - mean) < width * r.mean_se for r in reports) / 200
    assert 0.90 <= in_z <= 0.99
    assert 0.90 <= in_mean <= 0.99
    assert sum(r.rhat for r in reports) / 200 < 1.1
    with pytest.raises(UserError, match="at least 4"):
        estimate_across_islands(particle_sets[:3])


def test_islands_that_sit_in_different_modes_are_told_by_rhat() -> None:
    near, far = (noise_smc(gmm3(), total, TiltTarget(beta=b), seeded(2), particles=32)[0] for b in (0.0, 2.0))
    assert estimate_across_islands([near, near, far, far]).rhat > 1.5


def particles_of(log_weights: Tensor, ancestors: Tensor, copies: Tensor) -> ParticleSet:
    n = len(log_weights)
    return ParticleSet(
        torch.zeros(n, 1, 1, 1), None, None, torch.arange(n).double(), log_weights.log_softmax(0), 1.0, 0.0, (),
        ancestors, copies, torch.arange(n), 1.0, 0, 0, 0, True, "",
    )  # fmt: skip


def test_a_cloud_refuses_what_it_cannot_support() -> None:
    n, rows = 100, torch.arange(100)
    even = torch.zeros(n, dtype=torch.float64)
    assert not particles_of(even, rows, rows).refusal
    assert not particles_of(even, rows % 10, rows).refusal
    assert "descend from 9" in particles_of(even, rows % 9, rows).refusal
    copied = particles_of(even, rows, rows % 19)
    assert copied.ess < 20
    assert "effective" in copied.refusal
    peaked = even.clone()
    peaked[0] = 5
    assert particles_of(peaked, rows, rows).refusal
    small = torch.arange(16)
    assert not particles_of(torch.zeros(16).double(), small % 4, small).refusal
    assert particles_of(torch.zeros(16).double(), small % 3, small).refusal
    assert particles_of(torch.zeros(16).double(), small, small % 7).refusal
    assert particles_of(torch.zeros(1).double(), small[:1], small[:1]).refusal


def test_a_score_on_one_side_only_is_refused_not_guessed() -> None:
    """A long ladder from few particles leaves one family, and the cloud says so."""
    [particle_set] = noise_smc(gmm8(), total, TiltTarget(beta=30.0), seeded(1), particles=12, steps=2, moves=1)
    assert particle_set.distinct_ancestors < 3
    assert particle_set.refusal


def test_drawing_shows_each_particle_once_and_by_weight() -> None:
    log_w = torch.tensor([0.4, 0.1, 0.1, 0.3, 0.0, 0.1], dtype=torch.float64).log()
    copies = torch.tensor([7, 3, 3, 5, 9, 3])
    particle_set = particles_of(log_w, torch.arange(6), copies)
    g = torch.Generator().manual_seed(0)
    firsts = torch.zeros(6)
    for _ in range(3000):
        rows = particle_set.draw(5, g)
        assert sorted(copies[rows].tolist()) == [3, 5, 7]
        firsts[rows[0]] += 1
    torch.testing.assert_close(firsts / 3000, torch.tensor([0.4, 0.3, 0, 0.3, 0, 0]), atol=0.04, rtol=0)
    assert len(particle_set.draw(2, g)) == 2


def test_ess_by_lineage_counts_independent_information() -> None:
    """Independent particles in full, kin that agree as one, and few kin never as many."""
    g = torch.Generator().manual_seed(4)
    n, even = 400, torch.full((400,), -math.log(400), dtype=torch.float64)
    own, rows = torch.randn(n, generator=g, dtype=torch.float64), torch.arange(n)
    assert ess_by_lineage(even, own, rows, rows) == pytest.approx(n, rel=0.01)
    assert ess_by_lineage(even, own, rows // 8, rows) == pytest.approx(n, rel=0.4)  # kin, but independent
    family = own[rows // 8]  # 50 families of one score each
    assert ess_by_lineage(even, family, rows // 8, rows) == pytest.approx(50, rel=0.1)
    assert ess_by_lineage(even, own, torch.zeros(n, dtype=torch.int64), rows) == pytest.approx(1)
    assert ess_by_lineage(even, own, (rows >= 300).long(), rows) == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert ess_by_lineage(even, own, rows, rows % 10) == pytest.approx(10, rel=0.01)  # copies
    assert ess_by_lineage(torch.full((3,), -math.inf).double(), own[:3], rows[:3], rows[:3]) == 0


def test_islands_are_pooled_by_their_own_z() -> None:
    a, b = (noise_smc(gmm3(), total, TiltTarget(beta=b), seeded(1), particles=32)[0] for b in (0.5, 1.0))
    log_w = pooled_log_weights([a, b], 1.0)
    assert float(log_w.exp().sum()) == pytest.approx(1)
    expected = math.exp(
        a.log_z + float((a.log_weights + 0.5 * a.scores).logsumexp(0)) - b.log_z
    )  # Z(1) of a over that of b
    assert float(log_w[:32].exp().sum() / log_w[32:].exp().sum()) == pytest.approx(expected)
    same = noise_smc(gmm3(), total, TiltTarget(beta=1.0), seeded(1), particles=32)[0]
    one, two = (
        pooled_ess([same], pooled_log_weights([same], 1.0)),
        pooled_ess([same, same], pooled_log_weights([same, same], 1.0)),
    )
    assert two == pytest.approx(2 * one, rel=0.05)  # equal labels of two islands are not kin


def test_what_has_not_settled_is_not_told() -> None:
    n, rows = 40, torch.arange(40)
    rung = {"beta": 1.0, "log_z": 0.0, "scores": torch.zeros(n), "acceptance": 0.3, "ess": 40.0}

    def island(*autocorrelations: float) -> ParticleSet:
        rungs = (
            Rung(0.0, 0.0, torch.zeros(n), math.nan, 40.0),
            *(Rung(**rung, score_autocorrelation=m) for m in autocorrelations),
        )
        return ParticleSet(
            torch.zeros(n, 1, 1, 1), None, None, rows.double(), torch.zeros(n).double().log_softmax(0), 1.0, 0.0, rungs, rows,
            rows, rows, 1.0, 0, 0, 0, True, "",
        )  # fmt: skip

    assert refusal([island(0.1), island(0.8)], 80, 80) == "", "pooled over islands"
    assert "have not settled" in refusal([island(AUTOCORRELATION_MAX + 0.1, 0.1)] * 2, 80, 80), (
        "a rung in the middle counts"
    )
    assert "have not settled" in refusal([island(-AUTOCORRELATION_MAX - 0.1)], 80, 80), "nor has what swings to and fro"
    assert "effective number of samples is 7" in refusal([island(0.1)], 7, 40)
    assert refusal([], 30, 16384) == ""
    assert "at least 20" in refusal([], 19, 16384)
