"""Weighted particles, the result of sequential Monte Carlo, and the checks that decide whether they can be trusted.

An island is one independent run. Its particles share ancestors, so error bars come from several islands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Prior, generate
from entoptic.sampling.tilt import draw_order

AUTOCORRELATION_TARGET, AUTOCORRELATION_MAX = 0.35, 0.5
"""Limits on the correlation of the scores before and after the moves of a rung.

Moves are repeated until the correlation is at most the target. With few particles its estimate is off by about ±0.25.
Where the worst correlation, averaged over islands, is above the maximum, no expectation is reported. Both values were
chosen by benchmarks/coverage.py.
"""


@dataclass(frozen=True)
class TiltTarget:
    """The strength of a tilt. Exactly one attribute is given, the others are None.

    Attributes:
        beta: β of the tilt exp(β s), ≥ 0.
        mean: the mean score E_q[s] to reach, in standard deviations where the score is standardised.
        nats: the KL divergence KL(q‖p) to spend, in nats, ≥ 0.
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
    """One value of β that a run of SMC stopped at.

    Attributes:
        beta: β of this rung.
        log_z: estimate of log Z(β) = log E_p[exp(β s)].
        scores: N float64, scores of the equally weighted particles at this β.
        acceptance: share of the noise moves that were accepted, in [0, 1]; NaN at β = 0, where there are none.
        ess: effective sample size of the particles after reweighting to this β, before resampling.
        score_autocorrelation: correlation of the particles' scores before and after the moves at this β; NaN at β = 0.
            Near 1 the moves were too few or too small to forget the start. Then the mean score and log Z are too low
            in every run alike, which the spread between runs does not show.
    """

    beta: float
    log_z: float
    scores: Tensor
    acceptance: float
    ess: float
    score_autocorrelation: float = math.nan


