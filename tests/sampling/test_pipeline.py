"""The whole pipeline without weights: hook, score, bank, guidance, SMC, ladder and frontier against closed forms.

Pictures are a Gaussian mixture of 3×16×16 pixels, the unit is an inner channel of a convolutional network that is linear in
the picture (tests/planted/linear.py). Along the unit's direction the prior is a one-dimensional mixture, and every sampler
here moves that coordinate by itself; so quadrature over one standard normal number gives the law of the few-step map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from entoptic.priors.prior import Score, ancestral, generate
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.bank import Bank, make_bank
from entoptic.sampling.frontier import Frontier, dv_bound, excess_nats
from entoptic.sampling.guidance import ancestral_at_rest, guided_chains
from entoptic.sampling.mbar import Ladder
from entoptic.sampling.particles import TiltTarget, estimate_across_islands
from entoptic.sampling.smc import ScoredSamples, noise_smc
from entoptic.sampling.tilt import selection_kl, selection_mean
from entoptic.sampling.twisted_smc import twisted_smc
from entoptic.sampling.unit_scores import UnitScores
from entoptic.units.unit import bind
from oracles import tilts
from planted.linear import BIAS, OFFSET, SCALE, SLOPE, UNIT, along, direction, linear_model

WEIGHTS, PLACES, SD = [0.55, 0.35, 0.10], [-2.0, 0.5, 3.0], 0.5
STEPS = 8


def line() -> GaussianMixture:
    """The prior's coordinate along the unit's direction."""
    means = torch.tensor(PLACES).reshape(3, 1, 1, 1)
    return GaussianMixture(torch.tensor(WEIGHTS), means, torch.full_like(means, SD**2), linear_schedule=True)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


class Law(NamedTuple):
    log_z: float
    mean: float
    kl: float


class Exact(NamedTuple):
    """Standardised scores of the few-step map's law at the nodes of a quadrature, ascending, and their probabilities."""

    scores: np.ndarray
    mass: np.ndarray

    def tilt(self, beta: float) -> Law:
        log_w = np.log(self.mass) + beta * self.scores
        top = log_w.max()
        log_z = top + math.log(np.exp(log_w - top).sum())
        mean = float(np.exp(log_w - log_z) @ self.scores)
        return Law(log_z, mean, beta * mean - log_z)

    def at(self, reach: Callable[[Law], float]) -> float:
        """The β at which a quantity that grows with β is 0."""
        low, high = 0.0, 30.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if reach(self.tilt(middle)) < 0 else (low, middle)
        return low


class Setup(NamedTuple):
    """The prior, its bank, the unit's standardised scores (1×M as well) and the exact law of these."""

    prior: GaussianMixture
    bank: Bank
    scores: UnitScores
    bank_scores: Tensor
    exact: Exact


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENTOPTIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        prior = along(WEIGHTS, PLACES, SD)
        bank = make_bank(prior, size=2048, steps=STEPS, batch_size=256)
        plain = UnitScores(bind(linear_model(), UNIT))
        raw = bank.scores(plain, batch_size=256)
    scores = plain.standardised(raw)
    return Setup(prior, bank, scores, scores.of(raw[0]), law_of_map(scores, STEPS))


def law_of_map(scores: UnitScores, steps: int) -> Exact:
    z = np.linspace(-8, 8, 4001)
    x = generate(line(), torch.from_numpy(z).reshape(-1, 1, 1, 1), steps=steps).flatten().numpy()
    mass, order = np.exp(-(z**2) / 2), x.argsort()  # the map of so few steps is not monotone everywhere
    return Exact(((BIAS + SLOPE * x - float(scores.centre)) / float(scores.scale))[order], (mass / mass.sum())[order])


# --- hook and score ---------------------------------------------------------------------------------------------------


