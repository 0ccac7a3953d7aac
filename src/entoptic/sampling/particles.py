"""Weighted particles: what a run of sequential Monte Carlo gives back, and when it must not be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Prior, generate
from entoptic.sampling.tilt import draw_order

CALM, SETTLED = 0.35, 0.5
"""Correlations of scores before and after the moves of a rung. Moves go on until it is down to the first, which few
particles tell by ±.25; above the second, pooled over islands, nothing is told (benchmarks/coverage.py)."""


@dataclass(frozen=True)
class Target:
    """How far to tilt, said in exactly one way.

    Attributes:
        beta: the tilt exp(β s) itself. mean: the least E_q[s] (in standard deviations where the score is standardised).
        nats: the budget KL(q‖p).
    """

    beta: float | None = None
    mean: float | None = None
    nats: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k in ("beta", "mean", "nats") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise UserError(f"a target is one of beta, mean and nats, got {', '.join(given) or 'none of them'}")
        ((name, value),) = given.items()
        if not math.isfinite(value) or (name != "mean" and value < 0):
            raise UserError(
                f"a target's {name} must be finite{'' if name == 'mean' else ' and at least 0'}, got {value}"
            )

    def __str__(self) -> str:
        if self.beta is not None:
            return f"β = {self.beta:.6g}"
        return f"a mean score of {self.mean:.6g}" if self.mean is not None else f"{self.nats:.6g} nats"


@dataclass(frozen=True)
class Rung:
    """One β of a run.

    Attributes:
        log_z: log E_p[exp(β s)], estimated. scores: of the equally weighted particles at this β, float64.
        acceptance: share of the noise moves that were accepted (NaN at β = 0, where there are none).
        ess: effective number of the particles that were reweighted to this β, before they were resampled.
        memory: correlation of the particles' scores before and after their moves at this β (NaN at β = 0). Near 1, the
            moves were too few or too small to settle: then mean and log Z lie low in every run alike, which no spread
            between runs shows.
    """

    beta: float
    log_z: float
    scores: Tensor
    acceptance: float
    ess: float
    memory: float = math.nan


@dataclass(frozen=True)
class ParticleSet:
    """N weighted particles of the tilt q_β ∝ p·exp(β s), with what it takes to trust them.

    Attributes:
        states: N×C×H×W. Noise z where `steps` says how many steps of `generate` make pictures of it; clean states x0
            where `steps` is None.
        condition: N int64, or None. scores: N float64; -inf where the score was not finite, whose weight is 0.
        log_weights: N float64, normalised.
        log_z: log E_p[exp(β s)]. mean: E_q[s]. kl: β·mean - log_z, the estimate of KL(q‖p) in nats (it may come out a
            little below 0, as estimates do).
        rungs: the ladder that led here, equally weighted at every β; empty for twisted diffusion.
        ancestors: N int64, the first-generation particle each descends from (its row in the bank where there is one).
        copies: N int64; particles of one number are copies that nothing has told apart since they were resampled.
        kin: N int64; particles of one number came by moves from one particle of the rung before, and depend on each other.
        least_ess: the smallest effective number of particles met along the run.
        denoise_calls, score_calls: per particle, in total. nonfinite: scores (or gradients) that were not finite.
        reached: the target was reached. note: if not, what was in the way and how far the run came.
    """

    states: Tensor
    condition: Tensor | None
    steps: int | None
    scores: Tensor
    log_weights: Tensor
    beta: float
    log_z: float
    rungs: tuple[Rung, ...]
    ancestors: Tensor
    copies: Tensor
    kin: Tensor
    least_ess: float
    denoise_calls: int
    score_calls: int
    nonfinite: int
    reached: bool
    note: str

    @property
    def mean(self) -> float:
        alive = self.log_weights > -math.inf
        return float(self.log_weights[alive].exp() @ self.scores[alive]) if bool(alive.any()) else math.nan

    @property
    def kl(self) -> float:
        return self.beta * self.mean - self.log_z if self.beta else 0.0

    @property
    def ess(self) -> float:
        """Effective number of particles for the mean score; see `effective_kin`. Copies count as one."""
        return effective_kin(self.log_weights, self.scores, self.kin, self.copies)

    @property
    def distinct_ancestors(self) -> int:
        return len(self.ancestors[self.log_weights > -math.inf].unique())

    @property
    def refusal(self) -> str:
        """Why no expectation may be reported of these particles, or an empty string.

        Needed are an ESS of 20 and 10 ancestors. A cloud of fewer than 40 particles could not show that
        however well it did, so there it is half of them, and a quarter of them in ancestors; never fewer than 2, so
        one particle alone never speaks for a law.
        """
        n = len(self.scores)
        least, roots = min(20.0, max(2.0, n / 2)), min(10, max(2, n // 4))
        if not self.ess >= least:
            return f"the effective number of particles is {self.ess:.3g} of {n}, and at least {least:.3g} are needed"
        if self.distinct_ancestors < roots:
            return (
                f"the {n} particles descend from {self.distinct_ancestors} first ones, and at least {roots} are needed"
            )
        return ""

    @property
    def supported(self) -> bool:
        """Whether expectations over the cloud may be reported; `refusal` says why not."""
        return not self.refusal

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows of up to `count` distinct particles, drawn by weight without replacement (Gumbel top-k).

        Copies count as one particle of their joint weight, so none is shown twice; particles of weight 0 are never
        drawn. Fewer rows come back where there are fewer to draw.
        """
        ids, place = self.copies.unique(return_inverse=True)
        joint = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, place, self.log_weights.exp())
        row = torch.empty(len(ids), dtype=torch.int64)
        row[place.flip(0)] = torch.arange(len(place)).flip(0)  # the first row of each number
        row, joint = row[joint > 0], joint[joint > 0]
        if not len(joint):
            return row
        uniform = torch.rand(len(joint), generator=generator, dtype=torch.float64).clamp(1e-300, 1 - 2**-53)
        return row[draw_order(joint.log(), 1.0, -(-uniform.log()).log())[:count]]

    def pictures(self, prior: Prior, rows: Tensor) -> Tensor:
        """The pictures of some particles, len(rows)×3×h×w; noise is run through the few-step generator once more."""
        at = rows.to(self.states.device)
        x0 = self.states[at]
        with torch.no_grad():
            if self.steps is not None:
                x0 = generate(prior, x0, None if self.condition is None else self.condition[at], steps=self.steps)
            return prior.decode(x0)


