"""KLSC: pictures from the distribution nearest to a prior among those of the same mean score (arXiv:2605.17504).

That distribution is the tilt q_β(x) ∝ p(x)·exp(β s(x)); nearest means the least KL divergence from p. Here p is the
distribution of the prior's few-step generator G(z). Sequential Monte Carlo in the space of the noise z is exact for it,
whatever the moves, because nothing is discretised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from entoptic.base.cache import pack, unpack
from entoptic.errors import OutOfReach, UserError
from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, Trace, failed, failed_by, method
from entoptic.methods.klsc_problem import Problem
from entoptic.methods.prior_sampling import MAP_STEPS, UNITS, as_shown, island_generators, scored_bank, units_of

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.mbar import Ladder
    from entoptic.sampling.particles import ParticleSet
    from entoptic.sampling.sampled_distribution import SampledDistribution
    from entoptic.units.unit import Unit


_PATIENCE = 3  # how many times the moves of a rung are repeated where its scores are still autocorrelated


@dataclass(frozen=True, kw_only=True)
class Klsc(MethodConfig):
    """KLSC, samples of a prior tilted by the unit at the least cost in nats.

    Give one of `nats`, `mean`, `share` and `beta`; none is a budget of 4 nats. Scores are counted in standard deviations
    of the prior's own samples. All samples of a unit are one draw without replacement from one population.
    """

    nats: float | None = None
    """KL divergence from the prior to spend (default: 4 where none of the others is given)"""
    mean: float | None = None
    """mean score to reach, in standard deviations above that of the prior"""
    share: float | None = None
    """reach the mean score of this strongest share of the prior's samples, such as 0.001"""
    beta: float | None = None
    """strength β of the tilt exp(β s)"""
    particles: int = 16
    """particles of each island"""
    islands: int = 4
    """independent runs, which the intervals come from"""
    moves: int = 1
    """moves of every particle at each rung"""
    leaps: int = 16
    """the most gradients of the score that a move follows, fewer where the tilt is weak; 0: blind moves"""
    bank: int = 2048
    """samples of the prior that standardise the score and start the islands"""
    reduction: str = ""
    """score: "" for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""
    bound: float | None = None
    """s = bound·tanh(s/bound) in standard deviations, so that every β has a tilt"""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {n: v for n in ("nats", "mean", "share", "beta") if (v := getattr(self, n)) is not None}
        if len(given) > 1:
            raise UserError(f"klsc takes one of nats, mean, share and beta, got {' and '.join(given)}")
        for name, value in given.items():
            if not math.isfinite(value) or (name != "mean" and value < 0):
                raise UserError(f"{name} must be finite{'' if name == 'mean' else ' and at least 0'}, got {value}")
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"share must be above 0 and at most 1, got {self.share}")
        if self.bound is not None and not self.bound > 0:
            raise UserError(f"bound must be above 0, got {self.bound}")
        for name, least in (("particles", 12), ("islands", 1), ("moves", 1), ("leaps", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.bank < 4 * self.islands * self.particles:
            least = 4 * self.islands * self.particles
            raise UserError(f"a bank for {self.islands} islands of {self.particles} needs at least {least} samples")


@method("klsc", Klsc, paper="arXiv:2605.17504", units=UNITS, reads={"prior"})
def klsc(items: Sequence[Item], config: Klsc, context: Context) -> Iterator[Draft]:
    """Draws pictures from q_β by sequential Monte Carlo, without replacement from one population per unit."""
    import torch

    units, unit_indices = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction, bound=config.bound)
    seeds = {u: item.seed for item, u in zip(items, unit_indices)}
    for u, unit in enumerate(units):
        mine = [item for item, index in zip(items, unit_indices) if index == u]
        problem = Problem(
            unit=unit, place=u, bank=bank, scores=scores, raw=raw[u], config=config, seed=seeds[u], context=context
        )
        try:
            population = populate(problem)
        except (UserError, ArithmeticError, torch.OutOfMemoryError) as error:
            hint = "; --klsc.leaps 0 needs no gradients" if isinstance(error, torch.OutOfMemoryError) else ""
            for item in mine:
                yield failed_by(item, error, hint=hint)
            continue
        for item in mine:
            yield _draft_of_sample(item, population, context)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Samples of q_β of one unit, in the order in which they are drawn without replacement.

    Attributes:
        pictures: the samples, P×3×h×w uint8.
        ancestors: the pictures of the bank that the samples descend from by moves of their noise, P×3×h×w uint8; None where
            the samples are of the bank itself.
        scores: standardised, P float64.
        log_weights: of each sample among all N, P float64.
        distribution: q_β with its estimates.
        evaluations: samples scored beside the bank.
        supported: whether expectations are reported.
        notes: for people.
    """

    pictures: Tensor
    ancestors: Tensor | None
    scores: Tensor
    log_weights: Tensor
    distribution: SampledDistribution
    evaluations: int
    supported: bool
    notes: list[str]


