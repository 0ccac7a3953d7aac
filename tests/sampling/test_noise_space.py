"""Moves in noise space: what they leave as it is, where they are exact, and what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Score, generate
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.noise_space import TRAJECTORY_LENGTH, Moved, NoiseSpace, Walkers, next_stride
from entoptic.sampling.particles import TiltTarget
from entoptic.sampling.smc import noise_smc


class Plain:
    """z itself as the picture: one step of a flow prior of N(0, 1), so that laws in noise space are laws of pictures."""

    name, identity, bounds, device = "toy:plain", "", None, torch.device("cpu")

    def __init__(self, side: int = 4, conditions: int = 0) -> None:
        self.shape, self.conditions = (1, side, side), conditions

    def levels(self, steps: int) -> list:
        return GaussianMixture(torch.ones(1), torch.zeros(1, *self.shape), torch.ones(1, *self.shape)).levels(steps)

    def denoise(self, x: Tensor, level: object, condition: Tensor | None = None) -> Tensor:
        return x if condition is None else x + condition[:, None, None, None]

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def first(pictures: Tensor, group: Tensor) -> Tensor:
    """A linear score of unit length."""
    return pictures.flatten(1)[:, 0]


def bumpy(pictures: Tensor, group: Tensor) -> Tensor:
    """Between -1 and 1, with several modes, in two directions."""
    x = pictures.flatten(1)
    return (torch.sin(2 * x[:, 0]) + torch.tanh(x[:, 0] + 2 * x[:, 1])) / 2


def steps(pictures: Tensor, group: Tensor) -> Tensor:
    """The same in steps, with the slope of the smooth one: a force that is not the gradient."""
    s = bumpy(pictures, group)
    return s + ((4 * s).round() / 4 - s).detach()


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def moved(space: NoiseSpace, z: Tensor, beta: float, stride: float, condition: Tensor | None = None) -> Moved:
    group = torch.zeros(len(z), dtype=torch.int64)
    walkers = Walkers(z, condition, space.scores(z, condition, group))
    even = torch.ones(len(z), dtype=torch.float64)
    return space.move(walkers, beta * even, stride * even, [0], generators(1))


@pytest.mark.parametrize(("leaps", "stride"), [(1, 0.3), (1, 1.0), (4, 0.2), (2, 0.45)])
def test_a_trajectory_is_exact_for_a_linear_score(leaps: int, stride: float) -> None:
    """The flow of H is a turn about βa: never refused, and after a quarter turn the start is forgotten."""
    prior, beta, n = Plain(), 2.5, 4000
    scale, turn = prior.levels(1)[0].sigma, min(leaps * stride, TRAJECTORY_LENGTH)
    far = torch.full((n, *prior.shape), -3.0)
    now = moved(NoiseSpace(prior, first, 1, n, leaps), far, beta, stride)
    assert bool(now.walked.all())
    z = now.walkers.z.flatten(1).double()
    angle, pull = turn * math.pi / 2, beta * scale
    assert float(z[:, 0].mean()) == pytest.approx(
        pull + math.cos(angle) * (-3.0 - pull), abs=4 * math.sin(angle) / n**0.5 + 1e-4
    )
    assert float(z[:, 1:].mean()) == pytest.approx(-3.0 * math.cos(angle), abs=0.02)
    assert float(z.std(0).mean()) == pytest.approx(math.sin(angle), rel=0.02)
    assert now.calls.tolist() == [leaps + 1] * n


def test_a_trajectory_goes_as_far_whatever_its_leaps() -> None:
    prior = Plain()
    z = torch.zeros(9, *prior.shape)
    space = NoiseSpace(prior, first, 1, 9, 16)
    assert [int(moved(space, z, 1.0, stride).calls[0]) for stride in (1.0, 0.4, 0.2, 0.05, 0.01)] == [2, 3, 5, 17, 17]
    strides = torch.tensor([0.4, 0.1, 0.8], dtype=torch.float64).repeat_interleave(3)
    walkers = Walkers(z, None, torch.zeros(9, dtype=torch.float64))
    assert space.move(walkers, strides, strides, [0, 1, 2], generators(3)).calls.tolist() == [3] * 3 + [9] * 3 + [2] * 3


def test_one_blind_leap_is_pcn() -> None:
    prior = Plain()
    z = torch.randn((50, *prior.shape), generator=torch.Generator().manual_seed(3))
    now = moved(NoiseSpace(prior, first, 1, 50), z, 0.0, 0.2)
    noise = torch.randn((50, *prior.shape), generator=generators(1)[0])
    delta = math.sin(0.2 * math.pi / 2)
    torch.testing.assert_close(now.walkers.z, (1 - delta**2) ** 0.5 * z + delta * noise)
    assert now.calls.tolist() == [1] * 50


@pytest.mark.parametrize(
    ("leaps", "conditions", "score"),
    [(0, 0, bumpy), (0, 3, bumpy), (1, 3, bumpy), (4, 0, bumpy), (4, 3, bumpy), (4, 0, steps)],
)
def test_moves_leave_the_tilt_as_it_is(leaps: int, conditions: int, score: Score) -> None:
    """Exact draws by rejection stay exact draws; without the kicks' gain they do not."""
    prior, beta, g = Plain(conditions=conditions), 3.0, torch.Generator().manual_seed(11)
    space = NoiseSpace(prior, score, 1, 400_000, leaps)
    z = torch.randn((60_000, *prior.shape), generator=g)
    condition = torch.randint(conditions, (60_000,), generator=g) if conditions else None
    s = space.scores(z, condition, torch.zeros(60_000, dtype=torch.int64))
    kept = torch.rand(60_000, generator=g, dtype=torch.float64).log() < beta * (s - 1)
    z, condition, s = z[kept], None if condition is None else condition[kept], s[kept]
    half = len(z) // 2  # one half moves, the other stays to compare with
    now = Walkers(z[:half], None if condition is None else condition[:half], s[:half])
    even = torch.ones(half, dtype=torch.float64)
    walked = 0.0
    for g in generators(4):
        step = space.move(now, beta * even, (0.5 if leaps < 2 else 0.2) * even, [0], [g])
        now, walked = step.walkers, walked + float(step.walked.double().mean()) / 4
    assert 0.2 < walked < 0.995
    torch.testing.assert_close(
        space.scores(now.z, now.condition, torch.zeros(half, dtype=torch.int64)), now.scores, atol=1e-5, rtol=0
    )
    for column in range(3):
        before, after = z[half:].flatten(1)[:, column], now.z.flatten(1)[:, column]
        assert stats.ks_2samp(before.numpy(), after.numpy()).pvalue > 1e-3
    assert stats.ks_2samp(s[half:].numpy(), now.scores.numpy()).pvalue > 1e-3
    if condition is not None and now.condition is not None:
        counts = torch.stack([condition[half:].bincount(minlength=3), now.condition.bincount(minlength=3)])
        assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3


