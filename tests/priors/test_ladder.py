"""Ladders, the frontier and its bounds against closed forms, quadrature, plain loops and repeated sampling."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from tests.oracles import frontier as oracle
from torch import Tensor

from entoptic import UserError
from entoptic.base.estimates import Estimate, t_quantile
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.frontier import Frontier, dv_bound, excess_nats
from entoptic.sampling.kl_lower_bound import dv_bound_features
from entoptic.sampling.mbar import Ladder
from entoptic.sampling.tilt import _rank_weights, selection_kl, selection_mean, tilt

RUNGS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.2, 3.2)

scores = st.lists(st.floats(-20, 20, allow_nan=False), min_size=40, max_size=120).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@st.composite
def mixtures(draw: st.DrawFn) -> oracle.Mixture:
    k = draw(st.integers(1, 4))
    parts = [draw(st.lists(st.floats(*r), min_size=k, max_size=k)) for r in ((0.1, 1), (-3, 3), (0.3, 1.5))]
    w, mu, sd = (np.array(part) for part in parts)
    return w / w.sum(), mu, sd


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ladder(generator: np.random.Generator, n: int = 64, rungs: tuple[float, ...] = RUNGS) -> Ladder:
    return Ladder(rungs, [torch.from_numpy(oracle.draws(b, (n,), generator)) for b in rungs])


def bank(n: int, seed: int = 0, mixture: oracle.Mixture = oracle.GMM3) -> Tensor:
    return torch.from_numpy(oracle.draws(0, (n,), rng(seed), mixture))


def exact(mixture: oracle.Mixture = oracle.GMM3) -> Frontier:
    """The frontier of the mixture itself: quadrature points are a weighted sample of the prior."""
    x = np.linspace(-20, 25, 9001)
    weights = oracle.pdf(x, mixture)
    log_weights = torch.from_numpy(np.log(np.maximum(weights / weights.sum(), 1e-300)))
    return Frontier(torch.from_numpy(x), log_weights, torch.arange(len(x)) % 32, 32)


# --- MBAR -----------------------------------------------------------------------------------------------------------


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


def test_islands_of_exact_tilts_agree_with_the_closed_form() -> None:
    """Draws are from the toy prior itself."""
    w, mu, sd = (torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in oracle.GMM3)
    prior = GaussianMixture(w, mu.reshape(3, 1, 1, 1), sd.square().reshape(3, 1, 1, 1))
    generator = torch.Generator().manual_seed(3)
    laws = [prior.tilted(torch.ones(1, 1, 1), b)[0] for b in RUNGS]
    runs = [Ladder(RUNGS, [law.draw(256, generator).flatten() for law in laws]) for _ in range(8)]
    frontier = Frontier.from_ladders(runs)
    for b in (*RUNGS[1:], 0.45, 2.7):
        point = frontier.at_beta(b)
        truths = (oracle.log_z(b), oracle.mean(b), oracle.nats(b))
        for found, true in zip((point.log_z, point.mean, point.nats), truths):
            assert abs(found.value - true) < 3 * found.se
            assert found.se < 0.1
        assert point.ess > 256
    assert frontier.cross_check is not None
    assert abs(frontier.cross_check.value) < 3 * frontier.cross_check.se
    assert frontier.cross_check.se < 0.2


@pytest.mark.parametrize(("islands", "extra"), [(4, 0), (6, 1000)])
def test_intervals_cover(islands: int, extra: int) -> None:
    """Nominal 95 % intervals hold the truth in 90 to 99 % of 200 repetitions, with and without a bank."""
    seeds = 200
    hits: dict[str, int] = {}
    for seed in range(seeds):
        generator = rng(seed)
        runs = [ladder(generator, 48, RUNGS[:-1]) for _ in range(islands)]
        more = torch.from_numpy(oracle.draws(0, (extra,), generator)) if extra else None
        frontier = Frontier.from_ladders(runs, more)
        estimates = [("nats at a mean of 3", frontier.at_mean(3.0).nats, 1.964845)]
        estimates.append(("β at a mean of 3", frontier.at_mean(3.0).beta, 1.303595))
        estimates.append(("mean of 2.676 nats", frontier.at_nats(2.676347).mean, 3.446787))
        for b in (0.5, 2.0):
            point = frontier.at_beta(b)
            estimates.append((f"L({b})", point.log_z, oracle.log_z(b)))
            estimates.append((f"E({b})", point.mean, oracle.mean(b)))
            estimates.append((f"KL({b})", point.nats, oracle.nats(b)))
        for name, found, true in estimates:
            assert found.interval is not None
            hits[name] = hits.get(name, 0) + (found.interval[0] <= true <= found.interval[1])
    assert len(hits) == 9
    assert all(0.90 * seeds <= count <= 0.99 * seeds for count in hits.values()), hits


def test_a_bank_of_its_own_covers_too_and_at_its_end_not_much_less() -> None:
    seeds, inside, end = 150, 0, 0
    for seed in range(seeds):
        frontier = Frontier.from_bank(bank(1000, seed))
        for b in (0.5, frontier.support_limit.beta):
            found = frontier.at_beta(b).nats
            assert found.interval is not None
            hit = found.interval[0] <= oracle.nats(b) <= found.interval[1]
            inside, end = (inside + hit, end) if b == 0.5 else (inside, end + hit)
    assert inside >= 0.90 * seeds
    assert end >= 0.85 * seeds, "without a part for bias it is 70 %"


def test_a_bank_helps_and_its_error_is_not_shared() -> None:
    """Every draw of the bank is dealt to one island: the standard error is the spread over repetitions."""
    errors, se, without = [], [], []
    for seed in range(60):
        generator = rng(seed)
        runs = [ladder(generator, 48, RUNGS[:5]) for _ in range(4)]
        more = torch.from_numpy(oracle.draws(0, (4000,), generator))
        point = Frontier.from_ladders(runs, more).at_beta(0.3)
        errors.append(point.log_z.value - oracle.log_z(0.3))
        se.append(point.log_z.se)
        without.append(Frontier.from_ladders(runs).at_beta(0.3).log_z.se)
    assert 0.75 < np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(se))) < 1.3
    assert np.mean(se) < 0.5 * np.mean(without)
    joined = Frontier.from_ladders(runs, more)
    assert len(joined.scores) == 4 * 5 * 48 + 4000


def test_particles_that_have_not_settled_fail_the_cross_check() -> None:
    generator = rng(0)
    lagging = [
        Ladder(RUNGS, [torch.from_numpy(oracle.draws(0.6 * b, (400,), generator)) for b in RUNGS]) for _ in range(6)
    ]
    check = Frontier.from_ladders(lagging).cross_check
    assert check is not None
    assert abs(check.value) > 10 * check.se


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


def test_scores_that_are_none() -> None:
    for broken in (torch.tensor([]), torch.tensor([1.0, math.nan])):
        with pytest.raises(UserError, match="finite"):
            Ladder((0.0,), [broken])
        with pytest.raises(UserError, match="finite"):
            Frontier.from_bank(broken)
    with pytest.raises(UserError, match="at least 20 scores, got 19"):
        Frontier.from_bank(torch.randn(19))
    with pytest.raises(UserError, match="at least one ladder"):
        Frontier.from_ladders([])
    with pytest.raises(UserError, match="dealt out over 4"):
        Frontier.from_ladders([ladder(rng(0))] * 4, torch.zeros(3))


def test_rungs_without_overlap_are_named() -> None:
    apart = Ladder((0.0, 0.5, 9.0), [bank(300), bank(300, 1), torch.from_numpy(oracle.draws(9, (300,), rng(2)))])
    with pytest.raises(UserError, match=r"β = 0\.5 and β = 9 .*put a rung between"):
        apart.log_weights()
    disjoint = Ladder((0.0, 1.0), [torch.zeros(50), torch.full((50,), 1000.0)])
    with pytest.raises(UserError, match="β = 0 and β = 1"):
        disjoint.log_weights()


# --- the frontier ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "l", "mean", "nats"),
    [(0.5, 0.124454, 1.170575, 0.460834), (1, 1.095346, 2.562822, 1.467476), (2, 4.217227, 3.446787, 2.676347),
     (4, 11.697492, 3.999779, 4.301622)],
)  # fmt: skip
def test_the_golden_tilts(beta: float, l: float, mean: float, nats: float) -> None:  # noqa: E741
    frontier = exact()
    point = frontier.at_beta(beta)
    assert [point.log_z.value, point.mean.value, point.nats.value] == pytest.approx([l, mean, nats], abs=1e-6)
    assert frontier.at_mean(mean).nats.value == pytest.approx(nats, abs=1e-5)
    assert frontier.at_nats(nats).mean.value == pytest.approx(mean, abs=1e-5)
    assert frontier.at_nats(nats).beta.value == pytest.approx(beta, abs=1e-5)


@pytest.mark.parametrize(
    ("mean", "beta", "nats"), [(2, 0.756992, 0.977490), (3, 1.303595, 1.964845), (3.5, 2.144816, 2.786549)]
)
def test_the_golden_duals(mean: float, beta: float, nats: float) -> None:
    point = exact().at_mean(mean)
    assert [point.beta.value, point.mean.value, point.nats.value] == pytest.approx([beta, mean, nats], abs=1e-6)
    assert point.mean == Estimate(mean, 0.0, (mean, mean))


@settings(max_examples=30)
@given(mixtures(), st.floats(0.01, 3))
def test_random_mixtures(mixture: oracle.Mixture, beta: float) -> None:
    frontier = exact(mixture)
    point = frontier.at_beta(beta)
    assert point.log_z.value == pytest.approx(oracle.log_z(beta, mixture), abs=1e-6)
    assert point.mean.value == pytest.approx(oracle.mean(beta, mixture), abs=1e-6)
    assert point.nats.value == pytest.approx(oracle.nats(beta, mixture), abs=1e-6)
    # The frontier is convex with slope β.
    low, high = frontier.at_beta(beta * 0.999), frontier.at_beta(beta * 1.001)
    rise = (high.nats.value - low.nats.value) / (high.mean.value - low.mean.value)
    assert rise == pytest.approx(beta, rel=1e-2)


@settings(max_examples=30)
@given(scores, st.floats(0, 1))
def test_a_discrete_prior_is_a_softmax(s: Tensor, share: float) -> None:
    """A bank's frontier is the tilt of its scores, errors apart."""
    frontier = Frontier.from_bank(s)
    beta = share * frontier.support_limit.beta
    point, softmax = frontier.at_beta(beta), tilt(s, beta)
    assert point.log_z.value == pytest.approx(softmax.log_z, rel=1e-9, abs=1e-9)
    assert point.mean.value == pytest.approx(softmax.mean, rel=1e-9, abs=1e-9)
    assert point.nats.value == pytest.approx(softmax.kl, rel=1e-6, abs=1e-9)
    assert point.ess == pytest.approx(softmax.ess, rel=1e-9)
    assert point.ess >= 20 - 1e-6