def populate(problem: Problem) -> Population:
    """Returns samples of q_β of one unit. Results are cached.

    Raises:
        OutOfReach: the target is out of reach; the message names the reachable maximum.
    """
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution

    known = sampled(problem)
    record = unpack(known["record"])
    if "beyond" in record:
        raise OutOfReach(record["beyond"])
    moved = bool((known["ancestors"] >= 0).all())
    distribution = {"kind": Kind.TILT, "kl_is": KlIs.ESTIMATE} | record["law"]
    return Population(
        pictures=known["pictures"], ancestors=problem.bank.pictures[known["ancestors"]] if moved else None,
        scores=known["scores"], log_weights=known["log_weights"],
        distribution=SampledDistribution.from_json(distribution), evaluations=distribution["pictures_scored"],
        supported=distribution["supported"], notes=record["notes"],
    )  # fmt: skip


def ladders(problem: Problem) -> tuple[list[Ladder], str]:
    """Returns the scores at each rung of the islands, and why no expectation over their particles is reported.

    There are no ladders where the bank alone supports the target. The lowest rung of an island is its part of the bank.
    There are ladders also where the islands did not reach the target.

    Returns:
        One ladder for each island, and the reason, or "" where expectations are reported.
    """
    from entoptic.sampling.mbar import Ladder

    known = sampled(problem)
    betas, values = known["rung_betas"].tolist(), known["rung_scores"].split(known["rung_sizes"].tolist())
    starts = [i for i, beta in enumerate(betas) if beta == 0]
    record = unpack(known["record"])
    refused = record["beyond"] if "beyond" in record else record["law"].get("refused", "")
    return [Ladder(betas[a:b], values[a:b]) for a, b in zip(starts, [*starts[1:], len(betas)])], refused


def sampled(problem: Problem) -> dict[str, Tensor]:
    """Returns samples of q_β with their rungs, from the cache where they are there."""
    known = problem.remembered()
    if known is None:
        known = _sample(problem)
        problem.remember(known)
    return known