def test_the_unit_reads_a_linear_function_of_the_picture() -> None:
    prior, (unit,) = along(WEIGHTS, PLACES, SD), bind(linear_model(), UNIT)
    assert (unit.kind, unit.layer, unit.readout) == ("channel", "planted", "mean")
    x0 = prior.draw(64, torch.Generator().manual_seed(0)).requires_grad_()
    assert 0.02 < float(prior.decode(x0.detach()).min()) < float(prior.decode(x0.detach()).max()) < 0.98, (
        "no picture is clipped"
    )
    expected = BIAS + SLOPE * (x0 * direction()).flatten(1).sum(1)
    scores, group = UnitScores([unit]), torch.zeros(64, dtype=torch.int64)
    read = scores(prior.decode(x0), group)
    assert torch.allclose(read, expected, atol=1e-5)
    (slope,) = torch.autograd.grad(read.sum(), x0)
    assert torch.allclose(slope, SLOPE * direction().expand_as(slope), atol=1e-6)
    # Where no gradient is asked for the score is that of the 8-bit file, whose rounding is far below the unit's spread.
    with torch.no_grad():
        rounding = scores(prior.decode(x0), group) - expected
        expected = expected.detach()
    assert 0 < float(rounding.std()) < 0.01 * float(expected.std())


def test_the_bank_is_the_law_of_the_few_step_map(setup: Setup) -> None:
    exact, m = setup.exact, setup.bank.size
    mean, second = float(exact.mass @ exact.scores), float(exact.mass @ exact.scores**2)
    assert mean == pytest.approx(0, abs=4 / m**0.5)
    assert second - mean**2 == pytest.approx(1, abs=4 * (2 / m) ** 0.5)
    cdf = np.interp(np.sort(setup.bank_scores.numpy()), exact.scores, exact.mass.cumsum())
    gap = np.abs(cdf - (np.arange(m) + 0.5) / m).max()
    assert gap < 1.95 / m**0.5, "Kolmogorov and Smirnov at 0.1 %"


def test_the_law_of_many_steps_is_the_mixture_and_that_of_few_is_not(setup: Setup) -> None:
    """Why the few-step map's own law is the reference here: a tilt is relative to its generator."""
    mixture = tilts.Mixture(np.array(WEIGHTS), np.array(PLACES), np.full(3, SD))
    centre, per_sd = float(setup.scores.centre), float(setup.scores.scale) / SLOPE
    for beta in (0.5, 1.0):
        law, log_z = line().tilted(torch.ones(1, 1, 1), beta / per_sd)
        closed = tilts.linear(beta / per_sd, mixture)
        assert closed.log_z == pytest.approx(log_z, abs=1e-6)
        assert float(law.log_weights.exp() @ law.means.flatten()) == pytest.approx(closed.mean, abs=1e-5)
        many = law_of_map(setup.scores, 500).tilt(beta)
        assert many.mean == pytest.approx((BIAS + SLOPE * closed.mean - centre) / float(setup.scores.scale), abs=0.01)
        assert many.kl == pytest.approx(closed.kl, abs=0.01)
        assert abs(setup.exact.tilt(beta).kl - closed.kl) > 0.02


# --- tilts of the bank --------------------------------------------------------------------------------------------------


def test_mean_and_variance_are_derivatives_along_the_frontier(setup: Setup) -> None:
    frontier, h = Frontier.from_bank(setup.bank_scores), 1e-4
    for beta in (0.3, 0.8, 1.4):
        low, point, high = (frontier.at_beta(b) for b in (beta - h, beta, beta + h))
        mean = (high.log_z.value - low.log_z.value) / (2 * h)
        variance = (high.mean.value - low.mean.value) / (2 * h)
        weights = (beta * setup.bank_scores).softmax(0)
        assert mean == pytest.approx(point.mean.value, abs=1e-6)
        assert variance == pytest.approx(float(weights @ (setup.bank_scores - point.mean.value).square()), abs=1e-6)
        assert point.nats.value == pytest.approx(beta * point.mean.value - point.log_z.value, abs=1e-9)
        assert (high.nats.value - low.nats.value) / (2 * h) == pytest.approx(beta * variance, abs=1e-6)
        exact = setup.exact.tilt(beta)
        for found, true in ((point.log_z, exact.log_z), (point.mean, exact.mean), (point.nats, exact.kl)):
            assert found.value == pytest.approx(true, abs=5 * found.se)
            assert found.se < 0.2


