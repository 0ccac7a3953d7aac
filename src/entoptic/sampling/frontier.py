"""The most mean score that each number of nats can buy, with intervals, and where a method stands against it.

(E[s], KL) of the tilts q_β ∝ p·exp(β s) is the frontier: no law of the same mean score is nearer to the prior p. It is
estimated from a weighted sample of the prior, which a bank of draws is and which MBAR makes of ladders of tilted draws.
Everything is float64; nats throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entoptic.base.estimates import Estimate, t_quantile
from entoptic.errors import UserError
from entoptic.sampling.mbar import MIN_ESS, Ladder, finite_scores

MIN_ISLANDS = 4  # independent runs below which no interval is given
_BLOCKS = 32  # into which a bank is dealt for its standard errors


class Point(NamedTuple):
    """A tilt q_β. Errors of the other coordinates are those at a fixed value of the one that was asked for.

    Attributes:
        beta: ≥ 0. mean: E_q[s]. nats: KL(q_β‖p) ≥ 0. log_z: L(β) = log E_p[exp(β s)], its error always at fixed β.
        ess: effective number of scores behind it (Kish), at least 20; optimistic where particles are copies.
    """

    beta: Estimate
    mean: Estimate
    nats: Estimate
    log_z: Estimate
    ess: float

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_json() for name in ("beta", "mean", "nats", "log_z")} | {"ess": self.ess}


class _Tilted(NamedTuple):
    log_z: float
    mean: float
    variance: float
    nats: float
    ess: float
    log_z_out: Tensor  # I: without each island in turn
    mean_out: Tensor
    log_z_alone: Tensor  # I: of each island by itself
    mean_alone: Tensor


@dataclass(frozen=True, eq=False)
class Frontier:
    """Mean score against nats for the tilts of one prior by one score, from independent islands.

    Make it with `from_bank` or `from_ladders`. As the tilts of one weighted sample, its points keep the exact laws:
    L' = E[s], L'' = Var[s] ≥ 0, nats convex in the mean with slope β. Islands are pooled by adding their estimates of
    Z(β), which are unbiased; errors are those of the jackknife over islands, widened by what islands alone differ from
    the whole, with Student's t. With fewer than 4 islands there is no interval (the particles of one run share
    ancestors, so that their spread would flatter it).

    Up to its top rung a frontier's intervals cover 93 to 98 % on mixtures of Gaussians (4 to 8 islands). Beyond it, and a
    bank is all beyond, the highest scores of q_β may never have been drawn: 94 to 100 % at an effective sample size of
    100 and more, but down to 82 % near its end at 20. A ladder mends that.

    Attributes:
        scores: N. log_weights: N, of a sample of the prior; the weights sum to 1. island: N int64, which run each is of.
        islands: how many. top: highest rung. cross_check: difference between MBAR and thermodynamic integration in
            L at the islands' highest rungs, None without rungs; further than 3 standard errors from 0, the rungs are
            too far apart or their particles have not settled.
    """

    scores: Tensor
    log_weights: Tensor
    island: Tensor
    islands: int
    top: float = 0.0
    cross_check: Estimate | None = None

    @classmethod
    def from_bank(cls, scores: Tensor) -> Frontier:
        """From M independent draws of the prior alone, dealt into 32 islands (fewer where M is below 64).

        The estimates are those of the whole bank, and the islands serve its errors.

        Raises:
            UserError: fewer than 20 scores, or some that are not finite.
        """
        s = finite_scores(scores)
        _require_enough(s)
        count = min(_BLOCKS, len(s) // 2)
        return cls(s, torch.full_like(s, -math.log(len(s))), _deal(len(s), count), count)

    @classmethod
    def from_ladders(cls, ladders: Sequence[Ladder], bank: Tensor | None = None) -> Frontier:
        """From independent runs, each with draws at its own rungs, and a bank of further draws from the prior.

        Every ladder becomes a sample of the prior by MBAR. The bank is dealt out over the ladders, a part to each, at
        their lowest rung: given to all, its error would be common to the islands and missing from the interval. Draws
        of the bank from which a ladder started count once; leave them out of one of the two.

        Raises:
            UserError: no ladder, fewer than 20 scores, or rungs that do not overlap.
        """
        if not ladders:
            raise UserError("a frontier needs at least one ladder; of a bank alone it is made by Frontier.from_bank")
        if bank is not None:
            extra = finite_scores(bank)
            if len(extra) < len(ladders):
                raise UserError(f"a bank of {len(extra)} cannot be dealt out over {len(ladders)} ladders")
            part = _deal(len(extra), len(ladders))
            ladders = [ladder.with_bank(extra[part == i]) for i, ladder in enumerate(ladders)]
        scores = [ladder.joined() for ladder in ladders]
        log_weights = [ladder.log_weights() for ladder in ladders]
        gaps = [
            float((betas[-1] * s + w).logsumexp(0) - ladder.thermodynamic()[-1])
            for ladder, s, w in zip(ladders, scores, log_weights)
            if (betas := ladder.betas)[-1] > 0
        ]
        s_N, count = torch.cat(scores), len(ladders)
        _require_enough(s_N)
        return cls(
            s_N, torch.cat(log_weights) - math.log(count),
            torch.arange(count).repeat_interleave(torch.tensor([len(s) for s in scores])), count,
            max(ladder.betas[-1] for ladder in ladders), _mean_of(gaps) if gaps else None,
        )  # fmt: skip

    # --- points -----------------------------------------------------------------------------------------------------

    def at_beta(self, beta: float) -> Point:
        """The tilt by β.

        Raises:
            UserError: β < 0, or beyond what the scores support.
        """
        if not beta >= 0:
            raise UserError(f"β must be at least 0, got {beta}; tilt by minus the score for its low end")
        if beta > self.reach.beta:
            raise self._beyond(f"the tilt β = {beta:.6g}")
        t = self._supported(beta)
        mean = self._estimate(t.mean, t.mean_out, t.mean_alone)
        log_z = self._estimate(t.log_z, t.log_z_out, t.log_z_alone)
        nats_out, nats_alone = beta * t.mean_out - t.log_z_out, beta * t.mean_alone - t.log_z_alone
        nats = self._estimate(t.nats, nats_out, nats_alone, least=0)
        return Point(_given(beta), mean, nats, log_z, t.ess)

    def at_mean(self, mean: float) -> Point:
        """The KL-minimal law of mean score at least `mean`: β = 0 where the prior reaches it already.

        Raises:
            UserError: a mean above what the scores support.
        """
        if math.isnan(mean):
            raise UserError("a target mean score must be a number, got nan")
        if mean > self.reach.mean:
            raise self._beyond(f"a mean score of {mean:.6g}")
        if mean <= self._tilted(0.0).mean:
            return self.at_beta(0.0)
        beta = self._root(lambda _, t: (t.mean - mean, t.variance))
        p, variance = self.at_beta(beta), self._tilted(beta).variance
        # nats(m) = max_β {β m - L(β)}, so to first order its error is that of L at this β.
        return p._replace(
            beta=self._from_se(beta, p.mean.se / variance if variance else math.inf, least=0),
            mean=_given(mean), nats=self._from_se(p.nats.value, p.log_z.se, least=0),
        )  # fmt: skip

    def at_nats(self, nats: float) -> Point:
        """The law of highest mean score within a budget of nats.

        Raises:
            UserError: a negative budget, or one above what the scores support.
        """
        if not nats >= 0:
            raise UserError(f"a KL budget in nats must be at least 0, got {nats}")
        if nats > self.reach.nats:
            raise self._beyond(f"a budget of {nats:.6g} nats")
        beta = self._root(lambda b, t: (t.nats - nats, b * t.variance)) if nats else 0.0
        p = self.at_beta(beta)
        if not beta:
            return p
        steepness = beta * self._tilted(beta).variance  # dKL/dβ
        # mean(nats) = min_β {(nats + L(β))/β}.
        return p._replace(
            beta=self._from_se(beta, p.nats.se / steepness if steepness else math.inf, least=0),
            mean=self._from_se(p.mean.value, p.log_z.se / beta), nats=_given(nats),
        )  # fmt: skip

    def curve(self, count: int = 33) -> list[Point]:
        """Points at evenly spaced β from 0 to the highest that is supported; those that are not are left out."""
        points = []
        for i in range(count):
            beta = self.reach.beta * i / (count - 1)
            if self._tilted(beta).ess >= MIN_ESS:
                points.append(self.at_beta(beta))
        return points

    @cached_property
    def reach(self) -> Reach:
        """The strongest tilt whose effective sample size is 20."""
        return self._reach()

    def to_json(self, count: int = 33) -> dict[str, Any]:
        return {
            "islands": self.islands, "scores": len(self.scores), "reach": self.reach._asdict(),
            "cross_check": self.cross_check.to_json() if self.cross_check else None,
            "points": [point.to_json() for point in self.curve(count)],
        }  # fmt: skip

    # --- inside -----------------------------------------------------------------------------------------------------

    def _tilted(self, beta: float) -> _Tilted:
        """Moments under q_β of the pooled sample, and of it without each island."""
        best = self.scores.max()
        gap = self.scores - best  # ≤ 0: exponentials neither overflow nor all vanish
        log_w = beta * gap + self.log_weights
        top = log_w.max()
        w = (log_w - top).exp()
        per_island = torch.zeros(3, self.islands, dtype=torch.float64)
        z_I, gap_I, mass_I = per_island.index_add(1, self.island, torch.stack([w, w * gap, self.log_weights.exp()]))
        z, mass = z_I.sum(), mass_I.sum()
        mean_gap = gap_I.sum() / z
        offset = beta * best + top
        log_z = offset + (z / mass).log()
        # With one island nothing is left: nan, and no error is given.
        z_out = (z - z_I).clamp_min(0)
        return _Tilted(
            float(log_z), float(best + mean_gap), float(w @ (gap - mean_gap).square() / z),
            max(float(beta * mean_gap - (log_z - beta * best)), 0.0) if beta else 0.0,
            float(z.square() / w.square().sum()),
            offset + (z_out / (mass - mass_I)).log(), best + (gap_I.sum() - gap_I) / z_out,
            offset + (z_I / mass_I).log(), best + gap_I / z_I,
        )  # fmt: skip

    def _supported(self, beta: float) -> _Tilted:
        t = self._tilted(beta)
        if t.ess < MIN_ESS * (1 - 1e-9):
            raise self._beyond(f"the tilt β = {beta:.6g}, with an effective sample size of {t.ess:.3g},")
        return t

    def _beyond(self, what: str) -> UserError:
        r = self.reach
        return UserError(
            f"{what} is not supported by these {len(self.scores)} scores; the maximum is a mean of {r.mean:.6g} at "
            f"{r.nats:.4g} nats (β = {r.beta:.4g}), where the effective sample size falls to {MIN_ESS:.0f}"
        )

    def _reach(self) -> Reach:
        s = self.scores
        lower = s[s < s.max()]
        # Beyond this β only the highest score has weight and nothing changes any more (copies of it may be many).
        limit = 50 / float(s.max() - lower.max()) if len(lower) else 1.0
        low, high = 0.0, min(max(self.top, 1 / max(float(s.std()), 1e-300)), limit)
        while self._tilted(high).ess >= MIN_ESS and high < limit:
            low, high = high, min(2 * high, limit)
        if self._tilted(high).ess >= MIN_ESS:
            low = high
        for _ in range(36):  # to 11 digits
            middle = (low + high) / 2
            low, high = (middle, high) if self._tilted(middle).ess >= MIN_ESS else (low, middle)
        t = self._tilted(low)
        return Reach(low, t.mean, t.nats)

    def _root(self, excess: Callable[[float, _Tilted], tuple[float, float]]) -> float:
        """The β at which a quantity that grows with β is 0, of its value and slope: Newton's steps, kept in a bracket."""
        low, high = 0.0, self.reach.beta
        beta = high / 2
        for _ in range(100):
            value, slope = excess(beta, self._tilted(beta))
            low, high = (beta, high) if value < 0 else (low, beta)
            newton = beta - value / slope if slope else low
            step = newton if low < newton < high else (low + high) / 2
            if abs(step - beta) <= 1e-13 * high:
                break
            beta = step
        return beta

    def _estimate(self, value: float, without: Tensor, alone: Tensor, least: float = -math.inf) -> Estimate:
        """With the jackknife's standard error, √((I-1)/I·Σ(θ_(-i) - mean)²), and a part for bias.

        Where the scores that matter are rarely drawn, samples that lack them come out low and look certain. By how much
        islands alone come out elsewhere than all together shows it, and is added in quadrature.
        """
        squares = (without - without.mean()).square().sum() * (self.islands - 1) / self.islands
        return self._from_se(value, math.hypot(float(squares.sqrt()), value - float(alone.mean())), least)

    def _from_se(self, value: float, se: float, least: float = -math.inf) -> Estimate:
        if self.islands < MIN_ISLANDS or not math.isfinite(se):
            return Estimate(value, math.inf, None)
        width = t_quantile(self.islands - 1) * se
        return Estimate(value, se, (max(value - width, least), value + width))