def test_no_tilt_is_the_prior_and_the_strongest_is_top_k() -> None:
    s = torch.cat(
        [torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.full((25,), 4.0)]
    )
    frontier = Frontier.from_bank(s)
    none = frontier.at_beta(0)
    assert none.mean.value == pytest.approx(float(s.mean()))
    assert none.nats == Estimate(0.0, 0.0, (0.0, 0.0))
    assert none.log_z.se < 1e-12
    assert none.mean.se == pytest.approx(float(s.std()) / math.sqrt(len(s)), rel=0.3)
    assert frontier.support_limit.mean == pytest.approx(4.0, abs=1e-9), (
        "25 share the highest score, enough to stand for it"
    )
    assert frontier.support_limit.nats == pytest.approx(math.log(525 / 25), abs=1e-6)
    assert frontier.at_mean(float(s.mean()) - 1).beta.value == 0


def test_a_constant_score_has_a_frontier_of_one_point() -> None:
    frontier = Frontier.from_bank(torch.full((50,), 2.5))
    assert (frontier.support_limit.mean, frontier.support_limit.nats) == (2.5, 0)
    assert frontier.at_mean(2.5).nats.value == 0
    with pytest.raises(UserError, match=r"maximum is a mean of 2\.5 at 0 nats"):
        frontier.at_mean(2.6)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-100, 100))