@dataclass(frozen=True)
class Islands:
    """Independent runs of one unit: means over them, and standard errors from how much they differ (K - 1 degrees of
    freedom, so 95 % at 4 islands is 3.18 standard errors).

    log_z is a mean of logarithms, which lies low by half of one island's variance. rhat compares the islands' scores as
    Gelman & Rubin (1992) do for chains: 1 where they sample one law, above about 1.05 where they do not.
    """

    log_z: float
    log_z_se: float
    mean: float
    mean_se: float
    kl: float
    kl_se: float
    rhat: float


def islands(clouds: Sequence[ParticleSet]) -> Islands:
    """Error bars that need no model of how particles depend on each other.

    Raises:
        UserError: fewer than 4 islands, from which no spread can be told.
    """
    if len(clouds) < 4:
        raise UserError(f"error bars need at least 4 independent islands, got {len(clouds)}")

    def spread(values: list[float]) -> tuple[float, float]:
        v = torch.tensor(values, dtype=torch.float64)
        return float(v.mean()), float(v.std()) / len(v) ** 0.5

    log_z, mean, kl = (spread([getattr(c, name) for c in clouds]) for name in ("log_z", "mean", "kl"))
    within = torch.tensor([_variance(c) for c in clouds], dtype=torch.float64).mean()
    n = sum(c.ess for c in clouds) / len(clouds)
    rhat = ((1 - 1 / n) + mean[1] ** 2 * len(clouds) / within).sqrt() if float(within) else torch.ones(())
    return Islands(*log_z, *mean, *kl, float(rhat))


def _variance(cloud: ParticleSet) -> float:
    alive = cloud.log_weights > -math.inf
    gap = cloud.scores[alive] - cloud.mean
    return float(cloud.log_weights[alive].exp() @ gap.square()) / max(1 - 1 / cloud.ess, 1e-9)


