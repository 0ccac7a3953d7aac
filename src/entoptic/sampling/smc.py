"""Sequential Monte Carlo in noise space: samples of the exact tilt of a few-step generator, with log Z.

Particles start as samples of the prior. At each rung they are reweighted to a higher β, resampled, and moved by Markov
kernels that leave the tilt at that β invariant (SMC samplers; Del Moral, Doucet & Jasra 2006). The product of the mean
weights estimates Z(β) = E_p[exp(β s)]. The rungs, the strides and the number of moves are adapted to the particles.
The estimates stay consistent; the adaptation costs a bias of order 1/N (Beskos et al. 2016), which is below the
standard error of order 1/√N. The score may be any function of the picture.
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
from entoptic.sampling.noise_space import HMC_ACCEPTANCE, PCN_ACCEPTANCE, NoiseSpace, Walkers, next_stride
from entoptic.sampling.particles import (
    AUTOCORRELATION_TARGET,
    ParticleSet,
    Rung,
    TiltTarget,
    effective_sample_size,
    log_mean_exp,
    resample_systematically,
)

# Effective samples of a bank that must remain for each particle. With fewer, resampling makes too many copies.
_BANK_ESS = 4
# First leapfrog angle, as a share of a quarter turn; it is adapted after the first rung.
_HMC_FIRST_STRIDE = 0.1


class ScoredSamples(NamedTuple):
    """M samples of the prior that are scored already, to start one island from.

    Attributes:
        noise: M×C×H×W.
        condition: M int64, or None where the prior has no conditions.
        scores: M.
    """

    noise: Tensor
    condition: Tensor | None
    scores: Tensor


@dataclass
class _Island:
    """The state of one independent run.

    Attributes:
        index: group number that the score is called with.
        walkers: the particles.
        ancestors, copies, lineage: see `ParticleSet`.
        before: scores at the start of the current rung's moves.
        stride: see `NoiseSpace.move`; at β = 0 any stride is accepted.
        ess: effective sample size at the current rung, before resampling.
        done: no further rung follows.
        note: why the target cannot be reached; "" otherwise.
    """

    index: int
    generator: torch.Generator
    walkers: Walkers
    ancestors: Tensor
    copies: Tensor
    lineage: Tensor
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    beta: float = 0.0
    log_z: float = 0.0
    stride: float = 1.0
    ess: float = math.inf
    least_ess: float = math.inf
    rungs: list[Rung] = field(default_factory=list)
    score_calls: int = 0
    nonfinite: int = 0
    done: bool = False
    note: str = ""

    def stop(self, note: str = "") -> None:
        """Ends the island after its last moves; `note` gives the reason if the target was not reached."""
        self.done, self.note = True, note


def noise_smc(
    prior: Prior, score: Score, target: TiltTarget, generators: Sequence[torch.Generator], *, particles: int = 64,
    steps: int = 8, moves: int = 4, settle: int = 0, leaps: int = 0, ess: float = 0.7,
    first: Sequence[ScoredSamples] | None = None, max_rungs: int = 40, batch: int = 256,
    on_step: Callable[[int, list[float]], None] | None = None,
) -> list[ParticleSet]:  # fmt: skip
    """Samples the tilt q_β ∝ p·exp(β s) with N equally weighted particles; p is the distribution of `generate`.

    Each generator gives one independent island. Islands share batches and nothing else, and an island at its target is
    not evaluated any more. At β = 0 the states are noise_like(prior, [generator] * particles) unchanged.

    Cost of an island: N scores for the first generation (none if `first` is given) and at most N·moves·(leaps + 1) at
    each rung (N·moves if leaps = 0; a quarter of N·moves more if the prior has conditions). Where the particles do not
    settle, the moves cost up to 1 + settle times as much.

    Args:
        prior: the generative model.
        score: s, called with pictures and the island's number.
        target: the tilt to stop at. A target of `mean` or `nats` is solved on the reweighted particles. The returned
            mean and KL are measured after the last moves and differ from it by Monte Carlo error.
        generators: one for each island, on the CPU.
        particles: N of each island, ≥ 1.
        steps: steps of `generate`, ≥ 1.
        moves: moves of every particle at each rung, ≥ 1.
        settle: how many times the moves of a rung are repeated, at most, while the correlation of the scores before and
            after them is above `AUTOCORRELATION_TARGET`; ≥ 0.
        leaps: maximum number of gradients per move, see `NoiseSpace`; 0 for a score without gradients.
        ess: in (0, 1); a step to a higher β keeps this share of the particles effective.
        first: one set of scored samples of the same prior and `steps` for each island, to start from instead of new
            samples. Islands that share samples share their error, and the spread of the islands does not show it. The
            first step of β goes as far as 4·N effective samples allow.
        max_rungs: maximum number of rungs, ≥ 1.
        batch: maximum number of pictures that are made and scored at once, ≥ 1.
        on_step: called after each rung with its number and the β of every island.

    Returns:
        One particle set for each generator. If the target was not reached, `reached` is False, `note` gives the reason,
        and the particles are valid samples of the tilt at their `beta`. Scores that are not finite have weight 0.

    Raises:
        UserError: arguments out of range, `first` of other shapes, or a score that is not one number per picture.
    """
    if min(particles, moves, steps, max_rungs, batch) < 1 or min(leaps, settle) < 0 or not 0 < ess < 1:
        raise UserError(
            "noise-space SMC needs particles, moves, steps, max_rungs and batch of at least 1, leaps and settle of at least 0 "
            f"and an ess between 0 and 1, got {particles}, {moves}, {steps}, {max_rungs}, {batch}, {leaps}, {settle} and {ess}"
        )
    space = NoiseSpace(prior, score, steps, batch, leaps)
    islands = _from_bank(prior, generators, first, particles) if first else _from_noise(space, generators, particles)
    for number in range(1, max_rungs + 1):
        advanced = _reweight([island for island in islands if not island.done], target, particles, ess, leaps)
        if not advanced:
            break
        _move(space, advanced, moves)
        for _ in range(settle):
            if not (
                unsettled := [
                    island
                    for island in advanced
                    if not island.note and island.rungs[-1].score_autocorrelation > AUTOCORRELATION_TARGET
                ]
            ):
                break
            _move(space, unsettled, moves, again=True)
        if on_step is not None:
            on_step(number, [island.beta for island in islands])
    for island in islands:
        if not island.done:
            island.stop(f"{target} was not reached in {max_rungs} rungs")
    return [_particle_set(island, steps, particles) for island in islands]


def _from_noise(space: NoiseSpace, generators: Sequence[torch.Generator], count: int) -> list[_Island]:
    """Starts each island from `count` new samples of the prior."""
    rows = [g for generator in generators for g in [generator] * count]
    z, condition = noise_like(space.prior, rows), draw_conditions(space.prior, rows)
    group = torch.arange(len(generators), device=z.device).repeat_interleave(count)
    everyone = Walkers(z, condition, space.scores(z, condition, group))
    number = torch.arange(count)
    return [
        _add_first_rung(
            _Island(i, generator, everyone.at(number + i * count), number, number, number, score_calls=count)
        )
        for i, generator in enumerate(generators)
    ]


def _from_bank(
    prior: Prior, generators: Sequence[torch.Generator], first: Sequence[ScoredSamples], count: int
) -> list[_Island]:
    """Starts each island from its own set of scored samples.

    Raises:
        UserError: sets of other shapes, or fewer samples than `count`.
    """
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
    number, islands = torch.arange(m), []
    for i, (generator, given) in enumerate(zip(generators, first)):
        scores = given.scores.detach().double().cpu()
        condition = None if given.condition is None else given.condition.to(prior.device)
        walkers = Walkers(given.noise.to(prior.device), condition, torch.where(scores.isfinite(), scores, -math.inf))
        islands.append(_add_first_rung(_Island(i, generator, walkers, number, number, number)))
    return islands


def _add_first_rung(island: _Island) -> _Island:
    """Records the first generation as the rung at β = 0; stops the island if fewer than half of its scores are finite."""
    s = island.walkers.scores
    alive = int(s.isfinite().sum())
    island.nonfinite += len(s) - alive
    island.rungs.append(Rung(0.0, 0.0, s[s.isfinite()], math.nan, float(alive), math.nan))
    island.least_ess = float(alive)
    if 2 * alive < len(s):
        island.stop(f"{len(s) - alive} of the {len(s)} scores of the prior's own samples are not finite")
    return island


# --- reweighting to a higher β ----------------------------------------------------------------------------------------


def _reweight(islands: list[_Island], target: TiltTarget, count: int, ess: float, leaps: int) -> list[_Island]:
    """Takes each island to the highest β that its particles support, and resamples it there.

    Returns:
        The islands whose β rose. They still have to be moved; those at their target are marked done.
    """
    if not islands:
        return []
    scores = torch.stack([island.walkers.scores for island in islands])  # R×M
    beta = torch.tensor([island.beta for island in islands], dtype=torch.float64)
    log_z = torch.tensor([island.log_z for island in islands], dtype=torch.float64)
    least = (ess * scores.isfinite().sum(1).double()).clamp(max=_BANK_ESS * count)
    step, arrived, stuck = _solve_step(scores, beta, log_z, least, target)
    log_w, gain = _log_weights(scores, step), _log_z_gain(scores, step)
    advanced = []
    for i, island in enumerate(islands):
        if stuck[i]:
            island.stop(_why_stuck(island, target))
        elif arrived[i]:
            island.stop()
        if step[i] == 0:  # at the target already, or stuck: the particles stay as they are
            continue
        uniform = torch.rand(1, generator=island.generator, dtype=torch.float64)
        picks = resample_systematically(log_w[i : i + 1], uniform, count)[0]
        if len(island.rungs) == 1:  # no move has been made yet
            island.stride = _HMC_FIRST_STRIDE if leaps else _first_stride(scores[i], float(step[i]), picks)
        island.log_z += float(gain[i])
        # A target given as β is copied, so that it has no rounding error.
        island.beta = target.beta if arrived[i] and target.beta is not None else island.beta + float(step[i])
        island.ess = float(effective_sample_size(log_w[i]))
        island.least_ess = min(island.least_ess, island.ess)
        island.walkers = island.walkers.at(picks)
        island.ancestors, island.copies, island.lineage = island.ancestors[picks], island.copies[picks], picks
        advanced.append(island)
    return advanced


def _solve_step(
    scores: Tensor, beta: Tensor, log_z: Tensor, least: Tensor, target: TiltTarget
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Finds the step Δ to add to β for R islands.

    With equal weights, the effective sample size of the weights exp(Δ s) falls with Δ, while the reweighted mean and KL
    rise. So each condition is solved by bisection.

    Args:
        scores: R×M, -inf where not finite.
        beta: R, current β.
        log_z: R, current log Z.
        least: R, effective sample size that must remain.
        target: where to stop.

    Returns:
        Δ (R float64), whether it ends at the target (R bool), whether the target cannot be reached (R bool).
    """
    gap = scores.amax(1, keepdim=True) - scores
    nearest = torch.where(gap > 0, gap, math.inf).amin(1)  # from the highest score to the next
    # At this step only particles of the highest score have any weight, since exp(-800) rounds to 0.
    furthest = torch.where(nearest.isfinite(), (800 / nearest).clamp(max=1e18), 0.0)
    ceiling = effective_sample_size(_log_weights(scores, furthest)) >= least
    furthest_by_ess = _bisect(lambda step: least - effective_sample_size(_log_weights(scores, step)), furthest)
    if target.beta is not None:
        rest = target.beta - beta
        step = torch.where(ceiling, math.inf, furthest_by_ess).minimum(rest)
        return step, step >= rest, torch.zeros_like(ceiling)

    def excess(step: Tensor) -> Tensor:
        mean = (_log_weights(scores, step).softmax(1) * torch.where(scores.isfinite(), scores, 0.0)).sum(1)
        if target.mean is not None:
            return mean - target.mean
        kl = (beta + step) * mean - log_z - _log_z_gain(scores, step)
        return torch.where(beta + step > 0, kl, 0.0) - (target.nats or 0.0)

    here, there = excess(torch.zeros_like(beta)) >= 0, excess(furthest_by_ess) >= 0
    stuck = ceiling & ~there & ~here
    step = torch.where(here | stuck, 0.0, torch.where(there, _bisect(excess, furthest_by_ess), furthest_by_ess))
    return step, here | there, stuck