def test_scale_and_shift_change_beta_alone(seed: int, scale: float, shift: float) -> None:
    s = bank(200, seed)
    one, other = Frontier.from_bank(s), Frontier.from_bank(scale * s + shift)
    here, there = one.at_nats(1.0), other.at_nats(1.0)
    assert there.beta.value == pytest.approx(here.beta.value / scale, rel=1e-6)
    assert there.mean.value == pytest.approx(scale * here.mean.value + shift, rel=1e-6, abs=1e-6)
    assert there.mean.se == pytest.approx(scale * here.mean.se, rel=1e-5)


def test_what_is_out_of_reach_names_the_reachable_maximum() -> None:
    for frontier in (Frontier.from_bank(bank(2000)), Frontier.from_ladders([ladder(rng(i)) for i in range(4)])):
        beta, mean, nats = frontier.support_limit
        named = rf"maximum is a mean of {mean:.6g} at {nats:.4g} nats \(β = {beta:.4g}\)"
        beyond = ((frontier.at_mean, mean + 0.01), (frontier.at_nats, nats + 0.01), (frontier.at_beta, beta * 1.01))
        for call, value in beyond:
            with pytest.raises(UserError, match=named):
                call(value)
        assert frontier.at_mean(mean).nats.value == pytest.approx(nats, abs=1e-6)
        assert frontier.at_nats(nats).mean.value == pytest.approx(mean, abs=1e-6)
        assert frontier.at_beta(beta).ess == pytest.approx(20, abs=0.01)
        for bad in (-1.0, math.nan):
            with pytest.raises(UserError, match="at least 0"):
                frontier.at_beta(bad)
            with pytest.raises(UserError, match="at least 0"):
                frontier.at_nats(bad)
        with pytest.raises(UserError, match="nan"):
            frontier.at_mean(math.nan)