@dataclass(frozen=True)
class ParticleSet:
    """N weighted particles of the tilt q_β ∝ p·exp(β s), with the diagnostics of the run.

    Attributes:
        states: N×C×H×W. Noise z if `steps` is a number, clean states x0 if `steps` is None.
        condition: N int64, or None where the prior has no conditions.
        steps: steps of `generate` that turn the noise into clean states.
        scores: N float64; -inf for a particle whose score was not finite. Its weight is 0.
        log_weights: N float64, normalised.
        beta: β of the tilt.
        log_z: estimate of log E_p[exp(β s)].
        rungs: the ladder of β of the run, equally weighted particles at each; empty for twisted SMC.
        ancestors: N int64, index of the first-generation particle that each descends from (its row in the bank where
            the run started from one).
        copies: N int64. Particles with equal numbers are copies that no accepted move has changed since resampling.
        lineage: N int64. Particles with equal numbers descend from one particle of the rung before, so they are
            dependent.
        least_ess: smallest effective sample size along the run.
        denoise_calls: calls of the denoiser, summed over particles.
        score_calls: calls of the score, summed over particles.
        nonfinite: number of scores (or gradients) that were not finite.
        reached: whether the target was reached.
        note: why the target was not reached and how far the run came; "" if it was reached.
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
    lineage: Tensor
    least_ess: float
    denoise_calls: int
    score_calls: int
    nonfinite: int
    reached: bool
    note: str

    @property
    def mean(self) -> float:
        """Estimate of the mean score E_q[s]; NaN where every weight is 0."""
        alive = self.log_weights > -math.inf
        return float(self.log_weights[alive].exp() @ self.scores[alive]) if bool(alive.any()) else math.nan

    @property
    def kl(self) -> float:
        """Estimate of KL(q‖p) = β·E_q[s] - log Z(β) in nats; noise may make it a little negative."""
        return self.beta * self.mean - self.log_z if self.beta else 0.0

    @property
    def ess(self) -> float:
        """Effective sample size for the mean score, see `ess_by_lineage`. Copies count as one particle."""
        return ess_by_lineage(self.log_weights, self.scores, self.lineage, self.copies)

    @property
    def distinct_ancestors(self) -> int:
        """Number of first-generation particles that have descendants of positive weight."""
        return len(self.ancestors[self.log_weights > -math.inf].unique())

    @property
    def refusal(self) -> str:
        """Returns why no expectation over these particles may be reported, or an empty string.

        An effective sample size of 20 and 10 distinct ancestors are needed. Fewer than 40 particles cannot reach
        that, so for them the limits are N/2 effective particles and N/4 ancestors, but at least 2 of each.
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

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws up to `count` distinct particles by weight, without replacement (Gumbel top-k; Kool et al. 2019).

        Copies count as one particle with the sum of their weights, so no picture is drawn twice. Particles of
        weight 0 are never drawn.

        Args:
            count: how many to draw, ≥ 0.
            generator: source of the random numbers.

        Returns:
            Row numbers int64, in the order drawn; fewer than `count` where fewer particles can be drawn.
        """
        ids, group = self.copies.unique(return_inverse=True)
        joint = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, group, self.log_weights.exp())
        row = torch.empty(len(ids), dtype=torch.int64)
        row[group.flip(0)] = torch.arange(len(group)).flip(0)  # the first row of each group of copies
        row, joint = row[joint > 0], joint[joint > 0]
        if not len(joint):
            return row
        uniform = torch.rand(len(joint), generator=generator, dtype=torch.float64).clamp(1e-300, 1 - 2**-53)
        return row[draw_order(joint.log(), 1.0, -(-uniform.log()).log())[:count]]

    def pictures(self, prior: Prior, rows: Tensor) -> Tensor:
        """Makes the pictures of the particles `rows` (K int64): K×3×h×w in [0, 1]. Noise goes through `generate` again."""
        at = rows.to(self.states.device)
        x0 = self.states[at]
        with torch.no_grad():
            if self.steps is not None:
                x0 = generate(prior, x0, None if self.condition is None else self.condition[at], steps=self.steps)
            return prior.decode(x0)


@dataclass(frozen=True)
class IslandEstimates:
    """Means over K islands with standard errors from the spread between them (K - 1 degrees of freedom).

    Attributes:
        log_z: mean of the islands' log Z. As a mean of logarithms it is too low by about half of the variance of one
            island's log Z.
        log_z_se: its standard error.
        mean: mean score E_q[s].
        mean_se: its standard error.
        kl: KL divergence KL(q‖p) in nats.
        kl_se: its standard error.
        rhat: potential scale reduction of the scores (Gelman & Rubin 1992): 1 where the islands sample one
            distribution, above about 1.05 where they do not.
    """

    log_z: float
    log_z_se: float
    mean: float
    mean_se: float
    kl: float
    kl_se: float
    rhat: float


def estimate_across_islands(islands: Sequence[ParticleSet]) -> IslandEstimates:
    """Estimates log Z, mean score and KL divergence with errors from the spread between independent islands.

    Args:
        islands: at least 4 runs of the same tilt, independent of each other.

    Raises:
        UserError: fewer than 4 islands.
    """
    if len(islands) < 4:
        raise UserError(f"error bars need at least 4 independent islands, got {len(islands)}")

    def mean_and_se(values: list[float]) -> tuple[float, float]:
        v = torch.tensor(values, dtype=torch.float64)
        return float(v.mean()), float(v.std()) / len(v) ** 0.5

    log_z, mean, kl = (mean_and_se([getattr(island, name) for island in islands]) for name in ("log_z", "mean", "kl"))
    within = torch.tensor([_variance(island) for island in islands], dtype=torch.float64).mean()
    n = sum(island.ess for island in islands) / len(islands)
    rhat = ((1 - 1 / n) + mean[1] ** 2 * len(islands) / within).sqrt() if float(within) else torch.ones(())
    return IslandEstimates(*log_z, *mean, *kl, float(rhat))


def _variance(island: ParticleSet) -> float:
    alive = island.log_weights > -math.inf
    gap = island.scores[alive] - island.mean
    return float(island.log_weights[alive].exp() @ gap.square()) / max(1 - 1 / island.ess, 1e-9)


def pooled_log_weights(islands: Sequence[ParticleSet], beta: float) -> Tensor:
    """Returns the normalised log weights (N float64, all islands in order) of the islands' particles at `beta`.

    Each island is weighted by its own estimate of Z(β).
    """
    log_w = torch.cat([i.log_weights + (beta - i.beta) * i.scores + i.log_z for i in islands])
    return log_w - log_w.logsumexp(0)


def pooled_ess(islands: Sequence[ParticleSet], log_weights: Tensor) -> float:
    """Returns the effective sample size of all islands together; lineages and copies of different islands are distinct.

    Args:
        islands: the islands, in the order of `log_weights`.
        log_weights: N float64, see `pooled_log_weights`.
    """
    lineage, copies = (
        torch.cat([label + i * (1 << 32) for i, label in enumerate(parts)])
        for parts in ([island.lineage for island in islands], [island.copies for island in islands])
    )
    return ess_by_lineage(log_weights, torch.cat([island.scores for island in islands]), lineage, copies)


def worst_autocorrelation(islands: Sequence[ParticleSet]) -> float:
    """Returns the largest |score autocorrelation| over an island's rungs, averaged over the islands; NaN without rungs."""
    worst = [
        max(
            (abs(r.score_autocorrelation) for r in island.rungs if not math.isnan(r.score_autocorrelation)),
            default=math.nan,
        )
        for island in islands
    ]
    return sum(worst) / len(worst)


