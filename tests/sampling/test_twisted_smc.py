"""Twisted SMC against plain Monte Carlo of the same discretised sampler."""

from __future__ import annotations

import math

import pytest
import torch
from tests.oracles.smc import ddpm_samples, reweighted
from tests.oracles.toys import BIG, column_of, conditional, gmm3, seeded, total

from entoptic.sampling.twisted_smc import twisted_smc


@pytest.mark.parametrize(
    ("beta", "log_z", "mean"), [(0.5, 0.1004, 1.089), (1.0, 1.0258, 2.4735), (2.0, 4.0687, 3.3689)]
)
def test_twisted_smc_agrees_with_the_discretised_sampler(beta: float, log_z: float, mean: float) -> None:
    """The goldens are plain Monte Carlo of the 100-step sampler; the continuous mixture's lie elsewhere."""
    [particle_set] = twisted_smc(gmm3(), total, beta, seeded(1, 3), particles=3000, steps=100, batch=BIG)
    assert particle_set.log_z == pytest.approx(log_z, abs=0.05)
    assert particle_set.mean == pytest.approx(mean, abs=0.06)
    assert particle_set.kl == pytest.approx(beta * mean - log_z, abs=0.12)
    assert not particle_set.refusal
    assert particle_set.least_ess > 0.3 * 3000


def test_twisted_smc_is_unbiased_for_z() -> None:
    """Though λ_t and the moments of resampling are adapted: 8 particles, so a bias of order 1/N would show."""
    beta, steps = 1.5, 16
    x, _ = ddpm_samples(gmm3(), steps, 400_000, torch.Generator().manual_seed(1))
    log_z, log_z_se, mean, mean_se = reweighted(x.flatten(), beta)
    particle_sets = twisted_smc(gmm3(), total, beta, seeded(256), particles=8, steps=steps, ess=0.8, batch=BIG)
    ratio = (column_of(particle_sets, "log_z") - log_z).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * math.hypot(float(ratio.std()) / 16, log_z_se))
    assert float(ratio.std()) < 0.6  # else the test could not see a bias
    assert float(ratio.mean().log()) >= float(ratio.log().mean())
    assert float(column_of(particle_sets, "distinct_ancestors").mean()) < 7  # they were resampled
    z_mean = ratio * column_of(particle_sets, "mean")  # Z·E[s] is unbiased as well
    assert float(z_mean.mean()) == pytest.approx(
        mean, abs=4 * math.hypot(float(z_mean.std()) / 16, mean_se, mean * log_z_se)
    )


def test_twisted_smc_carries_conditions_with_their_particles() -> None:
    prior, beta = conditional(), 1.2
    x, condition = ddpm_samples(prior, 12, 200_000, torch.Generator().manual_seed(2))
    weights = (beta * x.flatten()).softmax(0)
    expected = torch.zeros(3, dtype=torch.float64).index_add_(0, condition, weights)
    particle_sets = twisted_smc(prior, total, beta, seeded(40, 1), particles=64, steps=12, ess=0.9, batch=BIG)
    shares = torch.stack(
        [torch.zeros(3, dtype=torch.float64).index_add_(0, c.condition, c.log_weights.exp()) for c in particle_sets]
    )
    se = shares.std(0) / 40**0.5
    assert bool(((shares.mean(0) - expected).abs() < 4 * se + 0.005).all())
    for c in particle_sets[:3]:  # the condition is that of the states: it explains the score
        assert c.scores.tolist() == pytest.approx(c.states.flatten().tolist())
