"""Tilts and top-K selection against closed forms, quadrature and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from torch import Tensor

from entoptic import UserError
from entoptic.sampling.tilt import (
    Tilt,
    beta_for_kl,
    beta_for_mean,
    draw_order,
    gumbel_noise,
    rank_kl,
    selection_kl,
    standardise_scores,
    tilt,
    top_share_mean,
)

# A mixture of three Gaussians with score s(x) = x: tilts and their KL are closed forms.
GMM3 = (np.array([0.55, 0.35, 0.10]), np.array([-2, 0.5, 3]), np.array([0.6, 0.4, 0.5]))
GMM2 = (np.array([0.3, 0.7]), np.array([0.0, 10.0]), np.array([2.0, 0.1]))
Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]

scores = st.lists(st.floats(-50, 50, allow_nan=False), min_size=2, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def log_z(beta: float, mixture: Mixture = GMM3) -> float:
    w, mu, sd = mixture
    return float(special.logsumexp(np.log(w) + beta * mu + beta**2 * sd**2 / 2))


def tilted_mean(beta: float, mixture: Mixture = GMM3) -> float:
    w, mu, sd = mixture
    tilted = special.softmax(np.log(w) + beta * mu + beta**2 * sd**2 / 2)
    return float(tilted @ (mu + beta * sd**2))


def pool(n: int, mixture: Mixture = GMM3, seed: int = 0) -> np.ndarray:
    w, mu, sd = mixture
    rng = np.random.default_rng(seed)
    which = rng.choice(len(w), n, p=w)
    return rng.normal(mu[which], sd[which])


def cdf(x: np.ndarray, mixture: Mixture = GMM3) -> np.ndarray:
    w, mu, sd = mixture
    return stats.norm.cdf(x[:, None], mu, sd) @ w


def pdf(x: np.ndarray, mixture: Mixture = GMM3) -> np.ndarray:
    w, mu, sd = mixture
    return stats.norm.pdf(x[:, None], mu, sd) @ w


def top_weight(u: np.ndarray, n: int, k: int) -> np.ndarray:
    """w(u) of the law of top-K selection."""
    return n / k * stats.binom.cdf(k - 1, n - 1, 1 - u)


# --- the law of top-K selection -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "nats"),
    [(1000, 10, 4.3047), (1000, 9, 4.3929), (10**5, 9, 8.9963), (10**6, 9, 11.2988), (10**6, 10, 11.2106),
     (1281167, 9, 11.5466), (100, 5, 2.5760)],
)  # fmt: skip
def test_known_values(n: int, k: int, nats: float) -> None:
    assert selection_kl(n, k) == pytest.approx(nats, abs=5e-5)


@pytest.mark.parametrize(
    ("n", "k"), [(3, 2), (10, 3), (10, 9), (100, 50), (1000, 999), (10**5, 9), (10**6, 1000), (10**7, 2), (10**7, 100)]
)
def test_quadrature_with_the_incomplete_beta_function(n: int, k: int) -> None:
    y = np.linspace(math.log(k / (n - k + 1)) - 45, math.log(k / (n - k)) + 30, 200001)  # logit of v = 1-u
    v = special.expit(y)
    w = n / k * special.betainc(n - k, k, special.expit(-y))
    assert integrate.trapezoid(w * v * (1 - v), y) == pytest.approx(1, abs=1e-9), "the law is normalised"
    assert selection_kl(n, k) == pytest.approx(integrate.trapezoid(special.xlogy(w, w) * v * (1 - v), y), abs=1e-8)


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 10**7])
def test_best_of_n(n: int) -> None:
    assert selection_kl(n, 1) == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-12)
    assert rank_kl(n, 1) == pytest.approx(selection_kl(n, 1), abs=1e-7)
    assert rank_kl(n, n) == pytest.approx(selection_kl(n, 1), abs=1e-7), "the lowest strays as far as the highest"


def test_all_of_them_is_no_selection() -> None:
    assert selection_kl(40, 40) == 0
    assert rank_kl(1, 1) == 0


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40, 100, 1000, 12345, 10**5, 10**6, 10**7])
def test_fewer_of_more_strays_further(n: int) -> None:
    ks = sorted({k for k in (1, 2, 3, 5, 9, 10, 50, 100, n // 3, n // 2, n - 2, n - 1, n) if 1 <= k <= n})
    nats = [selection_kl(n, k) for k in ks]
    assert nats == sorted(set(nats), reverse=True)
    assert all(selection_kl(2 * n, k) > kl for k, kl in zip(ks, nats))
    # The best k of n stray less than the photos above a fixed threshold that lets through as many on average.
    assert all(kl <= math.log(n / k) + 1e-12 for k, kl in zip(ks, nats))


@pytest.mark.parametrize(("n", "k"), [(7, 3), (40, 9)])
def test_selection_is_the_mean_of_its_ranks(n: int, k: int) -> None:
    """The k-th best is Beta(n-k+1, k); the density of their mean is w."""
    u = np.linspace(1e-6, 1 - 1e-6, 2001)
    mean = np.mean([stats.beta.pdf(u, n - r + 1, r) for r in range(1, k + 1)], 0)
    assert np.allclose(mean, top_weight(u, n, k), atol=1e-9)
    kls = []
    for r in range(1, k + 1):
        f = stats.beta.pdf(u, n - r + 1, r)
        kls.append(rank_kl(n, r))
        assert kls[-1] == pytest.approx(integrate.simpson(special.xlogy(f, f), x=u), abs=2e-3)
    assert selection_kl(n, k) < np.mean(kls), "which rank is shown is information too"


@pytest.mark.parametrize("mixture", [GMM3, GMM2], ids=["GMM3", "GMM2"])
def test_kl_is_the_same_for_every_distribution(mixture: Mixture) -> None:
    n, k = 100, 5
    x = np.linspace(-12, 12, 400001)
    p, w = pdf(x, mixture), top_weight(cdf(x, mixture), n, k)
    assert integrate.trapezoid(p * w, x) == pytest.approx(1, abs=1e-4)
    assert integrate.trapezoid(p * special.xlogy(w, w), x) == pytest.approx(selection_kl(n, k), abs=1e-3)


@pytest.mark.parametrize(("n", "k"), [(100, 5), (1000, 10)])
def test_simulated_selection_has_the_mean_of_the_law(n: int, k: int) -> None:
    runs = 1500
    draws = np.sort(pool(runs * n).reshape(runs, n), 1)[:, -k:].mean(1)
    x = np.linspace(-6, 8, 40001)
    expected = integrate.trapezoid(x * pdf(x) * top_weight(cdf(x), n, k), x)
    assert abs(draws.mean() - expected) < 4 * draws.std(ddof=1) / math.sqrt(runs)
    assert expected == pytest.approx({5: 3.3287, 10: 3.8636}[k], abs=1e-3)


@pytest.mark.parametrize(
    ("n", "k", "mean", "beta", "frontier", "excess"),
    [(100, 5, 3.3287, 1.739, 2.4564, 0.1197), (1000, 10, 3.8636, 3.458, 3.7938, 0.5109),
     (100000, 9, 4.6900, 6.760, 8.0151, 0.9812)],
)  # fmt: skip
def test_the_tilt_of_the_same_mean_is_nearer(
    n: int, k: int, mean: float, beta: float, frontier: float, excess: float
) -> None:
    """The KL-minimal law at top-K's own mean, in closed form for the mixture."""
    x = np.linspace(-6, 9, 200001)
    reached = integrate.trapezoid(x * pdf(x) * top_weight(cdf(x), n, k), x)
    assert reached == pytest.approx(mean, abs=1e-3)
    found = optimize.brentq(lambda b: tilted_mean(b) - reached, 0, 20)
    nearest = found * reached - log_z(found)
    assert found == pytest.approx(beta, abs=2e-3)
    assert nearest == pytest.approx(frontier, abs=1e-3)
    assert selection_kl(n, k) - nearest == pytest.approx(excess, abs=1e-3)


