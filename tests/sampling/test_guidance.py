"""Guided chains against exact means, closed-form path divergences and the unguided sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from tests.oracles import tilts
from tests.oracles.tilts import GMM3
from torch import Tensor

from entoptic import UserError
from entoptic.priors.prior import (
    Kernel,
    Level,
    Prior,
    Score,
    ancestral,
    deterministic,
    draw_conditions,
    generate,
    noise_like,
)
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.guidance import Chains, StepRule, ancestral_at_rest, energy_dps, guided_chains

SDS = (2, 1, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)


class Flow(GaussianMixture):
    """The mixture with the levels of flow matching."""

    def levels(self, steps: int) -> list[Level]:
        times = [0.999 * (1 - i / steps) for i in range(steps)]
        return [*(Level(t, 1 - t, t) for t in times), Level(0.0, 1.0, 0.0)]


class Pixels(GaussianMixture):
    """Each of n pixels an independent draw from GMM3: many one-dimensional chains for the price of one."""

    def __init__(self, n: int) -> None:
        super().__init__(*gmm3_parts(), linear_schedule=True)
        self.shape = (1, 1, n)

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        return super().denoise(x.reshape(-1, 1, 1, 1), level).reshape(x.shape)


class Conditioned(GaussianMixture):
    """Two conditions, which move the mean of the pictures up and down."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(1)
        super().__init__(torch.ones(3), torch.rand((3, 3, 4, 4), generator=g) / 2, torch.full((3, 3, 4, 4), 0.1))
        self.conditions = 2

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        assert bool(x.isfinite().all()), "networks never see what a lost chain became"
        move = (condition.to(x) - 0.5)[:, None, None, None]
        return super().denoise(x - level.alpha * move, level) + move


def gmm3_parts() -> tuple[Tensor, Tensor, Tensor]:
    w, mu, sd = (torch.from_numpy(part) for part in GMM3)
    return w, mu.reshape(3, 1, 1, 1), sd.square().reshape(3, 1, 1, 1)


def gaussian(kind: type[GaussianMixture] = GaussianMixture, sds: tuple[float, ...] = SDS) -> GaussianMixture:
    """Independent directions of these sd around 0."""
    v = torch.tensor(sds, dtype=torch.float64).square().reshape(1, 1, 1, -1)
    return kind(torch.ones(1), torch.zeros_like(v), v, linear_schedule=True)


def total(pictures: Tensor, groups: Tensor) -> Tensor:
    return pictures.double().flatten(1).sum(1)


def curved(pictures: Tensor, groups: Tensor) -> Tensor:
    """A score without symmetry, another one for each group."""
    flat = pictures.flatten(1)
    return (flat * (1 + groups[:, None])).sin().sum(1) + flat.square().mean(1)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def unguided(prior: Prior, draw: list[torch.Generator], steps: int, kernel: StepRule) -> Tensor:
    condition = draw_conditions(prior, draw)
    levels = prior.levels(steps)
    x = noise_like(prior, draw) * levels[0].sigma
    for t, s in pairwise(levels):
        k = kernel(t, s)
        x = k.from_x * x + k.from_x0 * prior.denoise(x, t, condition)
        if k.sd > 0:
            x = x + k.sd * noise_like(prior, draw)
    return x


def mean_shift(prior: GaussianMixture, run: Callable[[Score, float], Chains]) -> Tensor:
    """How far a guide of strength 1 with the score Σ x_i/sd_i moves the mean, over sd_i·1: the β it implies.

    With a Gaussian prior and a linear score a chain is linear in its noise, so the guided and the unguided chain of the
    same noise differ by the shift of the mean, without Monte Carlo error.
    """
    a = 1 / prior.variances[0].sqrt()
    score = lambda pictures, groups: (a * pictures.double()).flatten(1).sum(1)  # noqa: E731
    shift = run(score, 1.0).x0 - run(score, 0.0).x0
    return (shift.double() / (a * prior.variances[0])).flatten()


