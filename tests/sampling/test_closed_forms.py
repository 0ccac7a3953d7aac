"""Tilts of Gaussian mixtures: the library's, closed forms and quadrature agree, and so do the theorems about them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.oracles import tilts
from tests.oracles.tilts import GMM3, Mixture

from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.tilt import tilt


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    k = draw(st.integers(1, 4))
    part = lambda low, high: np.array(draw(st.lists(st.floats(low, high), min_size=k, max_size=k)))  # noqa: E731
    w = part(0.05, 1.0)
    return Mixture(w / w.sum(), part(-4, 4), part(0.2, 1.5))


def as_prior(p: Mixture) -> GaussianMixture:
    w, mu, sd = (torch.from_numpy(part) for part in p)
    return GaussianMixture(w, mu[:, None, None, None], sd[:, None, None, None].square())


def as_mixture(p: GaussianMixture) -> Mixture:
    parts = (p.log_weights.exp(), p.means.flatten(), p.variances.flatten().sqrt())
    return Mixture(*(part.numpy() for part in parts))


def quantiles(p: Mixture, n: int = 200_000) -> np.ndarray:
    """n points of which each stands for 1/n of p."""
    x = tilts.grid(p, points=40_001)
    cdf = stats.norm.cdf(x[:, None], p.mu, p.sd) @ p.w
    keep = np.concatenate([[True], np.diff(cdf) > 0])
    return np.interp((np.arange(n) + 0.5) / n, cdf[keep], x[keep])


# --- s(x) = x --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "log_z", "mean", "kl", "variance", "weights"),
    [
        (0.5, 0.124454, 1.170575, 0.460834, 3.60624, (0.1869, 0.4048, 0.4083)),
        (1.0, 1.095346, 2.562822, 1.467476, 1.87722, (0.0298, 0.2091, 0.7611)),
        (2.0, 4.217227, 3.446787, 2.676347, 0.39114, (0.0003, 0.0193, 0.9804)),
        (4.0, 11.697492, 3.999779, 4.301622, 0.25063, (0.0000, 0.0001, 0.9999)),
    ],
)
def test_golden_numbers(
    beta: float, log_z: float, mean: float, kl: float, variance: float, weights: tuple[float, ...]
) -> None:
    law = tilts.linear(beta)
    assert law.log_z == pytest.approx(log_z, abs=1e-6)
    assert law.mean == pytest.approx(mean, abs=1e-6)
    assert law.kl == pytest.approx(kl, abs=1e-6)
    assert law.variance == pytest.approx(variance, abs=1e-5)
    q, library_log_z = as_prior(GMM3).tilted(torch.ones(1, 1, 1), beta)
    assert library_log_z == pytest.approx(log_z, abs=1e-6)
    assert q.log_weights.exp().tolist() == pytest.approx(weights, abs=5e-5)


@settings(max_examples=40)
@given(p=mixtures(), beta=st.floats(0, 4))
def test_tilted_mixture_closed_form_and_quadrature_agree(p: Mixture, beta: float) -> None:
    law = tilts.linear(beta, p)
    x = tilts.grid(p, beta)
    assert tilts.by_quadrature(lambda x: x, beta, p, x) == pytest.approx(law, abs=1e-6, rel=1e-6)
    q, log_z = as_prior(p).tilted(torch.ones(1, 1, 1), beta)
    assert log_z == pytest.approx(law.log_z, abs=1e-9)
    assert tilts.log_density(x, as_mixture(q)) == pytest.approx(
        tilts.log_density(x, p) + beta * x - log_z, abs=1e-9, rel=1e-9
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), beta=st.floats(0, 2))
def test_tilts_of_pictures_are_tilts_of_their_score(seed: int, beta: float) -> None:
    """Along the template the law is a one-dimensional mixture of means a·μ and variances a'Σa; L and E[s] are its."""
    g = torch.Generator().manual_seed(seed)
    w, means, variances = (torch.rand(shape, generator=g).double() for shape in [(3,), (3, 3, 4, 5), (3, 3, 4, 5)])
    a = torch.randn((3, 4, 5), generator=g).double() / 4
    score = Mixture(
        (w / w.sum()).numpy(),
        (means * a).flatten(1).sum(1).numpy(),
        (variances * a.square()).flatten(1).sum(1).sqrt().numpy(),
    )
    q, log_z = GaussianMixture(w, means, variances).tilted(a, beta)
    law = tilts.linear(beta, score)
    assert log_z == pytest.approx(law.log_z, abs=1e-9)
    assert float(q.log_weights.exp() @ (q.means * a).flatten(1).sum(1)) == pytest.approx(law.mean, abs=1e-9)