def _sample(problem: Problem) -> dict[str, Tensor]:
    """Samples q_β: from the bank where its effective sample size suffices, else with islands.

    Names of the paper: s the score, β the tilt's strength, q_β ∝ p·exp(β s). M counts the bank, P the samples.
    """
    import torch

    from entoptic.base.pixels import eight_bit
    from entoptic.priors.prior import map_steps
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.particles import (
        effective_sample_size,
        pooled_ess,
        pooled_log_weights,
        refusal,
        worst_autocorrelation,
    )
    from entoptic.sampling.tilt import draw_order, gumbel_noise, tilt

    unit, bank, config = problem.unit, problem.bank, problem.config
    prior, count = bank.prior, config.particles * config.islands
    s_M = problem.standardised
    target = _target(config, s_M)
    from_bank = Frontier.from_bank(s_M)
    point = _point(from_bank, target)
    islands: list[ParticleSet] = []
    frontier = from_bank
    if point is not None and point.ess >= max(100.0, count):
        tilted = tilt(s_M, point.beta.value)  # the bank supports this tilt as it is
        pictures, ancestors, s_P = (
            bank.pictures,
            torch.full((len(s_M),), -1),
            s_M,
        )  # nothing was moved, so that samples have no ancestors
        log_w, calls = tilted.weights.log(), 0
        notes = [f"drawn from the bank of {bank.size} samples of {prior.name} itself"]
    else:
        islands = _islands(problem, target)
        frontier = Frontier.from_ladders([_ladder(c) for c in islands])
        point = _point(frontier, target)
        if point is None:
            return {"record": pack({"beyond": _beyond(unit, frontier, islands)}), **_rungs(islands)}
        log_w = pooled_log_weights(islands, point.beta.value)
        s_P = torch.cat([c.scores for c in islands])
        part = bank.size // config.islands
        ancestors = torch.cat([c.ancestors + i * part for i, c in enumerate(islands)])
        made = [c.pictures(prior, torch.arange(len(c.scores))) for c in islands]
        pictures = (eight_bit(torch.cat(made)) * 255).round().byte().cpu()
        calls = sum(c.score_calls for c in islands)
        notes = [
            f"{config.islands} islands of {config.particles} particles, {len(islands[0].rungs) - 1} rungs, "
            f"{calls} samples scored beside a bank of {bank.size}; means and nats of so few particles lie low, by about .14 sd "
            "and .25 nats with 16 of them on a Gaussian mixture, which the intervals cover"
        ]
    if config.share is not None and (few := max(1, round(config.share * bank.size))) < 10:
        notes.append(
            f"the strongest {config.share:.3g} of the bank are {few} of its {bank.size} samples, whose mean is not well "
            "known; a larger `bank` gives a better estimate"
        )
    # The samples are those of the tilt by this β, so its KL divergence and mean are estimated at this β.
    point = frontier.at_beta(point.beta.value)
    first, joint = _distinct(pictures, log_w)
    ess = min(float(effective_sample_size(joint)), pooled_ess(islands, log_w) if islands else math.inf)
    order = first[
        draw_order(joint, 1.0, gumbel_noise(f"{problem.seed}|{unit.identity}", [str(i) for i in first.tolist()]))
    ]
    order = order[:count]  # a bank is large, and no more samples than particles are asked for
    pictures, ancestors, s_P, log_w = pictures[order], ancestors[order], s_P[order], log_w[order]
    refused = refusal(islands, ess, len(joint))
    record = {
        "law": "prior tilted by exp(β s)", "prior": prior.name, "N": len(first), "K": 1, "beta": point.beta.value,
        "nats": point.nats.value, "nats_interval": _interval(point.nats), "mean_in_sd": point.mean.value,
        "mean_in_sd_interval": _interval(point.mean),
        "mean": float(problem.scores.raw(torch.tensor(point.mean.value), problem.place)),
        "ess": ess, "islands": len(islands), "bank": bank.size,
        "generator_steps": map_steps(bank.prior, MAP_STEPS),
        "distinct_ancestors": len(ancestors.unique()) if islands else len(ancestors), "pictures_scored": calls,
        "acceptance": [round(r.acceptance, 3) for r in islands[0].rungs[1:]] if islands else [],
    }  # fmt: skip
    if islands:
        record["memory"] = worst_autocorrelation(islands)
    if refused:
        record |= {"nats": None, "nats_interval": None, "mean_in_sd": None, "mean": None, "refused": refused}
        notes.append(f"no expectation is reported: {refused}")
    if islands and point.nats.interval is None and "refused" not in record:
        record["refused"] = f"an interval needs at least 4 islands, and there are {len(islands)}"
    if config.bound is not None:  # the mean of a bounded score is not that of the score
        record["mean"] = None
    record["supported"] = not refused
    return {
        "pictures": pictures, "ancestors": ancestors, "scores": s_P.double(), "log_weights": log_w.double(),
        "record": pack({"law": record, "notes": notes}), **_rungs(islands),
    }  # fmt: skip


def _rungs(islands: Sequence[ParticleSet]) -> dict[str, Tensor]:
    """The ladders of all islands, one behind the other, for the cache."""
    import torch

    found = [
        (beta, s) for island in islands for ladder in [_ladder(island)] for beta, s in zip(ladder.betas, ladder.scores)
    ]
    return {
        "rung_betas": torch.tensor([beta for beta, _ in found], dtype=torch.float64),
        "rung_sizes": torch.tensor([len(s) for _, s in found], dtype=torch.int64),
        "rung_scores": torch.cat([s for _, s in found]) if found else torch.empty(0, dtype=torch.float64),
    }


def _target(config: Klsc, s_M: Tensor) -> Any:
    """The target of the tilt that the config asks for."""
    from entoptic.sampling.particles import TiltTarget
    from entoptic.sampling.tilt import top_share_mean

    if config.share is not None:
        return TiltTarget(mean=top_share_mean(s_M, config.share))
    if config.mean is not None:
        return TiltTarget(mean=config.mean)
    if config.beta is not None:
        return TiltTarget(beta=config.beta)
    return TiltTarget(nats=4.0 if config.nats is None else config.nats)


def _point(frontier: Frontier, target: Any) -> Any:
    """The point of a frontier that the target asks for, or None where the frontier's scores do not reach it."""
    try:
        if target.mean is not None:
            return frontier.at_mean(target.mean)
        return frontier.at_beta(target.beta) if target.beta is not None else frontier.at_nats(target.nats)
    except UserError:
        return None