@pytest.mark.parametrize(("n", "k"), [(20, 1), (50, 5)])
def test_pythagoras_places_top_k_above_the_frontier(setup: Setup, n: int, k: int) -> None:
    frontier, exact = Frontier.from_bank(setup.bank_scores), setup.exact
    mean, nats = selection_mean(setup.bank_scores, n, k), selection_kl(n, k)
    # The law of top-K by its density n/k·P[Bin(n-1, 1-F) ≤ k-1] at the middle of each node's mass.
    middle = exact.mass.cumsum() - exact.mass / 2
    q = exact.mass * n / k * stats.binom.cdf(k - 1, n - 1, 1 - middle)
    assert float(q.sum()) == pytest.approx(1, abs=1e-4)
    true_mean = float(q @ exact.scores)
    assert mean.value == pytest.approx(true_mean, abs=5 * mean.se)
    beta = exact.at(lambda law: law.mean - true_mean)
    tilt = exact.mass * np.exp(beta * exact.scores - exact.tilt(beta).log_z)
    some = q > 0
    excess = float(q[some] @ np.log(q[some] / tilt[some]))  # KL(q‖q_β), by Pythagoras what it spends too much
    assert nats - exact.tilt(beta).kl == pytest.approx(excess, abs=1e-3)
    found = excess_nats(nats, mean.value, frontier, mean_se=mean.se)
    assert found.value == pytest.approx(excess, abs=5 * found.se)
    assert found.se < 0.3
    assert dv_bound(mean.value, frontier).value <= nats


# --- guidance ---------------------------------------------------------------------------------------------------------


def test_guided_chains_reach_the_mean_of_the_tilt() -> None:
    """Through hook, readout and standardisation, for a Gaussian prior of any covariance. Chains of one noise are compared,
    so that there is no Monte Carlo error; the residual is the shift that the first state lacks."""
    draw = torch.Generator().manual_seed(3)
    variances = 0.02 + 0.3 * torch.rand(1, 3, 16, 16, generator=draw, dtype=torch.float64)
    prior = GaussianMixture(
        torch.ones(1), torch.zeros_like(variances), variances, linear_schedule=True, scale=SCALE, offset=OFFSET
    )
    sd = SLOPE * float((variances * direction().square()).sum()) ** 0.5
    scores = UnitScores(bind(linear_model(), UNIT), centre=torch.tensor(BIAS), scale=torch.tensor(sd))
    for beta, steps in ((1.0, 10), (3.0, 50)):
        chains, rest = (
            guided_chains(prior, scores, b, generators(2), steps=steps, kernel=ancestral) for b in (beta, 0.0)
        )
        shift = (chains.x0 - rest.x0).double()
        law, log_z = prior.tilted(SLOPE / sd * direction(), beta)
        assert log_z == pytest.approx(beta**2 / 2)
        assert torch.allclose(shift, law.means.expand_as(shift), atol=2e-3 * float(law.means.abs().max()))
        assert (chains.scores - rest.scores).tolist() == pytest.approx([beta] * 2, abs=0.11)  # of 8-bit files
        # The nats of these paths, the last step at rest, in closed form: the guide's pull is the same everywhere.
        levels, nats = prior.levels(steps), 0.0
        a = SLOPE / sd * direction()
        for t, s in pairwise(levels):
            k = ancestral(t, s)
            pull = k.push * beta * t.alpha * variances / (t.alpha**2 * variances + t.sigma**2) * a
            nats += float(pull.square().sum()) / (2 * k.sd**2) if k.sd else 0.0
        resting = guided_chains(prior, scores, beta, generators(2), steps=steps, kernel=ancestral_at_rest)
        assert resting.path_kl.tolist() == pytest.approx([nats] * 2, rel=1e-3)


# --- twisted SMC ------------------------------------------------------------------------------------------------------