# --- exactness where it is provable -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GaussianMixture, Flow])
@pytest.mark.parametrize("kernel", [ancestral, deterministic])
@pytest.mark.parametrize("steps", [5, 20, 100, 1000])
def test_the_tilt_of_a_gaussian_is_exact_in_the_mean(kind: type[GaussianMixture], kernel: StepRule, steps: int) -> None:
    prior = gaussian(kind)
    implied = mean_shift(prior, lambda s, b: guided_chains(prior, s, b, generators(1), steps=steps, kernel=kernel))
    assert float((implied - 1).abs().max()) < (2e-4 if kernel is ancestral else 1.3e-2)

    # The residual is the shift α_T·β·v that the first state lacks, and nothing else.
    levels = prior.levels(steps)
    pairs = [(level.alpha, level.sigma) for level in levels]
    pushes = [kernel(t, s).push for t, s in pairwise(levels)]
    for v, beta in zip(prior.variances.flatten().tolist(), implied.tolist()):
        as_run, complete = (
            tilts.propagated_shift(v, pairs, pushes, stochastic=kernel is ancestral, first=first) / v
            for first in (0.0, levels[0].alpha * v)
        )
        assert beta == pytest.approx(as_run, abs=2e-5)
        assert complete == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", [GaussianMixture, Flow])
@pytest.mark.parametrize("steps", [5, 100])
def test_a_last_step_at_rest_tilts_the_law_that_it_leaves(kind: type[GaussianMixture], steps: int) -> None:
    prior = gaussian(kind)
    implied = mean_shift(prior, lambda s, b: guided_chains(prior, s, b, generators(1), steps=steps))
    last = prior.levels(steps)[-2]
    signal = last.alpha**2 * prior.variances.flatten()
    assert implied.tolist() == pytest.approx((signal / (signal + last.sigma**2)).tolist(), rel=3e-4)


CONSTANT = (166, 276, 501, 940, 2107, 3627, 6335, 8245)


def test_a_constant_step_is_no_tilt() -> None:
    """Negative control: the published rule implies another β in each direction, and another at another step count."""
    prior = gaussian()
    run = lambda steps: mean_shift(  # noqa: E731
        prior, lambda s, b: energy_dps(prior, s, math.inf, generators(1), scale=b, steps=steps)
    )
    assert run(1000).tolist() == pytest.approx(CONSTANT, abs=0.6)
    assert float(run(100)[1]) == pytest.approx(28.2, abs=0.1)


def model_variance(t: Level, s: Level) -> Kernel:
    """The ancestral step of the prior N(0, 1) with the variance that x_s really has given x_t."""
    left = t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2
    total_s, total_t = s.alpha**2 + s.sigma**2, t.alpha**2 + t.sigma**2
    return ancestral(t, s)._replace(sd=(left * total_s / total_t) ** 0.5)


def constant_push(t: Level, s: Level) -> Kernel:
    return model_variance(t, s)._replace(push=1.0)


def constant_push_at_rest(t: Level, s: Level) -> Kernel:
    return ancestral(t, s)._replace(push=1.0 if s.sigma else 0.0)


@pytest.mark.parametrize("kind", [GaussianMixture, Flow])
@pytest.mark.parametrize("steps", [5, 20, 100, 1000])
def test_the_exact_guide_strays_as_little_as_the_tilt(kind: type[GaussianMixture], steps: int) -> None:
    """Doob's transform: for N(0, 1) shifted by one sd, path and state divergence are both 1/2."""
    prior = gaussian(kind, (1.0,))
    chains = guided_chains(prior, total, 1.0, generators(1), steps=steps, kernel=model_variance)
    assert float(chains.path_kl) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("kernel", "nats"), [(constant_push, 1.3036), (constant_push_at_rest, 1.4504)])
def test_a_constant_step_strays_further_for_the_same_shift(kernel: StepRule, nats: float) -> None:
    prior = gaussian(sds=(1.0,))
    chains, rest = (guided_chains(prior, total, beta, generators(1), steps=1000, kernel=kernel) for beta in (0.01, 0.0))
    shift = float((chains.x0 - rest.x0).double())
    assert float(chains.path_kl) / shift**2 == pytest.approx(nats, abs=2e-3)
    assert nats > 1.24