def test_a_ladder_reaches_further_than_a_bank_of_its_size() -> None:
    runs = [ladder(rng(i)) for i in range(4)]
    total = sum(len(s) for run in runs for s in run.scores)
    assert Frontier.from_ladders(runs).support_limit.nats > 1.5 + Frontier.from_bank(bank(total)).support_limit.nats


def test_fewer_than_four_islands_give_no_interval() -> None:
    for count in (1, 3):
        frontier = Frontier.from_ladders([ladder(rng(i)) for i in range(count)])
        point = frontier.at_beta(1.0)
        assert point.nats.value == pytest.approx(oracle.nats(1.0), abs=0.3)
        assert (point.nats.interval, point.mean.interval, point.log_z.interval) == (None, None, None)
        assert math.isinf(frontier.at_mean(2.0).nats.se)
        json.dumps(frontier.to_json(), allow_nan=False)


def test_a_sorted_bank_has_the_same_errors() -> None:
    s = bank(3000)
    mixed, ascending = (Frontier.from_bank(x).at_beta(1.0) for x in (s, s.sort().values))
    assert ascending.nats.value == pytest.approx(mixed.nats.value)
    assert 0.6 < ascending.log_z.se / mixed.log_z.se < 1.6


def test_a_frontier_is_written_as_json() -> None:
    frontier = Frontier.from_ladders([ladder(rng(i)) for i in range(4)], bank(500))
    found = json.loads(json.dumps(frontier.to_json(9), allow_nan=False))
    assert (found["islands"], found["scores"]) == (4, 4 * 7 * 64 + 500)
    points = found["points"]
    nats = [p["nats"]["value"] for p in points]
    assert nats[0] == 0
    assert nats == sorted(nats)
    assert points[-1]["mean"]["value"] == pytest.approx(found["reach"]["mean"])
    low, high = points[3]["nats"]["interval"]
    assert low < nats[3] < high


# --- laws against the frontier --------------------------------------------------------------------------------------


X = np.linspace(-6, 9, 200001)