def test_twisted_smc_weighs_the_chains_right(setup: Setup) -> None:
    """Against plain Monte Carlo of the same sampler along the unit's direction."""
    steps, beta, runs = 30, 1.0, 8
    prior, n = line(), 100_000
    draw = torch.Generator().manual_seed(9)
    levels = prior.levels(steps)
    x = torch.randn(n, 1, 1, 1, generator=draw, dtype=torch.float64) * levels[0].sigma
    for t, s in pairwise(levels):
        k = ancestral(t, s)
        x = k.from_x * x + k.from_x0 * prior.denoise(x, t) + k.sd * torch.randn(x.shape, generator=draw).double()
    s = (BIAS + SLOPE * x.flatten() - setup.scores.centre[0]) / setup.scores.scale[0]
    log_z = float((beta * s).logsumexp(0)) - math.log(n)
    mean = float((beta * s).softmax(0) @ s)

    group = torch.zeros(32, dtype=torch.int64)
    score: Score = lambda pictures, island: setup.scores(pictures, 0 * island)  # noqa: E731
    assert score(torch.full((32, 3, 16, 16), 0.5), group).shape == (32,)
    particle_sets = twisted_smc(setup.prior, score, beta, generators(runs), particles=32, steps=steps, batch=256)
    z = torch.tensor([c.log_z for c in particle_sets], dtype=torch.float64).sub(log_z).exp()
    assert float(z.mean()) == pytest.approx(1, abs=4 * float(z.std()) / runs**0.5)
    found = estimate_across_islands(particle_sets)
    assert found.mean == pytest.approx(mean, abs=4 * found.mean_se + 0.02)
    assert found.log_z_se < 0.15
    states = torch.cat([c.states for c in particle_sets])
    reread = BIAS + SLOPE * (states.double() * direction()).flatten(1).sum(1)
    stored = torch.cat([c.scores for c in particle_sets])
    assert torch.allclose(setup.scores.of(reread), stored, atol=0.03), "scores are those of the states"


# --- noise space and the frontier -------------------------------------------------------------------------------------


def test_noise_space_smc_and_its_frontier_are_exact(setup: Setup) -> None:
    """From the bank, four islands, to 2 nats; then the frontier by MBAR at less, and at a β between rungs."""
    exact, part = setup.exact, setup.bank.size // 4
    noise, _ = setup.bank.latent()
    parts = [slice(i * part, (i + 1) * part) for i in range(4)]
    first = [ScoredSamples(noise[p], None, setup.bank_scores[p]) for p in parts]
    score: Score = lambda pictures, island: setup.scores(pictures, 0 * island)  # noqa: E731
    particle_sets = noise_smc(
        setup.prior, score, TiltTarget(nats=2.0), generators(4), particles=128, steps=STEPS, moves=3, first=first
    )
    assert all(c.reached and not c.refusal for c in particle_sets)
    for c in particle_sets:
        law = exact.tilt(c.beta)
        assert law.kl == pytest.approx(2.0, abs=0.3)
        assert c.log_z == pytest.approx(law.log_z, abs=0.3)
        assert c.mean == pytest.approx(law.mean, abs=0.3)
    frontier = Frontier.from_ladders(
        [Ladder([r.beta for r in c.rungs], [r.scores for r in c.rungs]) for c in particle_sets]
    )
    for nats in (0.5, 1.0, 1.8):
        point, beta = frontier.at_nats(nats), exact.at(lambda law, nats=nats: law.kl - nats)  # type: ignore[misc]
        assert point.mean.value == pytest.approx(exact.tilt(beta).mean, abs=5 * point.mean.se)
        assert point.beta.value == pytest.approx(beta, abs=5 * point.beta.se)
        assert point.mean.se < 0.08
    point = frontier.at_beta(1.1)
    assert point.log_z.value == pytest.approx(exact.tilt(1.1).log_z, abs=5 * point.log_z.se)
    assert frontier.cross_check is not None
    assert abs(frontier.cross_check.value) < 5 * frontier.cross_check.se
    # Donsker and Varadhan: the clouds are tilts, so the bound by their mean score alone is what they spent.
    assert dv_bound(exact.tilt(1.1).mean, frontier).value == pytest.approx(exact.tilt(1.1).kl, abs=0.1)


