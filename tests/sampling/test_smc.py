"""Noise-space SMC against plain samples of the same generator and closed forms; promises of all samplers."""

from __future__ import annotations

import math

import pytest
import torch
from tests.oracles.smc import ancestral_chain, generator_scores, reweighted
from tests.oracles.tempering import parallel_tempering
from tests.oracles.toys import BIG, Conditional, column_of, conditional, gmm3, gmm8, seeded, total
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Level, draw_conditions, generate, noise_like
from entoptic.sampling.particles import TiltTarget
from entoptic.sampling.smc import ScoredSamples, noise_smc
from entoptic.sampling.tilt import beta_for_kl, beta_for_mean
from entoptic.sampling.twisted_smc import twisted_smc


def test_noise_smc_agrees_with_importance_sampling_of_the_generator() -> None:
    """200 seeds in 8 dimensions; the adaptive ladder's bias of order 1/N is below 4 standard errors."""
    prior, beta, steps = gmm8(), 1.0, 4
    s = generator_scores(prior, total, steps, 400_000, torch.Generator().manual_seed(3))
    log_z, log_z_se, mean, mean_se = reweighted(s, beta)
    particle_sets = noise_smc(prior, total, TiltTarget(beta=beta), seeded(200), particles=64, steps=steps, batch=BIG)
    ratio = (column_of(particle_sets, "log_z") - log_z).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * math.hypot(float(ratio.std()) / 200**0.5, log_z_se))
    assert float(ratio.std()) < 1
    assert float(ratio.mean().log()) >= float(ratio.log().mean())
    means = column_of(particle_sets, "mean")
    assert float(means.mean()) == pytest.approx(mean, abs=4 * math.hypot(float(means.std()) / 200**0.5, mean_se) + 0.02)
    assert all(c.reached and c.beta == beta for c in particle_sets)
    acceptance = torch.tensor([r.acceptance for c in particle_sets for r in c.rungs[2:]])
    assert 0.15 < float(acceptance.mean()) < 0.7
    for r in particle_sets[0].rungs[1:-1]:
        assert r.ess == pytest.approx(0.7 * 64, abs=1e-6)  # bisection is exact


def test_particles_are_what_their_scores_say() -> None:
    prior = gmm8()
    [particle_set] = noise_smc(prior, total, TiltTarget(beta=1.0), seeded(1), particles=32, steps=3)
    x0 = generate(prior, particle_set.states, steps=3)
    torch.testing.assert_close(total(prior.decode(x0), x0).double(), particle_set.scores, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(particle_set.pictures(prior, torch.tensor([4, 0])), prior.decode(x0[[4, 0]]))
    [clean] = twisted_smc(prior, total, 1.0, seeded(1), particles=8, steps=10)
    torch.testing.assert_close(clean.pictures(prior, torch.tensor([3])), prior.decode(clean.states[3:4]))


@pytest.mark.parametrize("sampler", ["smc", "tempering"])
def test_the_condition_follows_its_closed_form(sampler: str) -> None:
    """At one step the map is z -> mean of condition c, so each law is a point and p(c) ∝ exp(β μ_c)."""

    class Affine(Conditional):
        def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
            assert condition is not None
            means, sds = torch.tensor([-1.0, 0.2, 1.0]), torch.tensor([0.9, 0.5, 0.3])
            return means[condition][:, None, None, None] + sds[condition][:, None, None, None] * x

    prior, beta = Affine(conditional().laws), 1.5
    sigma = prior.levels(1)[0].sigma
    means = torch.tensor([-1.0, 0.2, 1.0], dtype=torch.float64)
    var = (sigma * torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)) ** 2
    log_w = beta * means + beta**2 * var / 2
    expected, log_z = log_w.softmax(0), float(log_w.logsumexp(0)) - math.log(3)
    if sampler == "smc":
        particle_sets = noise_smc(prior, total, TiltTarget(beta=beta), seeded(60), particles=64, steps=1, batch=BIG)
        found = torch.stack([c.condition.bincount(minlength=3) / 64 for c in particle_sets]).double()
        z = column_of(particle_sets, "log_z").exp()
        assert float(z.mean()) == pytest.approx(math.exp(log_z), abs=4 * float(z.std()) / 60**0.5)
        low = found
    else:
        runs = parallel_tempering(
            prior, total, [0.0, 0.7, beta], seeded(60), chains=8, sweeps=40, burn=20, steps=1, batch=BIG
        )
        low = torch.stack([r.condition[0].bincount(minlength=3) / 8 for r in runs]).double()
        assert float((low.mean(0) - 1 / 3).abs().max()) < 4 * 0.5 / 480**0.5
        found = torch.stack([r.condition[2].bincount(minlength=3) / 8 for r in runs]).double()
    assert bool(((found.mean(0) - expected).abs() < 4 * found.std(0) / 60**0.5).all())