def test_path_divergence_is_the_sum_over_noisy_steps() -> None:
    prior, beta = gaussian(sds=(0.3,)), 2.0
    levels = prior.levels(20)
    terms = []
    for t, s in pairwise(levels):
        k = ancestral(t, s)
        slope = t.alpha * 0.09 / (t.alpha**2 * 0.09 + t.sigma**2)
        terms.append((k.push * beta * slope) ** 2 / (2 * k.sd**2) if k.sd else 0.0)
    for kernel, path in [(ancestral_at_rest, sum(terms)), (ancestral, math.inf)]:
        chains = guided_chains(prior, total, beta, generators(3), steps=20, kernel=kernel)
        assert chains.noisy_path_kl.tolist() == pytest.approx([sum(terms)] * 3, rel=1e-5)
        assert chains.path_kl.tolist() == pytest.approx([path] * 3, rel=1e-5)
    quiet = guided_chains(prior, total, torch.tensor([beta, 0.0]), generators(2), steps=20, kernel=deterministic)
    assert math.isnan(quiet.path_kl[0])
    assert quiet.path_kl[1] == 0, "without a guide the paths are the same"


# --- where it is biased -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "mean"), [(0.0, -0.64), (0.5, 1.085), (1.0, 2.592), (2.0, 3.726)])
def test_bias_on_a_mixture(beta: float, mean: float) -> None:
    """Golden numbers of the exact coefficient on GMM3 (bias -.08, +.04, +.28); standard errors are at most .014."""
    n = 20_000
    chains = guided_chains(Pixels(n), total, beta, generators(1), steps=100)
    assert float(chains.scores) / n == pytest.approx(mean, abs=0.045)
    assert float(chains.path_kl) / n >= tilts.linear(tilts.beta_of_mean(mean)).kl - 0.02, (
        "no law of that mean is nearer"
    )
    if beta:
        bias = float(chains.scores) / n - tilts.linear(beta).mean
        assert abs(bias) > 0.01, "else the claim of bias is stale"


def test_energy_dps_overshoots_its_cap_and_narrows() -> None:
    n = 250
    prior = GaussianMixture(*gmm3_parts(), linear_schedule=True)
    caps = torch.tensor([2.0, 3.0, 4.0])
    chains = energy_dps(prior, total, caps.repeat_interleave(n), generators(3 * n))
    by_cap = chains.scores.reshape(3, n)
    error = by_cap.std(1) / n**0.5
    for mean, golden, se in zip(by_cap.mean(1).tolist(), (3.359, 3.647, 4.573), error.tolist()):
        assert mean == pytest.approx(golden, abs=4 * se + 0.005)
    assert float(by_cap[1].std()) == pytest.approx(0.33, abs=0.05)
    assert bool(torch.isfinite(chains.noisy_path_kl).all())
    assert chains.calls == {"denoise": 1000, "denoise_gradients": 1000, "score": 1001}


def test_energy_dps_pushes_the_last_step_and_clamps_first() -> None:
    prior = Conditioned()
    free, capped = (energy_dps(prior, total, cap, generators(4), steps=8) for cap in (math.inf, -1e6))
    assert free.path_kl.tolist() == [math.inf] * 4
    assert capped.path_kl.tolist() == [0.0] * 4, "every score is above the cap, so nothing is pushed"
    assert torch.equal(capped.x0, unguided(prior, generators(4), 8, ancestral))

    outside = GaussianMixture(torch.ones(1), torch.full((1, 1, 1, 1), 0.9), torch.full((1, 1, 1, 1), 0.04))
    outside.bounds = (-1.0, 1.0)
    ends = energy_dps(outside, total, math.inf, generators(50), scale=0.0, steps=50).x0
    assert float(ends.max()) <= 1, "the last x0hat is clamped"


# --- invariances -----------------------------------------------------------------------------------------------------

KERNELS = [ancestral_at_rest, ancestral, deterministic]