def kl(q: np.ndarray, p: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(integrate.trapezoid(np.where(q > 0, q * np.log(q / p), 0), X))


def laws() -> dict[str, np.ndarray]:
    """Densities of what other paradigms draw from, on X."""
    p = oracle.pdf(X)
    hard = np.where(X >= 2, p, 0)
    shifted = stats.norm.pdf(X, 2.2, 0.9)
    _, mu, sd = oracle.GMM3
    proxy = stats.norm.pdf(X, mu[2], sd[2])
    top = p * oracle.top_weight(oracle.cdf(X), 100, 5)
    return {name: q / integrate.trapezoid(q, X) for name, q in
            {"hard": hard, "normal": shifted, "proxy": proxy, "top-k": top}.items()}  # fmt: skip


@pytest.mark.parametrize("name", ["hard", "normal", "proxy", "top-k"])
def test_pythagoras(name: str) -> None:
    """What a law spends above the frontier is its distance from the tilt of its own mean."""
    q, p = laws()[name], oracle.pdf(X)
    mean, nats = float(integrate.trapezoid(q * X, X)), kl(q, p)
    beta = oracle.beta_of(mean)
    to_tilt = kl(q, p * np.exp(beta * X - oracle.log_z(beta)))
    frontier = exact()
    assert excess_nats(nats, mean, frontier).value == pytest.approx(to_tilt, abs=1e-6)
    assert to_tilt > 0.01
    assert dv_bound(mean, frontier).value == pytest.approx(nats - to_tilt, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_bound_is_tight_for_tilts(beta: float) -> None:
    assert dv_bound(oracle.mean(beta), exact()).value == pytest.approx(oracle.nats(beta), abs=1e-6)


def test_the_bound_is_the_best_of_all_tangents() -> None:
    betas, frontier = np.linspace(0, 6, 3001), exact()
    log_z = np.array([oracle.log_z(b) for b in betas])
    for mean in (-1.0, 0.3, 2.5, 3.9):
        assert dv_bound(mean, frontier).value == pytest.approx((betas * mean - log_z).max(), abs=1e-5)


def kl_of_a_shift(mean: float) -> float:
    """KL of the cheapest law of that mean, by the closed form."""
    beta = float(optimize.brentq(lambda b: oracle.mean(b) - mean, 0, 1e4))
    return oracle.nats(beta)


def test_a_mean_off_the_scores_still_has_a_bound() -> None:
    """Guidance without a cap left the prior's support at a mean of 145."""
    frontier = Frontier.from_bank(bank(5000))
    with pytest.raises(UserError, match="maximum"):
        frontier.at_mean(145)
    bound = dv_bound(145, frontier)
    assert bound.value == pytest.approx(
        frontier.support_limit.nats + frontier.support_limit.beta * (145 - frontier.support_limit.mean)
    )
    assert frontier.support_limit.nats < bound.value < kl_of_a_shift(145), "a bound, and far from tight"
    assert dv_bound(frontier.support_limit.mean + 1e-9, frontier).value == pytest.approx(
        frontier.support_limit.nats, abs=1e-6
    )


def test_the_error_of_a_methods_mean_enters_with_slope_beta() -> None:
    frontier = Frontier.from_ladders([ladder(rng(i)) for i in range(6)])
    point = frontier.at_mean(3.0)
    found = excess_nats(2.5, 3.0, frontier, nats_se=0.05, mean_se=0.1)
    assert found.value == pytest.approx(2.5 - point.nats.value)
    assert found.se == pytest.approx(math.hypot(0.05, point.nats.se, point.beta.value * 0.1))
    assert dv_bound(3.0, frontier, mean_se=0.1).se == pytest.approx(math.hypot(point.nats.se, point.beta.value * 0.1))
    assert found.interval is not None
    assert found.interval[1] - found.value == pytest.approx(stats.t.ppf(0.975, 5) * found.se, rel=1e-3)


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


@pytest.mark.parametrize("freedom", [3, 4, 7, 31, 1000])
def test_quantiles_of_student(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=4e-3)


# --- many statistics ------------------------------------------------------------------------------------------------


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