def _log_weights(scores: Tensor, step: Tensor) -> Tensor:
    """Returns Δ·(s - max s), R×M: 0 for the highest score, -inf where the score is -inf."""
    return torch.where(scores.isfinite(), step[:, None] * (scores - scores.amax(1, keepdim=True)), -math.inf)


def _log_z_gain(scores: Tensor, step: Tensor) -> Tensor:
    """Returns log mean exp(Δ s), R: the increase of log Z."""
    return log_mean_exp(_log_weights(scores, step)) + step * scores.amax(1)


def _bisect(excess: Callable[[Tensor], Tensor], high: Tensor) -> Tensor:
    """Returns the smallest step in [0, high] at which `excess`, which grows with the step, is ≥ 0; `high` if there is none."""
    low = torch.zeros_like(high)
    for _ in range(110):  # halves 1e18 to 1e-15
        middle = (low + high) / 2
        above = excess(middle) >= 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high


def _why_stuck(island: _Island, target: TiltTarget) -> str:
    """Returns the reason why the island cannot reach the target."""
    s = island.walkers.scores
    best = float(s.max())
    share = int((s == best).sum())
    if len(island.copies.unique()) < len(s) / 2:
        return f"{target} is out of reach: the particles are copies of one another and no move was accepted any more"
    return f"{target} is out of reach: {share} of {len(s)} particles have the same highest score of {best:.6g}"