def refusal(islands: Sequence[ParticleSet], ess: float, count: int) -> str:
    """Returns why no expectation over a population may be reported, or an empty string.

    Args:
        islands: the islands that the population comes from; empty where it is a plain sample of the prior.
        ess: effective sample size of the whole population.
        count: number of particles or samples in it.
    """
    if why := next((island.refusal for island in islands if island.refusal), ""):
        return why
    if islands and (worst := worst_autocorrelation(islands)) > AUTOCORRELATION_MAX:
        return (
            f"the particles have not settled (scores before and after a rung's moves correlate by {worst:.2f}), so "
            "that the mean lies low and nats high for it, beyond any interval; raise `moves`"
        )
    if ess < (least := min(20.0, count / 2)):
        return f"the effective number of samples is {ess:.3g}, and at least {least:.3g} are needed"
    return ""


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Returns the effective sample size (Σw)²/Σw² (Kish 1965) along the last axis; 0 where every weight is 0."""
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp().nan_to_num(0.0)


def ess_by_lineage(log_weights: Tensor, scores: Tensor, lineage: Tensor, copies: Tensor) -> float:
    """Estimates the effective sample size of weighted particles that are dependent within a lineage.

    The estimate is Var[s]/Var[mean of s]. The variance of the mean comes from sums over lineages, as in
    cluster-robust standard errors. It is at most 1/Σw², with the weights of copies added up. Fewer than 5 lineages, or
    one with more than a third of the weight, are too few for a variance. There each lineage counts as one particle:
    1/Σw² with the weights of a lineage added up.

    Args:
        log_weights: N float64.
        scores: N float64.
        lineage: N int64, equal for dependent particles.
        copies: N int64, equal for copies.
    """
    alive = log_weights > -math.inf
    if not bool(alive.any()):
        return 0.0
    w, s = log_weights[alive].softmax(0), scores[alive]
    ceiling = float(1 / _sum_by_label(w, copies[alive]).square().sum())
    share = _sum_by_label(w, lineage[alive])
    if len(share) < 5 or float(share.max()) > 1 / 3:
        return min(ceiling, float(1 / share.square().sum()))
    gap = s - w @ s
    mean_and_se = float(_sum_by_label(w * gap, lineage[alive]).square().sum()) * len(share) / (len(share) - 1)
    return min(ceiling, float(w @ gap.square()) / mean_and_se) if mean_and_se > 0 else ceiling


def _sum_by_label(values: Tensor, label: Tensor) -> Tensor:
    """Returns the sum of `values` (N float64) for each distinct label (N int64)."""
    _, group = label.unique(return_inverse=True)
    return torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add_(0, group, values)


def log_mean_exp(log_values: Tensor) -> Tensor:
    """Returns log(mean(exp(log_values))) along the last axis."""
    return log_values.logsumexp(-1) - math.log(log_values.shape[-1])


def resample_systematically(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Draws particles by systematic resampling (Kitagawa 1996).

    Particle i is drawn count·W_i times in expectation, and always ⌊count·W_i⌋ or ⌈count·W_i⌉ times.

    Args:
        log_weights: R×M, one row for each run.
        uniform: R, one number in [0, 1) for each run.
        count: number of draws for each run.

    Returns:
        R×count int64 columns, ascending in each row.
    """
    edges = log_weights.softmax(-1).cumsum(-1)
    edges = edges / edges[:, -1:]
    points = (torch.arange(count, dtype=torch.float64) + uniform[:, None]) / count
    # The first edge beyond a point, so a particle of weight 0 is never drawn. The clamp: 63 + 0.999… may round to 64.
    return torch.searchsorted(edges, points.clamp(max=1 - 2**-53), right=True)
