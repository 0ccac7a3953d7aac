"""The frontier and its bounds against closed forms, quadrature and repeated sampling."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from tests.oracles import frontier as oracle
from tests.oracles.ladders import RUNGS, bank, exact, ladder, rng
from torch import Tensor

from entoptic import UserError
from entoptic.base.estimates import Estimate, t_quantile
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.frontier import Frontier, dv_bound, excess_nats
from entoptic.sampling.mbar import Ladder
from entoptic.sampling.tilt import tilt

scores = st.lists(st.floats(-20, 20, allow_nan=False), min_size=40, max_size=120).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@st.composite
def mixtures(draw: st.DrawFn) -> oracle.Mixture:
    k = draw(st.integers(1, 4))
    parts = [draw(st.lists(st.floats(*r), min_size=k, max_size=k)) for r in ((0.1, 1), (-3, 3), (0.3, 1.5))]
    w, mu, sd = (np.array(part) for part in parts)
    return w / w.sum(), mu, sd


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


@pytest.mark.parametrize("freedom", [3, 4, 7, 31, 1000])
def test_quantiles_of_student(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=4e-3)