def _first_stride(bank_scores: Tensor, beta: float, picks: Tensor) -> float:
    """Returns the stride of the first rung of an island that starts from a bank.

    The acceptance of fresh noise (δ = 1) at this β is estimated from the scores of the bank.
    """
    fresh = torch.where(bank_scores.isfinite(), bank_scores, -math.inf)[:4096]
    acceptance = (beta * (fresh - bank_scores[picks][:, None])).clamp(max=0).exp().mean()
    return float(next_stride(torch.ones((), dtype=torch.float64), acceptance))


# --- moves ------------------------------------------------------------------------------------------------------------


def _move(space: NoiseSpace, islands: list[_Island], moves: int, again: bool = False) -> None:
    """Moves the particles at their β, records the rung, and adapts each island's stride to the acceptance.

    Args:
        moves: number of moves of each particle.
        again: these are further moves of the current rung, whose record is replaced.
    """
    n = len(islands[0].walkers.scores)
    condition = None
    if space.prior.conditions:
        condition = torch.cat([island.walkers.condition for island in islands if island.walkers.condition is not None])
    walkers = Walkers(
        torch.cat([island.walkers.z for island in islands]),
        condition,
        torch.cat([island.walkers.scores for island in islands]),
    )
    beta = torch.tensor([island.beta for island in islands], dtype=torch.float64).repeat_interleave(n)
    stride = torch.tensor([island.stride for island in islands], dtype=torch.float64)
    groups, generators = [island.index for island in islands], [island.generator for island in islands]
    accepted, lost, spent = torch.zeros(3, len(islands), dtype=torch.float64)
    if not again:
        for island in islands:
            island.before = island.walkers.scores
    for _ in range(moves):
        walkers, walked, condition_changed, calls, nonfinite = space.move(
            walkers, beta, stride.repeat_interleave(n), groups, generators
        )
        accepted += walked.reshape(-1, n).double().sum(1)
        lost += nonfinite.reshape(-1, n).sum(1)
        spent += calls.reshape(-1, n).sum(1)
        for island, new in zip(islands, (walked | condition_changed).reshape(-1, n)):
            # A new number for each particle that moved: from now on it is no copy of another one.
            island.copies = torch.where(new, island.copies.max() + 1 + torch.arange(n), island.copies)
    acceptance = accepted / (moves * n)
    strides = next_stride(stride, acceptance, HMC_ACCEPTANCE if space.leaps else PCN_ACCEPTANCE)
    for i, island in enumerate(islands):
        island.walkers = walkers.at(torch.arange(i * n, (i + 1) * n))
        island.stride = float(strides[i])
        island.nonfinite += int(lost[i])
        island.score_calls += int(spent[i])
        score_autocorrelation = _score_autocorrelation(island.before, island.walkers.scores)
        island.rungs[-1 if again else len(island.rungs) :] = [
            Rung(
                island.beta,
                island.log_z,
                island.walkers.scores,
                float(acceptance[i]),
                island.ess,
                score_autocorrelation,
            )
        ]
        if 2 * lost[i] > spent[i] and not island.done:
            island.stop(f"{int(lost[i])} of {int(spent[i])} scores at β = {island.beta:.4g} were not finite")