def test_trajectories_settle_where_blind_moves_do_not() -> None:
    """At a strong tilt and the same number of scores; the truth is that of a unit Gaussian."""
    prior, beta = Plain(8), 4.0
    truth = beta * prior.levels(1)[0].sigma ** 2
    found = {}
    for moves, leaps in ((5, 0), (1, 8)):
        particle_sets = noise_smc(
            prior, first, TiltTarget(beta=beta), generators(40), particles=32, moves=moves, leaps=leaps, ess=0.5, steps=1,
            batch=10_000,
        )  # fmt: skip
        found[leaps] = torch.tensor([c.mean for c in particle_sets], dtype=torch.float64)
    error = {leaps: float(means.mean()) - truth for leaps, means in found.items()}
    assert abs(error[8]) < 4 * float(found[8].std()) / 40**0.5
    assert abs(error[8]) < 0.05
    assert error[0] < -0.5


def test_a_trajectory_needs_a_gradient() -> None:
    def opaque(pictures: Tensor, group: Tensor) -> Tensor:
        return first(pictures.detach(), group)

    prior = Plain()
    assert moved(NoiseSpace(prior, opaque, 1, 9), torch.zeros(9, *prior.shape), 1.0, 0.3).walked.any()
    with pytest.raises(UserError, match="leaps=0"):
        moved(NoiseSpace(prior, opaque, 1, 9, 2), torch.zeros(9, *prior.shape), 1.0, 0.3)


def test_a_trajectory_never_ends_where_the_score_is_not_finite() -> None:
    def broken(pictures: Tensor, group: Tensor) -> Tensor:
        s = first(pictures, group)
        return torch.where(s > 0.5, torch.full_like(s, math.nan), s)

    prior = Plain()
    z = torch.randn((500, *prior.shape), generator=torch.Generator().manual_seed(1))
    z = z[z.flatten(1)[:, 0] * prior.levels(1)[0].sigma <= 0.5]
    now = moved(NoiseSpace(prior, broken, 1, 500, 3), z, 2.0, 0.6)
    assert int(now.nonfinite.sum()) > 0
    assert bool(now.walkers.scores.isfinite().all())
    assert bool(now.walkers.z.isfinite().all())


def test_groups_and_batches_change_no_trajectory() -> None:
    def own(pictures: Tensor, group: Tensor) -> Tensor:
        return bumpy(pictures, group) * torch.tensor([1.0, 2.0, 0.5])[group]

    prior = Plain(conditions=3)
    kwargs = {"particles": 12, "moves": 2, "leaps": 3, "steps": 1}
    together = noise_smc(prior, own, TiltTarget(beta=2.0), generators(3), **kwargs)
    for i, scale in enumerate((1.0, 2.0, 0.5)):
        [alone] = noise_smc(
            prior,
            lambda p, g, a=scale: a * bumpy(p, g),
            TiltTarget(beta=2.0),
            generators(3)[i : i + 1],
            batch=5,
            **kwargs,
        )
        torch.testing.assert_close(alone.states, together[i].states)
        assert alone.log_z == pytest.approx(together[i].log_z)
        assert alone.score_calls == together[i].score_calls
    x0 = generate(prior, together[0].states, together[0].condition, steps=1)
    torch.testing.assert_close(bumpy(x0, x0).double(), together[0].scores, atol=1e-5, rtol=1e-5)


def test_strides_aim_at_thirty_per_cent() -> None:
    """Where acceptance is 2Φ(-cδ), one measurement is enough."""
    normal = stats.norm()
    for c, stride in ((3.0, 0.5), (2.0, 0.9), (9.0, 0.2)):
        measured = torch.tensor(2 * normal.cdf(-c * stride), dtype=torch.float64)
        new = float(next_stride(torch.tensor(stride, dtype=torch.float64), measured))
        assert 2 * normal.cdf(-c * new) == pytest.approx(0.3, abs=1e-6)
    ends = next_stride(torch.full((2,), 0.8, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends[0] == pytest.approx(0.2, abs=0.02)
    assert ends[1] == 1