@pytest.mark.parametrize("call", [lambda: selection_kl(5, 6), lambda: selection_kl(5, 0), lambda: rank_kl(5, 6)])
def test_impossible_selections_are_refused(call: Callable[[], float]) -> None:
    with pytest.raises(UserError, match="5"):
        call()


# --- tilts --------------------------------------------------------------------------------------------------


def quantiles(n: int, mixture: Mixture = GMM3) -> Tensor:
    """Scores of n items that stand for the mixture: its quantiles at even levels."""
    x = np.linspace(-6, 7, 400001)
    return torch.from_numpy(np.interp((np.arange(n) + 0.5) / n, cdf(x, mixture), x))


@pytest.mark.parametrize(
    ("beta", "l", "mean", "kl", "variance"),
    [(0.5, 0.124454, 1.170575, 0.460834, 3.60624), (1, 1.095346, 2.562822, 1.467476, 1.87722),
     (2, 4.217227, 3.446787, 2.676347, 0.39114)],
)  # fmt: skip
def test_many_items_tilt_like_the_mixture(beta: float, l: float, mean: float, kl: float, variance: float) -> None:  # noqa: E741
    found = tilt(quantiles(100_000), beta)
    assert found.log_z == pytest.approx(l, abs=2e-3)
    assert found.mean == pytest.approx(mean, abs=2e-3)
    assert found.kl == pytest.approx(kl, abs=2e-3)
    assert found.variance == pytest.approx(variance, abs=5e-3)