def test_targets_by_mean_and_by_nats() -> None:
    prior, steps = gmm3(), 8
    s = generator_scores(prior, total, steps, 400_000, torch.Generator().manual_seed(4))
    by_mean = noise_smc(prior, total, TiltTarget(mean=2.0), seeded(60), particles=128, steps=steps, batch=BIG)
    assert float(column_of(by_mean, "beta").mean()) == pytest.approx(beta_for_mean(s, 2.0), rel=0.05)
    assert float(column_of(by_mean, "mean").mean()) == pytest.approx(2.0, abs=0.08)
    by_nats = noise_smc(prior, total, TiltTarget(nats=2.0), seeded(60, 1), particles=128, steps=steps, batch=BIG)
    assert float(column_of(by_nats, "beta").mean()) == pytest.approx(beta_for_kl(s, 2.0), rel=0.08)
    assert float(column_of(by_nats, "kl").mean()) == pytest.approx(2.0, abs=0.1)
    assert all(c.reached for c in by_mean + by_nats)
    for target in (TiltTarget(mean=-4.0), TiltTarget(nats=0.0), TiltTarget(beta=0.0)):  # the prior does already
        [particle_set] = noise_smc(prior, total, target, seeded(1), particles=16, steps=steps)
        assert (
            particle_set.reached,
            particle_set.beta,
            particle_set.kl,
            particle_set.log_z,
            particle_set.score_calls,
        ) == (True, 0, 0, 0, 16)


def test_a_target_out_of_reach_says_how_far_the_run_came() -> None:
    def capped(pictures: Tensor, group: Tensor) -> Tensor:
        return total(pictures, group).clamp(max=1.0)

    [particle_set] = noise_smc(gmm3(), capped, TiltTarget(mean=1.5), seeded(1), particles=64)
    assert not particle_set.reached
    assert "same highest score of 1" in particle_set.note
    assert f"a mean of {particle_set.mean:.4g} at {particle_set.kl:.4g} nats" in particle_set.note
    assert 0.7 < particle_set.mean <= 1
    assert bool(particle_set.states.isfinite().all())
    [particle_set] = noise_smc(gmm3(), total, TiltTarget(mean=60.0), seeded(1), particles=16, max_rungs=3)
    assert "not reached in 3 rungs" in particle_set.note
    assert len(particle_set.rungs) == 4
    assert particle_set.kl > 0.5
    [particle_set] = noise_smc(
        gmm3(), lambda p, g: torch.full((len(p),), 2.0), TiltTarget(nats=1.0), seeded(1), particles=16
    )
    assert "16 of 16 particles have the same highest score of 2" in particle_set.note
    assert particle_set.beta == 0