def _islands(problem: Problem, target: Any) -> list[ParticleSet]:
    """Runs the islands. Each starts from its own part of the bank, so that they are independent."""
    import torch

    from entoptic.sampling.bank import batch_size_for
    from entoptic.sampling.smc import ScoredSamples, noise_smc

    unit, bank, config, context = problem.unit, problem.bank, problem.config, problem.context
    s_M = problem.standardised
    part = bank.size // config.islands
    noise, condition = bank.latent()
    parts = [slice(i * part, (i + 1) * part) for i in range(config.islands)]
    first = [ScoredSamples(noise[p], None if condition is None else condition[p], s_M[p]) for p in parts]
    group = torch.full((config.islands,), problem.place)
    as_saved_scores = replace(problem.scores, straight=True)

    def score(pictures: Tensor, island: Tensor) -> Tensor:
        return as_saved_scores(pictures, group.to(island.device)[island])

    def on_step(rung: int, betas: list[float]) -> None:
        context.on_step(min(rung, 11), 12)
        context.progress(f"tilting towards {unit} (rungs; most need fewer than 12)", min(rung, 11), 12)

    islands = noise_smc(
        bank.prior, score, target, island_generators(problem.seed, unit, config.islands), particles=config.particles,
        steps=MAP_STEPS, moves=config.moves, leaps=config.leaps, settle=_PATIENCE, ess=0.5, first=first, on_step=on_step,
        batch=batch_size_for(bank.prior),
    )  # fmt: skip
    context.progress(f"tilting towards {unit} (rungs; most need fewer than 12)", 12, 12)
    return islands


def _ladder(island: ParticleSet) -> Ladder:
    """The finite scores of an island at each of its rungs."""
    from entoptic.sampling.mbar import Ladder

    rungs = [r for r in island.rungs if len(r.scores)]
    return Ladder([r.beta for r in rungs], [r.scores[r.scores.isfinite()] for r in rungs])


def _distinct(pictures: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the distinct pictures of positive weight, and the log of each one's weight, its copies included."""
    import torch

    _, group = pictures.flatten(1).unique(dim=0, return_inverse=True)
    joint = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add_(0, group, log_weights.exp())
    first = torch.empty(len(joint), dtype=torch.int64)
    first[group.flip(0)] = torch.arange(len(group)).flip(0)
    first, at = first[joint > 0].sort()
    return first, joint[joint > 0][at].log()


def _beyond(unit: Unit, frontier: Frontier, islands: Sequence[ParticleSet]) -> str:
    """Why the target is out of reach, with the reachable maximum."""
    limit = frontier.support_limit
    why = next((c.note for c in islands if c.note), "its particles do not support it")
    return (
        f"{unit}: {why}; the most that this run supports is a mean of {limit.mean:.4g} sd at {limit.nats:.4g} nats "
        f"(β = {limit.beta:.4g})"
    )


def _interval(estimate: Any) -> list[float] | None:
    return list(estimate.interval) if estimate.interval is not None else None


def _draft_of_sample(item: Item, population: Population, context: Context) -> Draft:
    """The draft of an item: sample k of a unit is the k-th of one draw without replacement."""
    import torch

    if item.sample >= len(population.scores):
        failure = f"draw {item.sample + 1} was asked for, but the population has {len(population.scores)} samples"
        return failed(item, failure + " (options `particles` and `islands`)", FailureCode.OUT_OF_REACH)
    row, q = item.sample, population.distribution
    weight = float(population.log_weights[row].exp())
    notes = list(population.notes)
    if q.ess is not None and item.sample + 1 > q.ess / 4:
        notes.append("drawn late: after so many draws without replacement what is left is nearer to the prior")
    if population.supported and q.kl and q.mean_in_sd and q.mean:
        notes.insert(0, f"q_β of {q.prior} with β = {q.beta:.3g} per sd: {q.kl.value:.3g} nats, mean score "
                        f"{q.mean_in_sd.value:.3g} sd ({q.mean.value:.4g}), ESS {q.ess:.3g}")  # fmt: skip
    drawn = replace(
        q, score_in_sd=float(population.scores[row]),
        detail=dict(q.detail) | {"draw": item.sample + 1, "weight": weight},
    )  # fmt: skip
    trace = Trace(steps=0, evaluations=population.evaluations, loss=[], notes=notes, distribution=drawn)
    both = [population.pictures[row]] + ([population.ancestors[row]] if population.ancestors is not None else [])
    picture, *pair = as_shown(context.model, torch.stack(both).float() / 255)
    return Draft(item=item, image=picture, trace=trace, overlays={"pair": pair[0]} if pair else {})
