"""Sequential Monte Carlo in noise space: exact tilts of a few-step generator, with log Z, for any black-box score.

Particles start as plain samples. Again and again they are reweighted to a higher β, resampled, and moved by kernels
that leave that tilt as it is (Del Moral, Doucet & Jasra 2006). The reweightings' means multiply to an estimate of
Z(β) = E_p[exp(β s)]. The ladder, the strides and the number of moves are adapted to the particles, which leaves every
estimate consistent and costs a bias of order 1/N (Beskos et al. 2016), below its standard error of order 1/√N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Prior, Score, draw_conditions, noise_like
from entoptic.sampling.noise_space import BLIND, GUIDED, NoiseSpace, Walkers, next_stride
from entoptic.sampling.particles import CALM, ParticleSet, Rung, Target, effective, log_mean_exp, systematic

_BANK_ESS = 4  # effective samples of a bank for each particle; fewer look more than they are
_GUIDED_START = 0.1  # of a quarter turn: trajectories' first leap, which the first rung's acceptance corrects


class First(NamedTuple):
    """M plain samples that are scored already, for one run. noise: M×C×H×W. condition: M int64 or None. scores: M."""

    noise: Tensor
    condition: Tensor | None
    scores: Tensor


@dataclass
class _Run:
    """One group on its way."""

    index: int
    generator: torch.Generator
    walkers: Walkers
    ancestors: Tensor
    copies: Tensor
    kin: Tensor
    before: Tensor = field(default_factory=lambda: torch.empty(0))  # the scores that a rung's moves set out from
    beta: float = 0.0
    log_z: float = 0.0
    stride: float = 1.0  # at β = 0 fresh noise is always accepted
    ess: float = math.inf
    least_ess: float = math.inf
    rungs: list[Rung] = field(default_factory=list)
    score_calls: int = 0
    nonfinite: int = 0
    done: bool = False
    note: str = ""

    def stop(self, note: str = "") -> None:
        self.done, self.note = True, note


def noise_smc(
    prior: Prior, score: Score, target: Target, generators: Sequence[torch.Generator], *, particles: int = 64,
    steps: int = 8, moves: int = 4, settle: int = 0, leaps: int = 0, ess: float = 0.7,
    first: Sequence[First] | None = None, max_rungs: int = 40, batch: int = 256,
    on_step: Callable[[int, list[float]], None] | None = None,
) -> list[ParticleSet]:  # fmt: skip
    """N equally weighted particles of the tilt q_β ∝ p·exp(β s), p the law of `generate` with `steps` steps.

    Each generator is one independent run (an island, or a unit of its own); runs share batches and nothing else, and a
    run that has arrived is not evaluated any more. β = 0 gives noise_like(prior, [generator] * particles) unchanged.
    A run takes N scores for the first generation, which a bank saves, and at most N·moves·(leaps + 1) at each rung
    (N·moves without leaps; a quarter of N·moves more where the prior has conditions), 1 + settle times as many where the
    particles do not settle.

    Args:
        target: where to stop. The last step is solved on the reweighted particles, so `mean` and `nats` are met there;
            the cloud's own are measured after its last moves and differ by Monte Carlo error.
        generators: on the CPU, one per run.
        settle: how many times more a rung's moves are made while its scores correlate by more than `CALM` with those before.
        leaps: the most gradients that a move follows, see `NoiseSpace`; 0 for a score that is a black box.
        ess: in (0, 1); a step to a higher β keeps this share of the particles effective.
        first: start each run from such samples of the same prior and `steps` rather than from new ones, as many in each;
            runs that share samples share their error, which the spread of the runs does not show. Their rung goes as deep
            as four times `particles` effective samples allow.
        batch: the most pictures made and scored at once.
        on_step: told the number of the rung and the β of every run after each rung.

    Returns:
        One cloud per generator. A target that was not reached has `reached` False, with what was in the way in `note`;
        the cloud is then a valid one of the β it did reach. Scores that are not finite have weight 0.

    Raises:
        UserError: arguments out of range, a bank of other shapes, or a score that is not one number per picture.
    """
    if min(particles, moves, steps, max_rungs, batch) < 1 or min(leaps, settle) < 0 or not 0 < ess < 1:
        raise UserError(
            "noise-space SMC needs particles, moves, steps, max_rungs and batch of at least 1, leaps and settle of at least 0 "
            f"and an ess between 0 and 1, got {particles}, {moves}, {steps}, {max_rungs}, {batch}, {leaps}, {settle} and {ess}"
        )
    space = NoiseSpace(prior, score, steps, batch, leaps)
    runs = _from_bank(prior, generators, first, particles) if first else _from_noise(space, generators, particles)
    for number in range(1, max_rungs + 1):
        moving = _reweight([run for run in runs if not run.done], target, particles, ess, leaps)
        if not moving:
            break
        _move(space, moving, moves)
        for _ in range(settle):
            if not (restless := [run for run in moving if not run.note and run.rungs[-1].memory > CALM]):
                break
            _move(space, restless, moves, again=True)
        if on_step is not None:
            on_step(number, [run.beta for run in runs])
    for run in runs:
        if not run.done:
            run.stop(f"{target} was not reached in {max_rungs} rungs")
    return [_cloud(run, steps, particles) for run in runs]


def _from_noise(space: NoiseSpace, generators: Sequence[torch.Generator], count: int) -> list[_Run]:
    rows = [g for generator in generators for g in [generator] * count]
    z, condition = noise_like(space.prior, rows), draw_conditions(space.prior, rows)
    group = torch.arange(len(generators), device=z.device).repeat_interleave(count)
    everyone = Walkers(z, condition, space.scores(z, condition, group))
    number = torch.arange(count)
    return [
        _begun(_Run(i, generator, everyone.at(number + i * count), number, number, number, score_calls=count))
        for i, generator in enumerate(generators)
    ]


def _from_bank(prior: Prior, generators: Sequence[torch.Generator], first: Sequence[First], count: int) -> list[_Run]:
    m = len(first[0].noise) if first else 0
    for given in first:
        if (
            len(first) != len(generators)
            or given.noise.shape != (m, *prior.shape)
            or given.scores.shape != (m,)
            or (given.condition is None) != (not prior.conditions)
            or m < count
        ):
            raise UserError(
                f"first samples are one set for each of the {len(generators)} runs, of as many each and at least {count}: "
                f"M×{'×'.join(map(str, prior.shape))} noise, {'M' if prior.conditions else 'no'} conditions and M scores; "
                f"got {len(first)} sets, one of them {tuple(given.noise.shape)}, "
                f"{None if given.condition is None else len(given.condition)} and {tuple(given.scores.shape)}"
            )
    number, runs = torch.arange(m), []
    for i, (generator, given) in enumerate(zip(generators, first)):
        scores = given.scores.detach().double().cpu()
        condition = None if given.condition is None else given.condition.to(prior.device)
        walkers = Walkers(given.noise.to(prior.device), condition, torch.where(scores.isfinite(), scores, -math.inf))
        runs.append(_begun(_Run(i, generator, walkers, number, number, number)))
    return runs


def _begun(run: _Run) -> _Run:
    """The first generation is the rung at β = 0, unless too few of its scores are finite to go on."""
    s = run.walkers.scores
    alive = int(s.isfinite().sum())
    run.nonfinite += len(s) - alive
    run.rungs.append(Rung(0.0, 0.0, s[s.isfinite()], math.nan, float(alive), math.nan))
    run.least_ess = float(alive)
    if 2 * alive < len(s):
        run.stop(f"{len(s) - alive} of the {len(s)} scores of the prior's own samples are not finite")
    return run


# --- to a higher β ----------------------------------------------------------------------------------------------------


def _reweight(runs: list[_Run], target: Target, count: int, ess: float, leaps: int) -> list[_Run]:
    """Take each run as far as its particles carry it, and resample it there; the runs that got anywhere.

    A run may have arrived by that, and is done but for its last moves.
    """
    if not runs:
        return []
    scores = torch.stack([run.walkers.scores for run in runs])  # R×M
    beta = torch.tensor([run.beta for run in runs], dtype=torch.float64)
    log_z = torch.tensor([run.log_z for run in runs], dtype=torch.float64)
    least = (ess * scores.isfinite().sum(1).double()).clamp(max=_BANK_ESS * count)
    step, arrived, stuck = _step(scores, beta, log_z, least, target)
    log_w, gain = _log_weights(scores, step), _log_gain(scores, step)
    went = []
    for i, run in enumerate(runs):
        if stuck[i]:
            run.stop(_obstacle(run, target))
        elif arrived[i]:
            run.stop()
        if step[i] == 0:  # there already, or as far as it goes: the particles stay as they are
            continue
        uniform = torch.rand(1, generator=run.generator, dtype=torch.float64)
        picks = systematic(log_w[i : i + 1], uniform, count)[0]
        if len(run.rungs) == 1:  # no move was made yet
            run.stride = _GUIDED_START if leaps else _first_stride(scores[i], float(step[i]), picks)
        run.log_z += float(gain[i])
        # The target itself where it was said as β, free of rounding.
        run.beta = target.beta if arrived[i] and target.beta is not None else run.beta + float(step[i])
        run.ess = float(effective(log_w[i]))
        run.least_ess = min(run.least_ess, run.ess)
        run.walkers = run.walkers.at(picks)
        run.ancestors, run.copies, run.kin = run.ancestors[picks], run.copies[picks], picks
        went.append(run)
    return went


def _step(
    scores: Tensor, beta: Tensor, log_z: Tensor, least: Tensor, target: Target
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """How much to add to β: R steps, whether they arrive at the target, and whether there is no way to it.

    With equal weights before, the ESS of weights exp(Δ s) falls with Δ while the reweighted mean and KL rise, so
    bisection finds each of them.
    """
    gap = scores.amax(1, keepdim=True) - scores
    nearest = torch.where(gap > 0, gap, math.inf).amin(1)  # from the highest score to the next
    # Here only particles of the highest score have any weight left, since exp(-800) is 0.
    furthest = torch.where(nearest.isfinite(), (800 / nearest).clamp(max=1e18), 0.0)
    ceiling = effective(_log_weights(scores, furthest)) >= least
    reach = _root(lambda step: least - effective(_log_weights(scores, step)), furthest)
    if target.beta is not None:
        rest = target.beta - beta
        step = torch.where(ceiling, math.inf, reach).minimum(rest)
        return step, step >= rest, torch.zeros_like(ceiling)

    def excess(step: Tensor) -> Tensor:
        mean = (_log_weights(scores, step).softmax(1) * torch.where(scores.isfinite(), scores, 0.0)).sum(1)
        if target.mean is not None:
            return mean - target.mean
        kl = (beta + step) * mean - log_z - _log_gain(scores, step)
        return torch.where(beta + step > 0, kl, 0.0) - (target.nats or 0.0)

    here, there = excess(torch.zeros_like(beta)) >= 0, excess(reach) >= 0
    stuck = ceiling & ~there & ~here
    step = torch.where(here | stuck, 0.0, torch.where(there, _root(excess, reach), reach))
    return step, here | there, stuck


def _log_weights(scores: Tensor, step: Tensor) -> Tensor:
    """Δ·(s - max s), R×M: 0 for the highest score, -inf where the score is."""
    return torch.where(scores.isfinite(), step[:, None] * (scores - scores.amax(1, keepdim=True)), -math.inf)


def _log_gain(scores: Tensor, step: Tensor) -> Tensor:
    """log mean exp(Δ s), by which log Z grows."""
    return log_mean_exp(_log_weights(scores, step)) + step * scores.amax(1)


def _root(excess: Callable[[Tensor], Tensor], high: Tensor) -> Tensor:
    """The least step in [0, high] at which what grows with it is not negative; high where it never is."""
    low = torch.zeros_like(high)
    for _ in range(110):  # halves 1e18 to 1e-15
        middle = (low + high) / 2
        above = excess(middle) >= 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _obstacle(run: _Run, target: Target) -> str:
    s = run.walkers.scores
    best = float(s.max())
    share = int((s == best).sum())
    if len(run.copies.unique()) < len(s) / 2:
        return f"{target} is out of reach: the particles are copies of one another and no move was accepted any more"
    return f"{target} is out of reach: {share} of {len(s)} particles have the same highest score of {best:.6g}"


def _first_stride(bank_scores: Tensor, beta: float, picks: Tensor) -> float:
    """The stride at a bank's rung: how often fresh noise (δ = 1) would be accepted there can be told from the bank."""
    fresh = torch.where(bank_scores.isfinite(), bank_scores, -math.inf)[:4096]
    acceptance = (beta * (fresh - bank_scores[picks][:, None])).clamp(max=0).exp().mean()
    return float(next_stride(torch.ones((), dtype=torch.float64), acceptance))