class Reach(NamedTuple):
    """The end of the supported frontier."""

    beta: float
    mean: float
    nats: float


# --- methods against the frontier -----------------------------------------------------------------------------------


def dv_bound(mean: float, frontier: Frontier, *, mean_se: float = 0.0) -> Estimate:
    """A lower bound in nats on KL(q‖p) of any law q of this mean score: max_β {β·mean - L(β)} (Donsker, Varadhan).

    Tight for tilts. β is held to the supported range, where a mean beyond it still gives a bound, on the tangent.
    """
    r = frontier.reach
    if mean > r.mean:
        value, beta, log_z_se = r.nats + r.beta * (mean - r.mean), r.beta, frontier.at_beta(r.beta).log_z.se
    else:
        p = frontier.at_mean(mean)
        value, beta, log_z_se = p.nats.value, p.beta.value, p.log_z.se
    return frontier._from_se(value, math.hypot(log_z_se, beta * mean_se), least=0)


def excess_nats(
    nats: float, mean: float, frontier: Frontier, *, nats_se: float = 0.0, mean_se: float = 0.0
) -> Estimate:
    """Nats that a law spends above the least that its mean score costs: KL(q‖p) - KL(q_β‖p) = KL(q‖q_β).

    With an upper bound on KL(q‖p) in place of it (the KL of a path), an upper bound on the excess. An estimate below 0
    is noise, and is given as it is.

    Raises:
        UserError: a mean above what the frontier's scores support.
    """
    p = frontier.at_mean(mean)
    return frontier._from_se(nats - p.nats.value, math.hypot(nats_se, p.nats.se, p.beta.value * mean_se))