@settings(max_examples=40)
@given(p=mixtures())
def test_log_z_is_convex_and_its_derivatives_are_moments(p: Mixture) -> None:
    grid, h = np.linspace(0.1, 3, 12), 1e-4
    laws = [tilts.linear(beta, p) for beta in grid]
    log_z = lambda beta: as_prior(p).tilted(torch.ones(1, 1, 1), beta)[1]  # noqa: E731
    for beta, law in zip(grid, laws):
        up, down = tilts.linear(beta + h, p), tilts.linear(beta - h, p)
        assert (log_z(beta + h) - log_z(beta - h)) / (2 * h) == pytest.approx(law.mean, abs=1e-5)
        assert (up.mean - down.mean) / (2 * h) == pytest.approx(law.variance, abs=1e-5, rel=1e-5)
        assert (up.kl - down.kl) / (2 * h) == pytest.approx(beta * law.variance, abs=1e-5, rel=1e-5)
    assert all(a.mean < b.mean and a.kl < b.kl for a, b in pairwise(laws))
    slopes = [(b.kl - a.kl) / (b.mean - a.mean) for a, b in pairwise(laws)]
    assert all(low - 1e-6 <= slope <= high + 1e-6 for low, slope, high in zip(grid, slopes, grid[1:]))


@pytest.mark.parametrize(
    ("mean", "beta", "kl"), [(2.0, 0.756992, 0.977490), (3.0, 1.303595, 1.964845), (3.5, 2.144816, 2.786549)]
)
def test_dual_golden_numbers(mean: float, beta: float, kl: float) -> None:
    assert tilts.beta_of_mean(mean) == pytest.approx(beta, abs=1e-6)
    assert tilts.linear(beta).kl == pytest.approx(kl, abs=2e-6)


@settings(max_examples=40)
@given(p=mixtures(), beta=st.floats(0.05, 3))
def test_dual_round_trip_and_maximum(p: Mixture, beta: float) -> None:
    law = tilts.linear(beta, p)
    assert tilts.beta_of_mean(law.mean, p) == pytest.approx(beta, abs=1e-6)
    others = [b * law.mean - tilts.linear(b, p).log_z for b in np.linspace(0, 5, 101)]
    assert max(others) <= law.kl + 1e-9, "the dual is largest at the multiplier, where it is the KL"


@pytest.mark.parametrize("mean", [-0.625, -1.0, -50.0])
def test_a_mean_that_the_prior_has_needs_no_tilt(mean: float) -> None:
    assert tilts.beta_of_mean(mean) == 0


# --- Pythagoras -------------------------------------------------------------------------------------------------------


def hard(x: np.ndarray, p: Mixture) -> np.ndarray:
    """log density of p(x | s ≥ 1) from 1 on."""
    inside = np.log(stats.norm.sf(1, p.mu, p.sd) @ p.w)
    return tilts.log_density(x, p) - inside


def top_k(x: np.ndarray, p: Mixture) -> np.ndarray:
    """log density of the best 5 of 100."""
    above = stats.norm.sf(x[:, None], p.mu, p.sd) @ p.w
    return tilts.log_density(x, p) + np.log(100 / 5) + stats.binom.logcdf(4, 99, above)


def check_pythagoras(log_q: np.ndarray, x: np.ndarray, beta: float) -> None:
    """KL(q‖p) = KL(q‖q_β) + β·E_q[s] - L(β) for any q; so of all laws of its mean the tilt is nearest."""
    mean, to_p = tilts.integral(np.exp(log_q) * x, x), tilts.kl(log_q, tilts.log_density(x, GMM3), x)
    assert tilts.integral(np.exp(log_q), x) == pytest.approx(1, abs=1e-6)
    nearest = tilts.beta_of_mean(mean)
    for b in {beta, nearest}:
        tilted, log_z = as_prior(GMM3).tilted(torch.ones(1, 1, 1), b)
        to_tilt = tilts.kl(log_q, tilts.log_density(x, as_mixture(tilted)), x)
        assert to_p == pytest.approx(to_tilt + b * mean - log_z, abs=1e-6, rel=1e-6)
        if b == nearest > 0:
            assert to_p - tilts.linear(b).kl == pytest.approx(to_tilt, abs=1e-6, rel=1e-6)
            assert to_tilt >= -1e-9


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5])
def test_pythagoras_of_selections(beta: float) -> None:
    x = np.linspace(1, 10, 20001)
    check_pythagoras(hard(x, GMM3), x, beta)
    x = np.linspace(-3, 10, 8001)  # further down none of the best 5 of 100 falls
    check_pythagoras(top_k(x, GMM3), x, beta)


