"""Chains that are switched: the same as guided chains at both ends, closed forms on Gaussians, curves and crossings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.commitment_curve import Crossing, curve_of, isotonic, window_of
from entoptic.sampling.guidance import ancestral_at_rest, guided_chains, inside
from entoptic.sampling.switched_chains import Side, Switched, switch_places


def gaussian(mean: float, sd: float, pixels: int = 1) -> GaussianMixture:
    """N(mean, sd²) as a prior of independent pixels."""
    whole = torch.full((1, 3, 1, pixels), mean)
    return GaussianMixture(torch.ones(1), whole, torch.full_like(whole, sd**2))


def total(pictures: Tensor, group: Tensor) -> Tensor:
    """Its gradient is 1 at each pixel, so that the pixels of one picture are chains of their own."""
    return pictures.flatten(1).sum(1).double()


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(10_000 * seed + i) for i in range(count)]


def normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / 2**0.5))


def test_both_ends_are_the_chains_of_the_guided_sampler() -> None:
    prior = gaussian(0.2, 0.7)
    chains = Switched(prior=prior, score=total, beta=1.5, steps=12)
    for side, k, beta in ((Side.ON, 0, 1.5), (Side.ON, 12, 0.0), (Side.OFF, 0, 0.0), (Side.OFF, 12, 1.5)):
        states = chains.trunk(generators(4), side, [k])[k]
        own = chains.finish(generators(4), side, k, states)
        guided = guided_chains(prior, total, beta, generators(4), steps=12, kernel=ancestral_at_rest)
        assert torch.equal(own, guided.x0), (side, k)


def test_a_switch_continues_the_trunk_with_its_own_noise() -> None:
    prior = gaussian(0.2, 0.7)
    chains = Switched(prior=prior, score=total, beta=0.0, steps=9)
    held = chains.trunk(generators(3), Side.ON, [4, 9])
    assert torch.equal(chains.finish(generators(3), Side.ON, 4, held[4]), held[9])
    alone = Switched(prior=prior, score=total, beta=2.0, steps=9)
    together = alone.finish(generators(3), Side.ON, 4, held[4])
    one = alone.finish(generators(3)[1:2], Side.ON, 4, held[4][1:2])
    assert torch.allclose(one, together[1:2], atol=1e-12)


def test_a_window_of_the_whole_chain_is_the_guided_chain() -> None:
    prior = gaussian(0.2, 0.7)
    chains = Switched(prior=prior, score=total, beta=1.5, steps=12)
    ends = chains.trunk(generators(2), Side.OFF, [12])[12]
    assert torch.equal(chains.within(generators(2), (0.0, 1.0)), ends)
    free = chains.trunk(generators(2), Side.ON, [12])[12]
    assert torch.equal(chains.within(generators(2), (0.5, 0.5)), free)
    part = chains.within(generators(2), (0.25, 0.75))
    assert not torch.equal(part, ends)
    assert not torch.equal(part, free)
    assert [inside((0.25, 0.75), k, 4) for k in range(4)] == [False, True, True, False]


CASES = [(0.8, 1.0), (1.0, 1.0), (0.8, 1.5), (0.6, 0.6)]


@pytest.mark.parametrize(("sd", "mean"), CASES)
@pytest.mark.parametrize("sampler", ["deterministic", "ancestral"])
def test_success_has_the_closed_form_on_gaussians(sampler: str, sd: float, mean: float) -> None:
    """Of N(-μ, σ²) and the score x, β = 2μ/σ² makes the tilt N(μ, σ²), and success is x > 0."""
    steps = 150
    prior = gaussian(-mean, sd, pixels=2000)
    chains = Switched(prior=prior, score=total, beta=2 * mean / sd**2, steps=steps, sampler=sampler)
    places = switch_places(steps, 10)
    levels = chains.levels
    errors = []
    for side in Side:
        held = chains.trunk(generators(1), side, places)
        for k in places:
            success = chains.finish(generators(1), side, k, held[k]) > 0
            kept = levels[k].alpha ** 2
            variance = kept * sd**2 + 1 - kept
            carried = (kept**0.5 * sd / variance**0.5) if sampler == "deterministic" else kept * sd**2 / variance
            expected = normal_cdf((mean / sd) * (1 - 2 * carried))
            expected = expected if side is Side.ON else 1 - expected
            errors.append(abs(float(success.double().mean()) - expected))
    assert max(errors) < 0.06


@pytest.mark.parametrize("sd", [0.6, 0.8, 1.0])
def test_it_commits_at_the_level_of_the_closed_form(sd: float) -> None:
    """τ50 lies at ᾱ = 1/(1 + 3σ²) whatever μ: broad concepts commit at noisier levels."""
    steps = 100
    for mean in (0.7, 1.2):
        chains = Switched(
            prior=gaussian(-mean, sd, pixels=500),
            score=total,
            beta=2 * mean / sd**2,
            steps=steps,
            sampler="deterministic",
        )
        places = switch_places(steps, 20)
        held = chains.trunk(generators(1), Side.ON, places)
        ends = [chains.finish(generators(1), Side.ON, k, held[k]).flatten() > 0 for k in places]
        found = curve_of(Side.ON, [k / steps for k in places], torch.stack(ends, 1)).crossing(0.5)
        assert found.place is not None
        kept = 1 / (1 + 3 * sd**2)
        alphas = [level.alpha**2 for level in chains.levels]
        expected = next(i for i, a in enumerate(alphas) if a >= kept) / steps
        assert abs(found.place - expected) < 0.04
        assert found.interval[0] <= found.place <= found.interval[1]


def test_an_unknown_sampler_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "ancestral"'):
        Switched(prior=gaussian(0, 1), score=total, beta=1.0, steps=2, sampler="ancestrl")


def test_a_score_without_a_gradient_is_refused() -> None:
    chains = Switched(prior=gaussian(0, 1), score=lambda x, g: torch.ones(len(x)), beta=1.0, steps=4)
    with pytest.raises(UserError, match="differentiable"):
        chains.trunk(generators(2), Side.OFF, [4])


# --- curves -----------------------------------------------------------------------------------------------------------


def pooled(rates: list[float]) -> list[float]:
    """Rising isotonic regression by pooling adjacent violators."""
    blocks: list[list[float]] = []
    for rate in rates:
        blocks.append([rate, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append([(a * n + b * m) / (n + m), n + m])
    return [value for value, count in blocks for _ in range(int(count))]


def test_isotonic_rates_equal_those_of_pooling() -> None:
    rates = torch.rand(50, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rising = isotonic(rates, falling=False)
    falling = isotonic(rates, falling=True)
    for row, up, down in zip(rates.tolist(), rising.tolist(), falling.tolist()):
        assert up == pytest.approx(pooled(row))
        assert down == pytest.approx(pooled(row[::-1])[::-1])


def hits(rates: list[float], seeds: int = 40) -> Tensor:
    """S×K successes with exactly these rates."""
    rows = torch.arange(seeds)[:, None] / seeds
    return rows < torch.tensor(rates)[None] - 1e-6


def test_crossings_are_interpolated_and_mirrored() -> None:
    places = [0.0, 0.25, 0.5, 0.75, 1.0]
    on = curve_of(Side.ON, places, hits([1.0, 0.9, 0.5, 0.1, 0.1]))
    assert on.crossing(0.7).place == pytest.approx(0.375)
    assert on.crossing(0.5).place == pytest.approx(0.5)
    off = curve_of(Side.OFF, places, hits([0.1, 0.1, 0.5, 0.9, 1.0]))
    assert off.crossing(0.7).place == pytest.approx(0.625)
    assert off.crossing(0.05).place == 0.0
    assert on.crossing(0.05).place == 1.0
    low, high = on.crossing(0.7).interval
    assert low < 0.375 < high
    assert on.rates == pytest.approx([1.0, 0.9, 0.5, 0.1, 0.1])
    assert on.intervals[0][1] == 1.0


def test_a_curve_that_never_reaches_the_level_has_no_crossing() -> None:
    found = curve_of(Side.ON, [0.0, 0.5, 1.0], hits([0.3, 0.2, 0.1])).crossing(0.7)
    assert found.place is None
    assert found.below == 1.0
    assert found.interval == (0.0, 0.0)


def test_the_window_lies_between_the_crossings() -> None:
    def at(place: float | None) -> Crossing:
        return Crossing(place=place, interval=(0.0, 1.0), below=0.0)

    assert window_of(at(0.2), at(0.6)) == (0.2, 0.6)
    assert window_of(at(0.8), at(0.6)) == (0.8, 1.0)
    assert window_of(at(0.6), at(0.3)) == (0.0, 0.3)
    assert window_of(at(None), at(0.3)) is None


def test_guidance_that_does_harm_is_noticed_and_chance_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    places = [0.0, 0.25, 0.5, 0.75, 1.0]
    harmed = torch.ones(16, 5, dtype=torch.bool)
    harmed[6:, 0] = False  # 6 of 16 with guidance at every step
    for side in Side:
        curve = curve_of(side, places, harmed if side is Side.ON else harmed.flip(1))
        turn = curve.turn()
        assert turn is not None
        assert turn.whole == (0 if side is Side.ON else 4)
        assert turn.p == pytest.approx(4 / 2**10)
    falling = torch.arange(16)[:, None] < torch.tensor([16, 12, 8, 4, 0])
    assert curve_of(Side.ON, places, falling).turn() is None
    alarms = sum(
        curve_of(Side.ON, places, torch.rand(16, 5, generator=draw) < 0.5).turn() is not None for _ in range(200)
    )
    assert alarms <= 10 + 3 * 3  # 5 % at most, and three standard deviations