def selection_mean(bank: Tensor, n: int, k: int) -> Estimate:
    """Mean score under "draw n from p, keep the k of highest score, show one of them at random", whose nats are
    `selection_kl(n, k)`.

    The average over all subsets of n scores of the bank, so unbiased, with the jackknife's error over 32 parts of it.
    The score of rank r among M has weight n/(kM) times the chance that, of the n - 1 others, fewer than k rank above.

    Args:
        bank: M independent scores under p.

    Raises:
        UserError: not 1 ≤ k ≤ n, or a bank of fewer than 2n or 64 scores.
    """
    s = finite_scores(bank)
    if not 1 <= k <= n:
        raise UserError(f"top-K selection needs 1 ≤ K ≤ N, got K = {k} and N = {n}")
    if len(s) < max(2 * n, 2 * _BLOCKS):
        raise UserError(
            f"the law of a selection from {n} needs at least {max(2 * n, 2 * _BLOCKS)} scores of the prior, "
            f"got {len(s)}; the largest selection they serve is from {len(s) // 2}"
        )
    value = float(_rank_weights(len(s), n, k) @ s.sort(descending=True).values)
    # Parts of equal size, so that one set of weights serves all replicates; what is left over stays in each.
    size = len(s) // _BLOCKS
    part = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))[: size * _BLOCKS].reshape(_BLOCKS, size)
    weights = _rank_weights(len(s) - size, n, k)
    keep = torch.ones(len(s), dtype=torch.bool)
    without = torch.stack([weights @ s[keep.index_fill(0, p, False)].sort(descending=True).values for p in part])
    se = float(((without - without.mean()).square().sum() * (_BLOCKS - 1) / _BLOCKS).sqrt())
    width = t_quantile(_BLOCKS - 1) * se
    return Estimate(value, se, (value - width, value + width))