def test_a_bank_saves_the_first_generation() -> None:
    prior, steps, beta, g = gmm3(), 6, 1.0, torch.Generator().manual_seed(6)
    z = torch.randn((4000, 1, 1, 1), generator=g)
    s = total(generate(prior, z, steps=steps), z).double()
    log_z, _, mean, _ = reweighted(
        generator_scores(prior, total, steps, 400_000, torch.Generator().manual_seed(7)), beta
    )
    counted = Conditional([prior])
    counted.denoised = 0
    bank = [ScoredSamples(z, None, s)] * 20
    particle_sets = noise_smc(
        counted, total, TiltTarget(beta=beta), seeded(20), particles=64, steps=steps, moves=2, first=bank, batch=BIG
    )
    assert counted.denoised == sum(c.denoise_calls for c in particle_sets) == 20 * steps * 64 * 2  # one rung
    assert all(len(c.rungs) == 2 and len(c.rungs[0].scores) == 4000 for c in particle_sets)
    # All start from one bank, so they share its error.
    assert particle_sets[0].log_z == pytest.approx(log_z, abs=4 * reweighted(s, beta)[1])
    assert float(column_of(particle_sets, "mean").mean()) == pytest.approx(mean, abs=0.15)
    assert min(c.distinct_ancestors for c in particle_sets) > 50
    deep = noise_smc(
        counted, total, TiltTarget(beta=12.0), seeded(1), particles=64, steps=steps, first=[ScoredSamples(z, None, s)]
    )
    assert deep[0].rungs[1].ess == pytest.approx(256)  # four for each particle
    [plain] = noise_smc(
        counted, total, TiltTarget(beta=0.0), seeded(1), particles=64, steps=steps, first=[ScoredSamples(z, None, s)]
    )
    assert len(plain.states) == 64
    assert plain.score_calls == 0
    with pytest.raises(UserError, match="at least 64"):
        noise_smc(prior, total, TiltTarget(beta=1.0), seeded(1), first=[ScoredSamples(z[:10], None, s[:10])])


def test_groups_do_not_depend_on_each_other() -> None:
    """Alone, in any order, and beside runs that finish sooner; also in small batches."""

    def own(pictures: Tensor, group: Tensor) -> Tensor:
        return total(pictures, group) * torch.tensor([1.0, 0.3, 2.0])[group]

    prior = conditional()
    together = noise_smc(prior, own, TiltTarget(nats=0.8), seeded(3), particles=16, steps=3)
    assert len({len(c.rungs) for c in together}) > 1  # they finish at different rungs
    for i, scale in enumerate((1.0, 0.3, 2.0)):
        alone = noise_smc(
            prior,
            lambda p, g, a=scale: a * total(p, g),
            TiltTarget(nats=0.8),
            seeded(3)[i : i + 1],
            particles=16,
            steps=3,
            batch=5,
        )[0]
        torch.testing.assert_close(alone.states, together[i].states)
        assert alone.log_z == pytest.approx(together[i].log_z)
        assert alone.condition.tolist() == together[i].condition.tolist()
    swapped = [seeded(3)[i] for i in (2, 0, 1)]
    for a, b in zip(twisted_smc(prior, total, 1.0, seeded(3), particles=8, steps=9), [1, 2, 0]):
        c = twisted_smc(prior, total, 1.0, [swapped[b]], particles=8, steps=9, batch=3)[0]
        torch.testing.assert_close(a.states, c.states)
        torch.testing.assert_close(a.log_weights, c.log_weights)


def test_a_score_that_says_nothing_changes_nothing() -> None:
    def constant(pictures: Tensor, group: Tensor) -> Tensor:
        return torch.full((len(pictures),), 0.75, dtype=torch.float64)

    prior = gmm8()
    for particle_set in (
        noise_smc(prior, constant, TiltTarget(beta=3.0), seeded(1), particles=24, steps=2)[0],
        twisted_smc(prior, constant, 3.0, seeded(1), particles=24, steps=7)[0],
    ):
        assert particle_set.log_z == pytest.approx(2.25, abs=1e-12)
        assert particle_set.ess == pytest.approx(24)
        assert particle_set.least_ess == pytest.approx(24)
        assert particle_set.distinct_ancestors == 24
        assert particle_set.kl == pytest.approx(0, abs=1e-12)
    plain, _ = ancestral_chain(prior, 7, seeded(1) * 24)
    assert torch.equal(particle_set.states, plain)


def test_no_tilt_gives_the_plain_samplers_bits() -> None:
    prior = conditional()
    [particle_set] = noise_smc(prior, total, TiltTarget(beta=0.0), seeded(1), particles=9, steps=3)
    rows = seeded(1) * 9
    assert torch.equal(particle_set.states, noise_like(prior, rows))
    assert torch.equal(particle_set.condition, draw_conditions(prior, rows))
    particle_sets = twisted_smc(prior, total, 0.0, seeded(2), particles=9, steps=11)
    for particle_set, g in zip(particle_sets, seeded(2)):
        x, condition = ancestral_chain(prior, 11, [g] * 9)
        assert torch.equal(particle_set.states, x)
        assert torch.equal(particle_set.condition, condition)
        assert particle_set.log_z == 0