@given(scores, st.floats(0, 8))
def test_a_tilt_is_a_softmax(s: Tensor, beta: float) -> None:
    found = tilt(s, beta)
    expected = (beta * s).softmax(0)
    assert torch.allclose(found.weights, expected, atol=1e-12)
    assert found.mean == pytest.approx(float(expected @ s), rel=1e-9, abs=1e-9)
    assert found.log_z == pytest.approx(float((beta * s).logsumexp(0)) - math.log(len(s)), rel=1e-9, abs=1e-9)
    # KL = β E[s] - log Z, where that difference of large numbers still means something.
    assert found.kl == pytest.approx(max(0.0, beta * found.mean - found.log_z), abs=1e-9)
    assert found.ess == pytest.approx(1 / float(expected.square().sum()), rel=1e-9)
    assert 1 - 1e-9 <= found.ess <= len(s) + 1e-9


@given(scores, st.floats(0.01, 3))
def test_derivatives(s: Tensor, beta: float) -> None:
    """L' = E[s], L'' = Var[s], dKL/dβ = β Var[s]."""
    h = 1e-4
    low, here, high = (tilt(s, b) for b in (beta - h, beta, beta + h))
    assert (high.log_z - low.log_z) / (2 * h) == pytest.approx(here.mean, abs=1e-3)
    assert (high.mean - low.mean) / (2 * h) == pytest.approx(here.variance, rel=1e-2, abs=1e-3)
    assert (high.kl - low.kl) / (2 * h) == pytest.approx(beta * here.variance, rel=1e-2, abs=1e-3)
    assert high.mean >= low.mean - 1e-12
    assert high.kl >= low.kl - 1e-12