# --- small parts ----------------------------------------------------------------------------------------------------


def _given(value: float) -> Estimate:
    return Estimate(value, 0.0, (value, value))


def _mean_of(values: list[float]) -> Estimate:
    v = torch.tensor(values, dtype=torch.float64)
    if len(v) < MIN_ISLANDS:
        return Estimate(float(v.mean()), math.inf, None)
    mean, se = float(v.mean()), float(v.std()) / math.sqrt(len(v))
    width = t_quantile(len(v) - 1) * se
    return Estimate(mean, se, (mean - width, mean + width))


def _deal(items: int, hands: int) -> Tensor:
    """Which hand each item goes to, at random but the same each time: a bank may come sorted."""
    hand = torch.empty(items, dtype=torch.int64)
    hand[torch.randperm(items, generator=torch.Generator().manual_seed(0))] = torch.arange(items) % hands
    return hand


def _require_enough(scores: Tensor) -> None:
    if len(scores) < MIN_ESS:
        raise UserError(f"a frontier needs at least {MIN_ESS:.0f} scores, got {len(scores)}")


def _rank_weights(m: int, n: int, k: int) -> Tensor:
    """Weight of each rank (the highest score first) among m in the top k of a random n of them; they sum to 1."""
    if k == n:
        return torch.full((m,), 1 / m, dtype=torch.float64)

    def log_choose(a: Tensor, b: int) -> Tensor:
        log_count = (a + 1).lgamma() - math.lgamma(b + 1) - (a - b + 1).clamp_min(1).lgamma()
        return torch.where(a >= b, log_count, -math.inf)

    # The k-th best of the n - 1 others has place t among the m - 1 others; the item is shown if its rank r ≤ t.
    t = torch.arange(1, m, dtype=torch.float64)
    log_place = log_choose(t - 1, k - 1) + log_choose(m - 1 - t, n - 1 - k)
    place = log_place.softmax(0)
    shown = torch.cat([place.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    return shown / shown.sum()