def test_calls_are_counted() -> None:
    prior, scored = conditional(), 0

    def counting(pictures: Tensor, group: Tensor) -> Tensor:
        nonlocal scored
        scored += len(pictures)
        return total(pictures, group) * (1 + group)

    particle_sets = noise_smc(prior, counting, TiltTarget(nats=1.0), seeded(2), particles=20, steps=5, moves=3)
    for c in particle_sets:
        least = 20 * (1 + 3 * (len(c.rungs) - 1))  # and about a quarter of the moves more: other conditions
        assert least < c.score_calls < 1.4 * least
        assert c.denoise_calls == 5 * c.score_calls
    assert scored == sum(c.score_calls for c in particle_sets)
    assert prior.denoised == sum(c.denoise_calls for c in particle_sets)
    prior.denoised = scored = 0
    particle_sets = noise_smc(prior, counting, TiltTarget(nats=1.0), seeded(2), particles=10, steps=2, moves=2, leaps=3)
    for c in particle_sets:
        least = 10 * (1 + 2 * 4 * (len(c.rungs) - 1))
        assert 0.5 * least < c.score_calls < 1.2 * least
    assert scored == sum(c.score_calls for c in particle_sets)
    assert prior.denoised == sum(c.denoise_calls for c in particle_sets)
    prior.denoised = scored = 0
    particle_sets = twisted_smc(prior, counting, 1.0, seeded(2), particles=8, steps=13)
    assert [c.denoise_calls for c in particle_sets] == [c.score_calls for c in particle_sets] == [8 * 13] * 2
    assert prior.denoised == scored == 2 * 8 * 13
    prior.denoised = scored = 0
    runs = parallel_tempering(prior, counting, [0, 1, 2], seeded(2), chains=2, sweeps=7, burn=4, steps=3)
    assert all(3 * 2 * (1 + 7 + 4) < r.score_calls < 1.4 * 72 for r in runs)
    assert scored == sum(r.score_calls for r in runs)
    assert prior.denoised == sum(r.denoise_calls for r in runs) == 3 * scored


def test_scores_that_are_not_finite_have_no_weight() -> None:
    """They restrict the law to where the score is finite: Z = E[1(finite) exp(β s)]."""

    def broken(pictures: Tensor, group: Tensor) -> Tensor:
        s = total(pictures, group)
        return torch.where(s < -3.0, math.nan, torch.where(s > 3.5, math.inf, s))

    prior, beta, steps = gmm3(), 0.7, 8
    s = generator_scores(prior, total, steps, 400_000, torch.Generator().manual_seed(8))
    inside = (s >= -3.0) & (s <= 3.5)
    log_z, se, *_ = reweighted(s[inside], beta)
    log_z += math.log(float(inside.double().mean()))
    particle_sets = noise_smc(prior, broken, TiltTarget(beta=beta), seeded(100), particles=64, steps=steps, batch=BIG)
    z = (column_of(particle_sets, "log_z") - log_z).exp()
    assert float(z.mean()) == pytest.approx(1, abs=4 * math.hypot(float(z.std()) / 10, se) + 0.002)
    assert min(c.nonfinite for c in particle_sets) > 0
    assert all(float(c.scores.min()) >= -3.0 and float(c.scores.max()) <= 3.5 for c in particle_sets)
    for c in twisted_smc(prior, broken, beta, seeded(5), particles=32, steps=20):
        assert bool((c.log_weights[~c.scores.isfinite()] == -math.inf).all())
        assert float(c.log_weights.exp().sum()) == pytest.approx(1)
        assert bool(c.states.isfinite().all())
    runs = parallel_tempering(prior, broken, [0.0, beta], seeded(4), chains=8, sweeps=60, burn=10, steps=4, batch=BIG)
    assert all(bool(r.scores.isfinite().all()) for r in runs)


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_too_many_scores_that_are_not_finite_end_the_run(share: float) -> None:
    def broken(pictures: Tensor, group: Tensor) -> Tensor:
        s = total(pictures, group)
        return torch.where((group == 0) & (torch.arange(len(s)) % 16 < 16 * share), math.nan, s)

    for bad, good in (
        noise_smc(gmm3(), broken, TiltTarget(beta=1.0), seeded(2), particles=16, steps=2),
        twisted_smc(gmm3(), broken, 1.0, seeded(2), particles=16, steps=6),
    ):
        assert not bad.reached
        assert "not finite" in bad.note
        assert bad.score_calls == 16
        assert good.reached
        assert good.score_calls > 16
        if share == 1:
            assert bad.refusal
            assert bad.ess == 0
            assert not len(bad.draw(3, torch.Generator()))