def _score_autocorrelation(before: Tensor, after: Tensor) -> float:
    """Returns the correlation of the scores before and after the moves; 1 if all are equal, NaN for fewer than 3 scores."""
    both = torch.stack([before, after])[:, before.isfinite() & after.isfinite()]
    if both.shape[1] < 3:
        return math.nan
    return float(both.corrcoef()[0, 1]) if bool((both.std(1) > 0).all()) else 1.0


def _particle_set(island: _Island, steps: int, count: int) -> ParticleSet:
    """Returns the finished island as `count` weighted particles."""
    walkers, ancestors, copies, lineage = island.walkers, island.ancestors, island.copies, island.lineage
    alive = walkers.scores.isfinite()
    log_w = torch.where(alive, 0.0, -math.inf).double() - math.log(max(int(alive.sum()), 1))
    if len(log_w) != count:  # β is still 0: draw `count` of the bank's samples
        uniform = torch.rand(1, generator=island.generator, dtype=torch.float64)
        picks = resample_systematically(log_w[None], uniform, count)[0]
        walkers, ancestors, copies, lineage = walkers.at(picks), ancestors[picks], copies[picks], lineage[picks]
        log_w = torch.full((count,), -math.log(count), dtype=torch.float64)
    particle_set = ParticleSet(
        states=walkers.z,
        condition=walkers.condition,
        steps=steps,
        scores=walkers.scores,
        log_weights=log_w,
        beta=island.beta,
        log_z=island.log_z,
        rungs=tuple(island.rungs),
        ancestors=ancestors,
        copies=copies,
        lineage=lineage,
        least_ess=island.least_ess,
        denoise_calls=steps * island.score_calls,
        score_calls=island.score_calls,
        nonfinite=island.nonfinite,
        reached=not island.note,
        note=island.note,
    )
    if island.note:
        came = f"; the run came to a mean of {particle_set.mean:.4g} at {particle_set.kl:.4g} nats (β = {particle_set.beta:.4g})"
        particle_set = replace(particle_set, note=island.note + came)
    return particle_set