@settings(max_examples=20)
@given(q=mixtures(), beta=st.floats(0.1, 3))
def test_pythagoras_of_mixtures(q: Mixture, beta: float) -> None:
    x = np.linspace(-24, 24, 8001)
    check_pythagoras(tilts.log_density(x, q), x, beta)


@pytest.mark.parametrize(
    ("tau", "mean", "kl", "excess"),
    [(1, 2.512, 1.988, 0.571), (2, 3.027, 2.325, 0.324), (3, 3.399, 2.996, 0.412), (4, 4.187, 6.086, 0.967)],
)
def test_excess_nats_of_hard_thresholds(tau: float, mean: float, kl: float, excess: float) -> None:
    mass = stats.norm.sf(tau, GMM3.mu, GMM3.sd) @ GMM3.w
    parts = GMM3.w * (
        GMM3.mu * stats.norm.sf(tau, GMM3.mu, GMM3.sd) + GMM3.sd**2 * stats.norm.pdf(tau, GMM3.mu, GMM3.sd)
    )
    assert parts.sum() / mass == pytest.approx(mean, abs=6e-4)
    assert -np.log(mass) == pytest.approx(kl, abs=6e-4)
    nearest = tilts.linear(tilts.beta_of_mean(parts.sum() / mass))
    assert -np.log(mass) - nearest.kl == pytest.approx(excess, abs=1.1e-3)


# --- capped and quadratic scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "distance"), [(1, 0.5851), (2, 0.3707), (5, 0.2205), (20, 0.0732), (277, 0.0057)])
def test_a_capped_score_tends_to_the_hard_posterior(beta: float, distance: float) -> None:
    assert tilts.capped_mass_below(beta, 3) == pytest.approx(distance, abs=5e-5)
    x = quantiles(GMM3)
    q = tilt(torch.from_numpy(np.minimum(x, 3)), beta)
    assert float(q.weights[torch.from_numpy(x < 3)].sum()) == pytest.approx(distance, abs=2e-4)
    assert q.log_z == pytest.approx(tilts.capped_log_z(beta, 3), abs=2e-3)


@settings(max_examples=30)
@given(p=mixtures(), beta=st.floats(0.1, 10), cap=st.floats(-3, 3))
def test_capped_score_by_quadrature(p: Mixture, beta: float, cap: float) -> None:
    x = np.union1d(tilts.grid(p, points=30_001), [cap])  # the kink lies on a point
    law = tilts.by_quadrature(lambda x: np.minimum(x, cap), beta, p, x)
    assert law.log_z == pytest.approx(tilts.capped_log_z(beta, cap, p), abs=1e-5)


def test_a_capped_score_has_a_tilt_for_every_beta() -> None:
    """L grows like β·c plus the logarithm of the mass above the cap."""
    mass = stats.norm.sf(3, GMM3.mu, GMM3.sd) @ GMM3.w
    assert tilts.capped_log_z(1e6, 3) == pytest.approx(3e6 + np.log(mass), abs=1e-3)


@pytest.mark.parametrize(
    ("beta", "log_z", "mean"), [(0.5, -1.228864, -1.184698), (2, -2.329359, -0.534555), (10, -4.155570, -0.098597)]
)
def test_a_quadratic_score(beta: float, log_z: float, mean: float) -> None:
    q, closed_log_z, closed_mean = tilts.quadratic(beta, 2)
    assert (closed_log_z, closed_mean) == pytest.approx((log_z, mean), abs=1e-6)
    assert q.sd == pytest.approx(1 / np.sqrt(1 / GMM3.sd**2 + beta))
    items = tilt(torch.from_numpy(-((quantiles(GMM3) - 2) ** 2) / 2), beta)
    assert items.log_z == pytest.approx(log_z, abs=1e-4)
    assert items.mean == pytest.approx(mean, abs=1e-4)


@settings(max_examples=30)
@given(p=mixtures(), beta=st.floats(0, 10), centre=st.floats(-3, 3))
def test_quadratic_score_by_quadrature(p: Mixture, beta: float, centre: float) -> None:
    x = tilts.grid(p)
    score = lambda x: -((x - centre) ** 2) / 2  # noqa: E731
    q, log_z, mean = tilts.quadratic(beta, centre, p)
    law = tilts.by_quadrature(score, beta, p, x)
    assert (law.log_z, law.mean) == pytest.approx((log_z, mean), abs=1e-6, rel=1e-6)
    assert tilts.log_density(x, q) == pytest.approx(tilts.log_density(x, p) + beta * score(x) - log_z, abs=1e-8)