def test_tempering_agrees_with_importance_sampling_at_every_rung() -> None:
    prior, steps, betas = gmm3(), 5, [0.0, 0.4, 0.9, 2.0]
    s = generator_scores(prior, total, steps, 400_000, torch.Generator().manual_seed(10))
    runs = parallel_tempering(prior, total, betas, seeded(30), chains=6, sweeps=150, burn=30, steps=steps, batch=BIG)
    means = torch.stack([r.scores.mean(1) for r in runs])  # independent groups give the error bar
    assert means.shape == (30, 4)
    for k, beta in enumerate(betas):
        _, _, mean, se = reweighted(s, beta)
        assert float(means[:, k].mean()) == pytest.approx(
            mean, abs=4 * math.hypot(float(means[:, k].std()) / 30**0.5, se)
        )
    assert float(torch.stack([r.swaps for r in runs]).mean(0).min()) > 0.3
    assert float(runs[0].acceptance[0]) == 1
    assert float(torch.stack([r.acceptance for r in runs]).mean(0)[1:].min()) > 0.2
    assert runs[0].scores.shape == (4, 150 * 6)
    assert runs[0].states.shape == (4, 6, 1, 1, 1)
    torch.testing.assert_close(
        total(generate(prior, runs[0].states[3], steps=steps), s).double(), runs[0].scores[3, -6:], atol=1e-5, rtol=1e-5
    )


def test_bad_arguments_are_named() -> None:
    prior = gmm3()
    with pytest.raises(UserError, match="got none of them"):
        TiltTarget()
    with pytest.raises(UserError, match="got beta, nats"):
        TiltTarget(beta=1.0, nats=2.0)
    with pytest.raises(UserError, match="at least 0, got -1"):
        TiltTarget(nats=-1.0)
    with pytest.raises(UserError, match="between 0 and 1"):
        noise_smc(prior, total, TiltTarget(beta=1.0), seeded(1), ess=1.0)
    with pytest.raises(UserError, match="finite β"):
        twisted_smc(prior, total, -1.0, seeded(1))
    with pytest.raises(UserError, match="ascending"):
        parallel_tempering(prior, total, [1.0, 0.0], seeded(1))
    for sampler in (
        lambda s: noise_smc(prior, s, TiltTarget(beta=1.0), seeded(1)),
        lambda s: twisted_smc(prior, s, 1.0, seeded(1)),
    ):
        with pytest.raises(UserError, match="one number per picture"):
            sampler(lambda p, g: p.sum())


def test_score_autocorrelation_falls_as_particles_move() -> None:
    """Few moves at a strong tilt leave the scores where they were; many do not; a plain start has none to tell."""
    prior = gmm3()
    found = {}
    for moves in (1, 60):
        particle_sets = noise_smc(
            prior, total, TiltTarget(beta=3.0), seeded(40), particles=64, steps=6, moves=moves, batch=BIG
        )
        assert all(math.isnan(c.rungs[0].score_autocorrelation) for c in particle_sets)
        found[moves] = sum(c.rungs[-1].score_autocorrelation for c in particle_sets) / len(particle_sets)
    assert found[1] > 0.6
    assert found[60] < 0.25


def test_a_rung_is_moved_until_it_has_settled() -> None:
    prior, target = gmm8(), TiltTarget(beta=3.0)
    found = {
        settle: noise_smc(prior, total, target, seeded(20), particles=32, steps=4, moves=1, settle=settle, batch=BIG)
        for settle in (0, 6)
    }
    worst = {
        k: [max(r.score_autocorrelation for r in c.rungs[1:]) for c in particle_sets]
        for k, particle_sets in found.items()
    }
    assert sum(worst[6]) < sum(worst[0]) - 20 * 0.1
    for settled in found[6]:
        assert settled.score_calls <= 32 + 7 * 32 * (len(settled.rungs) - 1)
