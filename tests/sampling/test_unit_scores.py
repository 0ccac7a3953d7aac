"""Scores of units: standardised, bounded, reduced, with and without gradients."""

from __future__ import annotations

import pytest
import torch

from entoptic import UserError
from entoptic.models.model import Model
from entoptic.priors.toy import GaussianMixture
from entoptic.sampling.bank import make_bank
from entoptic.sampling.unit_scores import REDUCTIONS, UnitScores
from entoptic.units.unit import bind


def mixture(size: int = 8) -> GaussianMixture:
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(2, 3, size, size, generator=draw)
    return GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.full_like(means, 0.3), scale=0.15, offset=0.5)


def test_rows_are_scored_on_their_own_unit(tiny: Model) -> None:
    units = bind(tiny, ["logits:0", "stage2:3", "logits:4"])
    bank = make_bank(mixture(), size=9)
    plain = UnitScores(units)
    raw = bank.scores(plain)
    scores = plain.standardised(raw)
    group = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    mixed = scores(bank.pictures.float() / 255, group)
    expected = (raw[group, torch.arange(9)] - raw.mean(1)[group]) / raw.std(1)[group]
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.raw(mixed[group == 1], 1), raw[1, group == 1], rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_pictures_and_rounding_does_not_stop_them(tiny: Model) -> None:
    scores = UnitScores(bind(tiny, ["logits:1"]), bound=3.0)
    pictures = torch.rand(2, 3, 8, 8, requires_grad=True)
    scores(pictures, torch.zeros(2, dtype=torch.int64)).sum().backward()
    assert pictures.grad is not None
    assert float(pictures.grad.abs().sum()) > 0


def test_straight_scores_are_those_of_the_file_with_a_gradient_too(tiny: Model) -> None:
    units = bind(tiny, ["logits:1"])
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    group = torch.zeros(3, dtype=torch.int64)
    straight, smooth = UnitScores(units, straight=True), UnitScores(units)
    given = straight(pictures, group)
    with torch.no_grad():
        assert torch.equal(given, smooth(pictures, group)), "one function of the picture, asked for a gradient or not"
    assert not torch.equal(given, smooth(pictures, group))
    (through,) = torch.autograd.grad(given.sum(), pictures)
    (plain,) = torch.autograd.grad(smooth(pictures, group).sum(), pictures)
    assert float((through - plain).norm() / plain.norm()) < 0.3  # rounding crosses a kink here and there


def test_bounded_scores_stay_within_and_invert(tiny: Model) -> None:
    units = bind(tiny, ["logits:1"])
    pictures = torch.rand(6, 3, 8, 8)
    zero = torch.zeros(6, dtype=torch.int64)
    free, bounded = UnitScores(units), UnitScores(units, bound=2.0)
    assert float(bounded(pictures, zero).abs().max()) < 2
    torch.testing.assert_close(bounded.raw(bounded(pictures, zero)), free(pictures, zero))


def test_reductions_on_a_planted_map(tiny: Model) -> None:
    map_BHW = torch.zeros(1, 8, 8)
    map_BHW[0, 0, 0], map_BHW[0, 3, 3], map_BHW[0, 4, 4] = 9.0, 4.0, -8.0
    found = {name: float(reduce(map_BHW)) for name, reduce in REDUCTIONS.items()}
    assert found["max"] == 9
    assert found["mean"] == pytest.approx(5 / 64)
    assert found["top"] == pytest.approx(13 / 8)
    assert found["mix"] == pytest.approx(0.7 * 4 + 0.3 * 4 / 16)  # the centre does not see the 9
    constant = torch.full((1, 4, 4), 2.5)
    assert float(REDUCTIONS["log-mean-exp"](constant)) == pytest.approx(2.5)


def test_what_cannot_be_tilted_is_refused(tiny: Model) -> None:
    units = bind(tiny, ["logits:1"])
    with pytest.raises(UserError, match="nothing to tilt by"):
        UnitScores(units).standardised(torch.ones(1, 5))
    with pytest.raises(UserError, match="not finite"):
        UnitScores(units).standardised(torch.tensor([[1.0, float("nan"), 2.0]]))
    with pytest.raises(UserError, match="did you mean"):
        UnitScores(units, "maxx")
    with pytest.raises(UserError, match="at least 2"):
        make_bank(mixture(), size=1)