# --- moves ------------------------------------------------------------------------------------------------------------


def _move(space: NoiseSpace, runs: list[_Run], moves: int, again: bool = False) -> None:
    """Move the particles at their β, then set each run's next stride by how often that was accepted.

    again: these are more moves of the rung that there is.
    """
    n = len(runs[0].walkers.scores)
    condition = None
    if space.prior.conditions:
        condition = torch.cat([run.walkers.condition for run in runs if run.walkers.condition is not None])
    walkers = Walkers(
        torch.cat([run.walkers.z for run in runs]), condition, torch.cat([run.walkers.scores for run in runs])
    )
    beta = torch.tensor([run.beta for run in runs], dtype=torch.float64).repeat_interleave(n)
    stride = torch.tensor([run.stride for run in runs], dtype=torch.float64)
    groups, generators = [run.index for run in runs], [run.generator for run in runs]
    accepted, lost, spent = torch.zeros(3, len(runs), dtype=torch.float64)
    if not again:
        for run in runs:
            run.before = run.walkers.scores
    for _ in range(moves):
        walkers, walked, recast, calls, nonfinite = space.move(
            walkers, beta, stride.repeat_interleave(n), groups, generators
        )
        accepted += walked.reshape(-1, n).double().sum(1)
        lost += nonfinite.reshape(-1, n).sum(1)
        spent += calls.reshape(-1, n).sum(1)
        for run, new in zip(runs, (walked | recast).reshape(-1, n)):
            # A number that none has had: copies are told apart by their first accepted move.
            run.copies = torch.where(new, run.copies.max() + 1 + torch.arange(n), run.copies)
    acceptance = accepted / (moves * n)
    strides = next_stride(stride, acceptance, GUIDED if space.leaps else BLIND)
    for i, run in enumerate(runs):
        run.walkers = walkers.at(torch.arange(i * n, (i + 1) * n))
        run.stride = float(strides[i])
        run.nonfinite += int(lost[i])
        run.score_calls += int(spent[i])
        memory = _memory(run.before, run.walkers.scores)
        run.rungs[-1 if again else len(run.rungs) :] = [
            Rung(run.beta, run.log_z, run.walkers.scores, float(acceptance[i]), run.ess, memory)
        ]
        if 2 * lost[i] > spent[i] and not run.done:
            run.stop(f"{int(lost[i])} of {int(spent[i])} scores at β = {run.beta:.4g} were not finite")