# --- scale, bound, cap --------------------------------------------------------------------------------------------------


def test_a_unit_of_twice_the_weight_is_the_same_unit(setup: Setup) -> None:
    one, two = (UnitScores(bind(linear_model(gain), UNIT)) for gain in (1.0, 2.0))
    chains, other = (
        guided_chains(setup.prior, scores, beta, generators(3), steps=10) for scores, beta in ((one, 40.0), (two, 20.0))
    )
    assert torch.allclose(chains.x0, other.x0, atol=1e-5)
    assert chains.path_kl.tolist() == pytest.approx(other.path_kl.tolist(), rel=1e-4)
    assert (chains.x0 - guided_chains(setup.prior, two, 40.0, generators(3), steps=10).x0).abs().max() > 1e-2
    # Standardised, β means the same for both.
    pictures = setup.bank.pictures[:512].float() / 255
    group = torch.zeros(512, dtype=torch.int64)
    one, two = (scores.standardised(scores.all(pictures).T) for scores in (one, two))
    assert float(two.scale) == pytest.approx(2 * float(one.scale), rel=1e-4)
    assert torch.allclose(one(pictures, group), two(pictures, group), atol=1e-4)
    chains, other = (guided_chains(setup.prior, scores, 1.5, generators(3), steps=10) for scores in (one, two))
    assert torch.allclose(chains.x0, other.x0, atol=1e-4)


def run(setup: Setup, score: Score, beta: float) -> tuple[Tensor, float, float]:
    """Scores of particles of the tilt, the mean of four runs' log Z, and its standard error."""
    particle_sets = noise_smc(
        setup.prior, score, TiltTarget(beta=beta), generators(4, 5), particles=96, steps=STEPS, moves=3
    )
    assert all(c.reached for c in particle_sets)
    log_z = torch.tensor([c.log_z for c in particle_sets])
    return torch.cat([c.scores for c in particle_sets]), float(log_z.mean()), float(log_z.std()) / 2


def test_a_bounded_score_has_a_tilt_at_every_strength(setup: Setup) -> None:
    bound, beta = 1.5, 6.0
    bounded = UnitScores(setup.scores.units, centre=setup.scores.centre, scale=setup.scores.scale, bound=bound)
    exact = Exact(bound * np.tanh(setup.exact.scores / bound), setup.exact.mass).tilt(beta)
    scores, log_z, se = run(setup, lambda pictures, island: bounded(pictures, 0 * island), beta)
    assert float(scores.max()) < bound
    assert exact.log_z < beta * bound
    assert log_z == pytest.approx(exact.log_z, abs=5 * se + 0.05)
    assert float(scores.mean()) == pytest.approx(exact.mean, abs=0.05)


def test_a_capped_score_at_a_large_beta_is_the_hard_constraint(setup: Setup) -> None:
    cap = 1.0
    below = setup.exact.scores < cap
    hard = -math.log(float(setup.exact.mass[~below].sum()))
    capped: Score = lambda pictures, island: setup.scores(pictures, 0 * island).clamp(max=cap)  # noqa: E731
    for beta in (2.0, 20.0):
        exact = Exact(setup.exact.scores.clip(max=cap), setup.exact.mass)
        law = exact.tilt(beta)
        share = float(exact.mass[below] @ np.exp(beta * exact.scores[below] - law.log_z))
        scores, log_z, se = run(setup, capped, beta)
        assert log_z == pytest.approx(law.log_z, abs=5 * se + 0.05)
        assert float((scores < cap).double().mean()) == pytest.approx(share, abs=0.1)
    assert share < 0.1
    assert law.kl == pytest.approx(hard, abs=0.25)
    assert float((scores == cap).double().mean()) > 0.85, "nothing is left to gain above the cap"