@given(scores, st.floats(0, 3), st.integers(0, 2**31))
def test_no_law_of_the_same_mean_is_nearer(s: Tensor, beta: float, seed: int) -> None:
    """KL(q‖p) = KL(q‖q_β) + β E_q[s] - L(β) for any q (Pythagoras)."""
    found = tilt(s, beta)
    q = torch.rand(len(s), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e-6
    q = q / q.sum()
    to_prior = float((q * (q * len(s)).log()).sum())
    log_weights = (beta * s).log_softmax(0)  # not found.weights: these may underflow
    to_tilt = float((q * (q.log() - log_weights)).sum())
    assert to_prior == pytest.approx(to_tilt + beta * float(q @ s) - found.log_z, abs=1e-8)
    assert to_prior >= beta * float(q @ s) - found.log_z - 1e-8


def test_zero_and_infinity() -> None:
    s = torch.tensor([3.0, -1.0, 3.0, 2.0])
    none = tilt(s, 0)
    assert torch.equal(none.weights, torch.full((4,), 0.25, dtype=torch.float64))
    assert (none.kl, none.log_z, none.ess) == (0, 0, 4)
    best = tilt(s, math.inf)
    assert best.weights.tolist() == [0.5, 0, 0.5, 0]
    assert best.mean == 3
    assert best.variance == 0
    assert best.kl == pytest.approx(math.log(2))
    assert tilt(s, 1e6).kl == pytest.approx(math.log(2))
    assert tilt(s - 3, math.inf).log_z == pytest.approx(math.log(0.5)), "E_p[exp(β s)] has a limit at 0"


def test_scores_of_any_size_neither_overflow_nor_vanish() -> None:
    s = torch.tensor([1e6, 1e6 + 1, -1e6])
    found = tilt(s, 50.0)
    assert math.isfinite(found.log_z)
    assert found.mean == pytest.approx(1e6 + 1)


def test_a_constant_score_tilts_nothing() -> None:
    s, mean, sd = standardise_scores(torch.full((5,), 2.7))
    assert (float(s.abs().max()), sd) == (0, 0)
    assert mean == pytest.approx(2.7)
    assert tilt(s, 1e9).ess == pytest.approx(5)
    assert beta_for_mean(torch.full((7,), 0.1), 0.1) in (0.0, math.inf)


@given(scores, st.floats(0.1, 10), st.floats(-100, 100), st.floats(0, 3))
def test_only_standardised_scores_make_beta_comparable(s: Tensor, scale: float, shift: float, beta: float) -> None:
    assert torch.allclose(tilt(s, beta).weights, tilt(scale * s + shift, beta / scale).weights, atol=1e-9)
    if float(s.std()) > 1e-3:
        assert torch.allclose(standardise_scores(s)[0], standardise_scores(scale * s + shift)[0], atol=1e-6)


# --- β from what it should reach ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "beta", "kl"), [(2, 0.756992, 0.977490), (3, 1.303595, 1.964845), (3.5, 2.144816, 2.786549)]
)
def test_beta_of_the_mixture(mean: float, beta: float, kl: float) -> None:
    s = quantiles(100_000)
    assert beta_for_mean(s, mean) == pytest.approx(beta, abs=5e-3)
    assert beta_for_kl(s, kl) == pytest.approx(beta, abs=5e-3)
    assert beta_for_mean(s, -0.625 - 0.01) == 0


@settings(max_examples=40)
@given(scores, st.floats(0.01, 0.99))
def test_targets_are_reached(s: Tensor, share: float) -> None:
    gaps = s.max() - s
    if (
        float(gaps.max()) < 1e-2 or float(gaps[gaps > 0].min()) < 1e-280
    ):  # no double β is large enough to tell them apart
        return
    mean = float(s.mean()) + share * float(s.max() - s.mean())
    assert tilt(s, beta_for_mean(s, mean)).mean == pytest.approx(mean, rel=1e-9, abs=1e-9)
    most = math.log(len(s) / int((s == s.max()).sum()))
    assert tilt(s, beta_for_kl(s, share * most)).kl == pytest.approx(share * most, rel=1e-9, abs=1e-9)


def test_what_cannot_be_reached_is_refused_with_the_most_there_is() -> None:
    s = torch.tensor([0.0, 1.0, 5.0, 5.0])
    with pytest.raises(UserError, match=r"maximum is 5, at 0\.6931 nats"):
        beta_for_mean(s, 5.5)
    with pytest.raises(UserError, match=r"maximum is 0\.6931 nats"):
        beta_for_kl(s, 0.7)
    assert beta_for_mean(s, 5.0) == math.inf
    assert beta_for_kl(s, math.log(2)) == math.inf
    assert beta_for_kl(s, 0) == 0
    for bad in (-1.0, math.nan):
        with pytest.raises(UserError):
            beta_for_kl(s, bad)
        with pytest.raises(UserError):
            tilt(s, bad)
    with pytest.raises(UserError):
        beta_for_mean(s, math.nan)
    for broken in (torch.tensor([]), torch.tensor([1.0, math.nan])):
        with pytest.raises(UserError, match="finite"):
            tilt(broken, 1.0)