def _memory(before: Tensor, after: Tensor) -> float:
    """Correlation of the scores before and after the moves; 1 where all are the same, NaN where there are too few."""
    both = torch.stack([before, after])[:, before.isfinite() & after.isfinite()]
    if both.shape[1] < 3:
        return math.nan
    return float(both.corrcoef()[0, 1]) if bool((both.std(1) > 0).all()) else 1.0


def _cloud(run: _Run, steps: int, count: int) -> ParticleSet:
    walkers, ancestors, copies, kin = run.walkers, run.ancestors, run.copies, run.kin
    alive = walkers.scores.isfinite()
    log_w = torch.where(alive, 0.0, -math.inf).double() - math.log(max(int(alive.sum()), 1))
    if len(log_w) != count:  # a bank that no rung was taken from
        uniform = torch.rand(1, generator=run.generator, dtype=torch.float64)
        picks = systematic(log_w[None], uniform, count)[0]
        walkers, ancestors, copies, kin = walkers.at(picks), ancestors[picks], copies[picks], kin[picks]
        log_w = torch.full((count,), -math.log(count), dtype=torch.float64)
    cloud = ParticleSet(
        walkers.z, walkers.condition, steps, walkers.scores, log_w, run.beta, run.log_z, tuple(run.rungs), ancestors,
        copies, kin, run.least_ess, steps * run.score_calls, run.score_calls, run.nonfinite, not run.note, run.note,
    )  # fmt: skip
    if run.note:
        came = f"; the run came to a mean of {cloud.mean:.4g} at {cloud.kl:.4g} nats (β = {cloud.beta:.4g})"
        cloud = replace(cloud, note=run.note + came)
    return cloud