@pytest.mark.parametrize("kernel", KERNELS)
def test_scale_and_offset_of_the_score_trade_against_beta(kernel: StepRule) -> None:
    prior = Conditioned()
    run = lambda s, beta: guided_chains(prior, s, beta, generators(4), steps=12, kernel=kernel)  # noqa: E731
    one, other = run(curved, 1.4), run(lambda pictures, groups: 2 * curved(pictures, groups) + 3, 0.7)
    assert torch.equal(one.x0, other.x0)
    assert one.path_kl.tolist() == pytest.approx(other.path_kl.tolist(), nan_ok=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_is_its_chains(kernel: StepRule) -> None:
    prior, betas, groups = Conditioned(), torch.tensor([0.5, 0.0, 3.0, 1.0]), torch.tensor([0, 1, 1, 2])
    many = guided_chains(prior, curved, betas, generators(4), steps=12, kernel=kernel, groups=groups)
    assert many.condition is not None
    assert len(set(many.condition.tolist())) == 2, "else the test shows nothing of conditions"
    for i in range(4):
        one = guided_chains(
            prior, curved, float(betas[i]), generators(4)[i : i + 1], steps=12, kernel=kernel, groups=groups[i : i + 1]
        )
        assert one.condition is not None
        assert one.condition.tolist() == many.condition[i : i + 1].tolist()
        assert torch.allclose(one.x0[0], many.x0[i], atol=1e-5)
        assert float(one.scores) == pytest.approx(float(many.scores[i]), abs=1e-5)
        assert float(one.path_kl) == pytest.approx(float(many.path_kl[i]), rel=1e-4, nan_ok=True)


def test_a_batch_of_energy_dps_is_its_chains() -> None:
    prior, caps = Conditioned(), torch.tensor([1.0, math.inf, 4.0])
    many = energy_dps(prior, curved, caps, generators(3), steps=12)
    for i in range(3):
        one = energy_dps(prior, curved, float(caps[i]), generators(3)[i : i + 1], steps=12)
        assert torch.allclose(one.x0[0], many.x0[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_score_guides_nothing(kernel: StepRule) -> None:
    prior = Conditioned()
    flat = lambda pictures, groups: 5 + 0 * pictures.flatten(1).sum(1)  # noqa: E731
    chains = guided_chains(prior, flat, 100.0, generators(3), steps=12, kernel=kernel)
    assert torch.equal(chains.x0, unguided(prior, generators(3), 12, kernel))
    assert chains.scores.tolist() == [5.0] * 3
    assert chains.path_kl.tolist() == [0.0] * 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_beta_the_bits_are_the_unguided_samplers(kernel: StepRule) -> None:
    prior, seen = Conditioned(), []

    def watched(pictures: Tensor, groups: Tensor) -> Tensor:
        seen.append(pictures.requires_grad)
        return curved(pictures, groups)

    chains = guided_chains(prior, watched, 0.0, generators(3), steps=12, kernel=kernel)
    assert torch.equal(chains.x0, unguided(prior, generators(3), 12, kernel))
    assert seen == [False], "one look at the final pictures, without a gradient"
    assert chains.calls == {"denoise": 12, "denoise_gradients": 0, "score": 1}
    assert chains.path_kl.tolist() == [0.0] * 3
    mixed = guided_chains(prior, curved, torch.tensor([0.0, 2.0, 0.0]), generators(3), steps=12, kernel=kernel)
    assert torch.equal(mixed.x0[[0, 2]], chains.x0[[0, 2]])
    assert not torch.equal(mixed.x0[1], chains.x0[1])


def test_the_few_step_generator_is_of_second_order() -> None:
    """Against the exact flow of a Gaussian prior, where the deterministic chain is of first order."""
    variance = torch.tensor([0.04, 0.5, 2.0]).reshape(1, 3, 1, 1)
    prior = GaussianMixture(torch.ones(1), torch.full((1, 3, 1, 1), 0.7), variance)
    draw = generators(64)
    noise = noise_like(prior, draw).double()
    start = prior.levels(8)[0]
    var_T = start.alpha**2 * variance + start.sigma**2
    exact = 0.7 + (variance / var_T).sqrt() * (noise * start.sigma - start.alpha * 0.7)

    def error(x0: Tensor) -> float:
        return float((x0 - exact).square().mean().sqrt())

    second = [error(generate(prior, noise, steps=n)) for n in (8, 16, 32)]
    first = error(
        guided_chains(
            prior, lambda pictures, _: pictures.sum((1, 2, 3)), 0.0, generators(64), steps=8, kernel=deterministic
        ).x0
    )
    assert second[0] < 0.5 * first
    assert second[0] / second[1] > 2.5
    assert second[1] / second[2] > 2.5


def test_calls_and_progress() -> None:
    prior, told = Conditioned(), []
    tell = lambda done, of: told.append((done, of))  # noqa: E731
    rest = guided_chains(prior, curved, 1.0, generators(2), steps=12, on_step=tell)
    assert rest.calls == {"denoise": 12, "denoise_gradients": 11, "score": 12}
    assert told == [(i, 12) for i in range(1, 13)]
    assert not rest.x0.requires_grad
    assert rest.scores.dtype == rest.path_kl.dtype == torch.float64


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("late", [False, True])
def test_a_lost_chain_leaves_its_mates_alone(bad: float, late: bool) -> None:
    """Group 1 has a score that is not finite: all along, or only of final pictures."""
    prior, groups = Conditioned(), torch.tensor([0, 1, 0])

    def broken(pictures: Tensor, groups: Tensor) -> Tensor:
        wrong = (groups == 1) & (not late or not pictures.requires_grad)
        return curved(pictures, 0 * groups) * torch.where(wrong, bad, 1.0)

    chains = guided_chains(prior, broken, 1.0, generators(3), steps=12, groups=groups)
    sound = guided_chains(prior, curved, 1.0, generators(3), steps=12)
    assert chains.alive.tolist() == [True, False, True]
    assert sound.alive.tolist() == [True] * 3
    assert torch.equal(chains.x0[[0, 2]], sound.x0[[0, 2]])
    assert bool(chains.x0[1].isnan().all())
    assert chains.scores.isnan().tolist() == chains.path_kl.isnan().tolist() == [False, True, False]


def test_a_chain_without_beta_does_not_mind_scores_on_the_way() -> None:
    """Alone it would not look at them either."""
    bad_under_way = lambda pictures, groups: curved(pictures, groups) / float(not pictures.requires_grad or "nan")  # noqa: E731
    chains = guided_chains(Conditioned(), bad_under_way, torch.tensor([0.0, 1.0]), generators(2), steps=12)
    assert chains.alive.tolist() == [True, False]
    assert torch.equal(chains.x0[0], unguided(Conditioned(), generators(2), 12, ancestral)[0])


def test_a_chain_that_flies_off_is_lost() -> None:
    """An uncapped quadratic score of a wide Gaussian has no tilt beyond β = 1/v, and the chain overflows."""
    prior = gaussian(sds=(2.0,))
    square = lambda pictures, groups: pictures.flatten(1).square().sum(1)  # noqa: E731
    chains = guided_chains(prior, square, torch.tensor([0.01, 1e6]), generators(2), steps=50)
    assert chains.alive.tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, g: guided_chains(p, curved, -1.0, g), "at least 0, got -1, -1; guide by minus the score"),
        (lambda p, g: guided_chains(p, curved, math.inf, g), "finite"),
        (lambda p, g: guided_chains(p, curved, torch.ones(3), g), r"each of the 2 chains; got \(3,\)"),
        (lambda p, g: guided_chains(p, curved, 1.0, []), "at least one generator"),
        (lambda p, g: guided_chains(p, curved, 1.0, g, groups=torch.zeros(3)), "each of the 2 chains"),
        (lambda p, g: guided_chains(p, lambda x, _: curved(x, _)[:, None], 1.0, g), r"\(2,\); it gave \(2, 1\)"),
        (lambda p, g: guided_chains(p, lambda x, _: curved(x, _).detach(), 1.0, g), "no gradient"),
        (lambda p, g: energy_dps(p, curved, math.nan, g), "cap must be a number"),
        (lambda p, g: energy_dps(p, curved, 1.0, g, scale=-1.0), "at least 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(call: Callable[..., Chains], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(Conditioned(), generators(2))