def pooled(clouds: Sequence[ParticleSet], beta: float) -> Tensor:
    """Normalised log weights of all islands' particles at one β, each island by its own estimate of Z there."""
    log_w = torch.cat([c.log_weights + (beta - c.beta) * c.scores + c.log_z for c in clouds])
    return log_w - log_w.logsumexp(0)


def pooled_ess(clouds: Sequence[ParticleSet], log_weights: Tensor) -> float:
    """Effective number of all islands' particles; kin and copies of different islands are never the same."""
    kin, copies = (
        torch.cat([label + i * (1 << 32) for i, label in enumerate(parts)])
        for parts in ([c.kin for c in clouds], [c.copies for c in clouds])
    )
    return effective_kin(log_weights, torch.cat([c.scores for c in clouds]), kin, copies)


def memory(clouds: Sequence[ParticleSet]) -> float:
    """How far particles remember where a rung's moves began: of each island its worst rung, averaged over islands."""
    worst = [max((abs(r.memory) for r in c.rungs if not math.isnan(r.memory)), default=math.nan) for c in clouds]
    return sum(worst) / len(worst)


def refusal(clouds: Sequence[ParticleSet], ess: float, count: int) -> str:
    """Why no expectation over a population of `count` particles or samples is told, or an empty string.

    Args:
        clouds: the islands that it comes from; none where it comes from plain samples. ess: of the whole population.
    """
    if why := next((c.refusal for c in clouds if c.refusal), ""):
        return why
    if clouds and memory(clouds) > SETTLED:
        return (
            f"the particles have not settled (scores before and after a rung's moves correlate by {memory(clouds):.2f}), so "
            "that the mean lies low and nats high for it, beyond any interval; raise `moves`"
        )
    if ess < (least := min(20.0, count / 2)):
        return f"the effective number of samples is {ess:.3g}, and at least {least:.3g} are needed"
    return ""


def effective(log_weights: Tensor) -> Tensor:
    """Effective sample size (Σw)²/Σw² along the last axis; 0 where every weight is 0."""
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp().nan_to_num(0.0)


def effective_kin(log_weights: Tensor, scores: Tensor, kin: Tensor, copies: Tensor) -> float:
    """Effective number of weighted particles of which those of one kin depend on each other.

    It is Var[s]/Var[mean], the variance of the mean from sums over kin (a cluster-robust estimate), and never more than
    1/Σw² with the weights of copies added up. Few kin, or one with over a third of the weight, cannot show that they are
    independent within: there it is the number of kin, 1/Σw² with their weights added up. All N; log_weights and scores
    float64, kin and copies int64.
    """
    alive = log_weights > -math.inf
    if not bool(alive.any()):
        return 0.0
    w, s = log_weights[alive].softmax(0), scores[alive]
    ceiling = float(1 / _summed(w, copies[alive]).square().sum())
    share = _summed(w, kin[alive])
    if len(share) < 5 or float(share.max()) > 1 / 3:
        return min(ceiling, float(1 / share.square().sum()))
    gap = s - w @ s
    spread = float(_summed(w * gap, kin[alive]).square().sum()) * len(share) / (len(share) - 1)
    return min(ceiling, float(w @ gap.square()) / spread) if spread > 0 else ceiling


def _summed(values: Tensor, label: Tensor) -> Tensor:
    """Sums of float64 values over equal labels."""
    _, place = label.unique(return_inverse=True)
    return torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, values)


def log_mean_exp(log_values: Tensor) -> Tensor:
    """log of the mean of exp along the last axis."""
    return log_values.logsumexp(-1) - math.log(log_values.shape[-1])


def systematic(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Systematic resampling (Kitagawa 1996): R×count int64 columns of R×M log weights, ascending.

    Column i comes up count·W_i times in expectation, and never fewer than the integer part of that or more than one
    above it. One uniform number in [0, 1) decides each row.
    """
    edges = log_weights.softmax(-1).cumsum(-1)
    edges = edges / edges[:, -1:]
    points = (torch.arange(count, dtype=torch.float64) + uniform[:, None]) / count
    # The first edge beyond a point: an interval of weight 0 has no point inside. 63 + 0.999… may round to 64.
    return torch.searchsorted(edges, points.clamp(max=1 - 2**-53), right=True)