@settings(max_examples=30)
@given(st.integers(2, 200), st.integers(1, 200), st.integers(0, 99))
def test_at_equal_mean_the_tilt_is_no_further_than_top_k(n: int, k: int, seed: int) -> None:
    """Among stored photos top-K is uniform over K of N: log(N/K) nats."""
    k = min(k, n)
    s = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = float(s.topk(k).values.mean())
    assert tilt(s, beta_for_mean(s, mean)).kl <= math.log(n / k) + 1e-9


def test_the_target_is_the_mean_of_the_natural_top() -> None:
    s = quantiles(100_000)
    x = np.linspace(-6, 9, 400001)
    above = x[cdf(x) >= 1 - 1e-3]  # the conditional mean by quadrature
    assert top_share_mean(s) == pytest.approx(np.average(above, weights=pdf(above)), abs=2e-3)
    assert tilt(s, beta_for_mean(s, top_share_mean(s))).kl < math.log(1000), (
        "and the tilt is nearer than the top itself"
    )
    assert top_share_mean(s, 1.0) == pytest.approx(float(s.mean()))
    assert top_share_mean(torch.tensor([1.0, 5.0, 2.0]), 0.34) == 5
    with pytest.raises(UserError, match=r"smallest share is 0\.01"):
        top_share_mean(torch.arange(100.0), 0.001)
    for bad in (0.0, 1.5, math.nan):
        with pytest.raises(UserError, match="at most 1"):
            top_share_mean(s, bad)


# --- drawing ------------------------------------------------------------------------------------------------


def names(n: int) -> list[str]:
    return [f"photo {i}" for i in range(n)]


def test_noise_is_gumbel() -> None:
    noise = gumbel_noise("0|unit", names(20_000)).numpy()
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 1e-3
    other = gumbel_noise("1|unit", names(20_000)).numpy()
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.03


def test_noise_belongs_to_the_photo_not_to_its_place() -> None:
    noise = gumbel_noise("0|unit", names(10))
    assert torch.equal(gumbel_noise("0|unit", names(10)[::-1]), noise.flip(0))
    assert torch.equal(gumbel_noise("0|unit", names(5)), noise[:5])
    copies = gumbel_noise("0|unit", ["a", "b", "a"])
    assert copies[0] != copies[2], "copies of a photo are not drawn together"


def test_first_draws_follow_the_tilt_and_later_ones_what_is_left() -> None:
    s, beta, runs = torch.tensor([0.0, 0.5, 1.0, 2.0]), 1.3, 2000
    weights = tilt(s, beta).weights.numpy()
    orders = np.array([draw_order(s, beta, gumbel_noise(f"{seed}", names(4))).tolist() for seed in range(runs)])
    assert stats.chisquare(np.bincount(orders[:, 0], minlength=4), runs * weights).pvalue > 1e-3
    after_best = orders[orders[:, 0] == 3, 1]
    left = weights[:3] / weights[:3].sum()
    assert stats.chisquare(np.bincount(after_best, minlength=3), len(after_best) * left).pvalue > 1e-3
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.tolist()), "without replacement"


def test_a_large_beta_draws_top_k() -> None:
    s = torch.randn(60, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    noise = gumbel_noise("0", names(60))
    for beta in (1e9, math.inf):
        order = draw_order(s, beta, noise)
        assert s[order].tolist() == s.sort(descending=True).values.tolist()
    ties = (s == s.max()).nonzero().flatten()
    if len(ties) > 1:
        assert draw_order(s, math.inf, noise)[0] == ties[noise[ties].argmax()]


def test_no_tilt_draws_any() -> None:
    noise = gumbel_noise("0", names(30))
    assert torch.equal(draw_order(torch.randn(30), 0.0, noise), noise.argsort(descending=True))


def test_a_stronger_tilt_of_the_same_noise_draws_no_lower() -> None:
    s = torch.randn(200, generator=torch.Generator().manual_seed(1))
    noise = gumbel_noise("0", names(200))
    first = [float(s[draw_order(s, beta, noise)[0]]) for beta in (0.0, 0.5, 1.0, 2.0, 5.0, 20.0)]
    assert first == sorted(first)
    assert isinstance(tilt(s, 1.0), Tilt)
