"""KLSC: pictures drawn from the law nearest to a prior among those that drive a unit as strongly (arXiv:2605.17504).

That law is the tilt q_β(x) ∝ p(x)·exp(β s(x)). Here p is the law of the prior's few-step generator G(z), for which
sequential Monte Carlo in the space of the noise z is exact, whatever the moves: no discretisation bias.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, MethodConfig, method
from entoptic.methods.prior_sampling import MAP_STEPS, UNITS, as_shown, island_generators, scored_bank, units_of

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.sampling.bank import Bank
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.mbar import Ladder
    from entoptic.sampling.particles import ParticleSet
    from entoptic.sampling.unit_scores import UnitScores
    from entoptic.units.unit import Unit


_PATIENCE = 3  # how many times more the moves of a rung are made where it has not settled


@dataclass(frozen=True, kw_only=True)
class Klsc(MethodConfig):
    """KLSC, samples of a prior tilted by the unit at the least cost in nats.

    Give one of `nats`, `mean`, `share` and `beta`; none is a budget of 4 nats. Scores are counted in standard deviations
    of the prior's own samples. All samples of a unit are one draw without replacement from one population.
    """

    nats: float | None = None
    """KL divergence from the prior to spend (None with the others absent: 4)"""
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
    import torch

    units, places = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction, bound=config.bound)
    seeds = {u: item.seed for item, u in zip(items, places)}
    for u, unit in enumerate(units):
        mine = [item for item, place in zip(items, places) if place == u]
        try:
            population = populate(unit, u, bank, scores, raw[u], config, seeds[u], context)
        except (UserError, ArithmeticError, torch.OutOfMemoryError) as error:
            hint = "; --klsc.leaps 0 needs no gradients" if isinstance(error, torch.OutOfMemoryError) else ""
            for item in mine:
                yield Draft(item, torch.empty(0), failure=f"{error}{hint}")
            continue
        for item in mine:
            yield _draw(item, population, context)


@dataclass(frozen=True)
class Population:
    """Samples of q_β of one unit, in the order in which they are drawn without replacement.

    Attributes:
        pictures, ancestors: P×3×h×w uint8, the samples, and those of the bank that each descends from by moves of its
            noise (None where the bank itself was drawn from).
        scores: P float64, standardised. log_weights: of each among all N.
        law: the JSON record of the law. notes: for people.
    """

    pictures: Tensor
    ancestors: Tensor | None
    scores: Tensor
    log_weights: Tensor
    law: dict[str, Any]
    notes: list[str]


def populate(
    unit: Unit, place: int, bank: Bank, scores: UnitScores, raw: Tensor, config: Klsc, seed: int, context: Context
) -> Population:
    """Samples q_β of one unit, or finds what was sampled before.

    Raises:
        UserError: the target is out of reach, with the reachable maximum.
    """
    known = _sampled(unit, place, bank, scores, raw, config, seed, context)
    record = json.loads(bytes(known["record"].tolist()).decode())
    if "beyond" in record:
        raise UserError(record["beyond"])
    moved = bool((known["ancestors"] >= 0).all())
    return Population(
        known["pictures"], bank.pictures[known["ancestors"]] if moved else None, known["scores"], known["log_weights"],
        record["law"], record["notes"],
    )  # fmt: skip


def ladders(
    unit: Unit, place: int, bank: Bank, scores: UnitScores, raw: Tensor, config: Klsc, seed: int, context: Context
) -> tuple[list[Ladder], str]:
    """What the islands of `populate` found at each of their rungs, also where they did not reach the target.

    Empty where the bank carries the target by itself. Their lowest rungs are parts of the bank. With them goes why no
    expectation over the islands' particles is reported, or an empty string.
    """
    from entoptic.sampling.mbar import Ladder

    known = _sampled(unit, place, bank, scores, raw, config, seed, context)
    betas, values = known["rung_betas"].tolist(), known["rung_scores"].split(known["rung_sizes"].tolist())
    starts = [i for i, beta in enumerate(betas) if beta == 0]
    record = json.loads(bytes(known["record"].tolist()).decode())
    refused = record["beyond"] if "beyond" in record else record["law"].get("refused", "")
    return [Ladder(betas[a:b], values[a:b]) for a, b in zip(starts, [*starts[1:], len(betas)])], refused


def _sampled(
    unit: Unit, place: int, bank: Bank, scores: UnitScores, raw: Tensor, config: Klsc, seed: int, context: Context
) -> dict[str, Tensor]:
    """The result of `_sample`, computed once."""
    from entoptic.base.cache import content_key, load_cached, save_cached

    model = context.model
    recipe = {
        "bank": bank.identity, "config": asdict(config), "seed": seed, "unit": unit.identity, "readout": unit.readout,
        "weights": model.card.weights_sha256, "card": model.card.preprocessing(), "version": 6,
    }  # fmt: skip
    key = content_key(recipe)
    known = load_cached("klsc", key)
    if known is None:
        known = _sample(unit, place, bank, scores, raw, config, seed, context)
        save_cached("klsc", key, known)
    return known


def _sample(
    unit: Unit, place: int, bank: Bank, scores: UnitScores, raw: Tensor, config: Klsc, seed: int, context: Context
) -> dict[str, Tensor]:
    import torch

    from entoptic.base.pixels import eight_bit
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.particles import (
        effective_sample_size,
        pooled_ess,
        pooled_log_weights,
        refusal,
        worst_autocorrelation,
    )
    from entoptic.sampling.tilt import draw_order, gumbel_noise, tilt

    prior, count = bank.prior, config.particles * config.islands
    s_M = scores.of(raw, place)
    target = _target(config, s_M)
    from_bank = Frontier.from_bank(s_M)
    point = _point(from_bank, target)
    clouds: list[ParticleSet] = []
    frontier = from_bank
    if point is not None and point.ess >= max(100.0, count):
        law = tilt(s_M, point.beta.value)  # the bank carries this tilt as it is
        pictures, ancestors, s_P = bank.pictures, torch.full((len(s_M),), -1), s_M  # nothing was moved: no pairs
        log_w, calls = law.weights.log(), 0
        notes = [f"drawn from the bank of {bank.size} samples of {prior.name} itself"]
    else:
        clouds = _islands(unit, place, bank, scores, s_M, target, config, seed, context)
        frontier = Frontier.from_ladders([_ladder(c) for c in clouds])
        point = _point(frontier, target)
        if point is None:
            return {"record": _packed({"beyond": _beyond(unit, frontier, clouds)}), **_rungs(clouds)}
        log_w = pooled_log_weights(clouds, point.beta.value)
        s_P = torch.cat([c.scores for c in clouds])
        part = bank.size // config.islands
        ancestors = torch.cat([c.ancestors + i * part for i, c in enumerate(clouds)])
        made = [c.pictures(prior, torch.arange(len(c.scores))) for c in clouds]
        pictures = (eight_bit(torch.cat(made)) * 255).round().byte().cpu()
        calls = sum(c.score_calls for c in clouds)
        notes = [
            f"{config.islands} islands of {config.particles} particles, {len(clouds[0].rungs) - 1} rungs, "
            f"{calls} samples scored beside a bank of {bank.size}"
        ]
    if config.share is not None and (few := max(1, round(config.share * bank.size))) < 10:
        notes.append(
            f"the strongest {config.share:.3g} of the bank are {few} of its {bank.size} samples, whose mean is not well known; a "
            "larger `bank` tells it better"
        )
    # What is sampled is the tilt by this β; how well its nats and mean are known is said at this β.
    point = frontier.at_beta(point.beta.value)
    first, joint = _distinct(pictures, log_w)
    ess = min(float(effective_sample_size(joint)), pooled_ess(clouds, log_w) if clouds else math.inf)
    order = first[draw_order(joint, 1.0, gumbel_noise(f"{seed}|{unit.identity}", [str(i) for i in first.tolist()]))]
    order = order[:count]  # nobody looks at more, and a bank is large
    pictures, ancestors, s_P, log_w = pictures[order], ancestors[order], s_P[order], log_w[order]
    refused = refusal(clouds, ess, len(joint))
    law_record = {
        "law": "prior tilted by exp(β s)", "prior": prior.name, "N": len(first), "K": 1, "beta": point.beta.value,
        "nats": point.nats.value, "nats_interval": _interval(point.nats), "mean_in_sd": point.mean.value,
        "mean_in_sd_interval": _interval(point.mean), "mean": float(scores.raw(torch.tensor(point.mean.value), place)),
        "ess": ess, "islands": len(clouds), "bank": bank.size,
        "generator_steps": MAP_STEPS,
        "distinct_ancestors": len(ancestors.unique()) if clouds else len(ancestors), "pictures_scored": calls,
        "acceptance": [round(r.acceptance, 3) for r in clouds[0].rungs[1:]] if clouds else [],
    }  # fmt: skip
    if clouds:
        law_record["memory"] = worst_autocorrelation(clouds)
    if refused:
        law_record |= {"nats": None, "nats_interval": None, "mean_in_sd": None, "mean": None, "refused": refused}
        notes.append(f"no expectation is reported: {refused}")
    if clouds and point.nats.interval is None and "refused" not in law_record:
        law_record["refused"] = f"an interval needs at least 4 islands, and there are {len(clouds)}"
    if config.bound is not None:  # the mean of a bounded score is not that of the score
        law_record["mean"] = None
    law_record["supported"] = not refused
    return {
        "pictures": pictures, "ancestors": ancestors, "scores": s_P.double(), "log_weights": log_w.double(),
        "record": _packed({"law": law_record, "notes": notes}), **_rungs(clouds),
    }  # fmt: skip


def _packed(record: dict[str, Any]) -> Tensor:
    import torch

    return torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)


def _rungs(clouds: Sequence[ParticleSet]) -> dict[str, Tensor]:
    """The ladders of all islands, one behind the other, for the cache."""
    import torch

    found = [
        (beta, s) for cloud in clouds for ladder in [_ladder(cloud)] for beta, s in zip(ladder.betas, ladder.scores)
    ]
    return {
        "rung_betas": torch.tensor([beta for beta, _ in found], dtype=torch.float64),
        "rung_sizes": torch.tensor([len(s) for _, s in found], dtype=torch.int64),
        "rung_scores": torch.cat([s for _, s in found]) if found else torch.empty(0, dtype=torch.float64),
    }


def _target(config: Klsc, s_M: Tensor) -> Any:
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
    """The target's place on a frontier, or None where its scores do not reach that far."""
    try:
        if target.mean is not None:
            return frontier.at_mean(target.mean)
        return frontier.at_beta(target.beta) if target.beta is not None else frontier.at_nats(target.nats)
    except UserError:
        return None


def _islands(
    unit: Unit, place: int, bank: Bank, scores: UnitScores, s_M: Tensor, target: Any, config: Klsc, seed: int,
    context: Context,
) -> list[ParticleSet]:  # fmt: skip
    """Independent runs: each starts from its own part of the bank, so that nothing is common to them."""
    import torch

    from entoptic.sampling.bank import batch_size_for
    from entoptic.sampling.smc import ScoredSamples, noise_smc

    part = bank.size // config.islands
    noise, condition = bank.latent()
    parts = [slice(i * part, (i + 1) * part) for i in range(config.islands)]
    first = [ScoredSamples(noise[p], None if condition is None else condition[p], s_M[p]) for p in parts]
    group = torch.full((config.islands,), place)
    as_saved_scores = replace(scores, straight=True)

    def score(pictures: Tensor, island: Tensor) -> Tensor:
        return as_saved_scores(pictures, group.to(island.device)[island])

    def on_step(rung: int, betas: list[float]) -> None:
        context.on_step(min(rung, 11), 12)
        context.progress(f"tilting towards {unit} (rungs; most need fewer than 12)", min(rung, 11), 12)

    clouds = noise_smc(
        bank.prior, score, target, island_generators(seed, unit, config.islands), particles=config.particles,
        steps=MAP_STEPS, moves=config.moves, leaps=config.leaps, settle=_PATIENCE, ess=0.5, first=first, on_step=on_step,
        batch=batch_size_for(bank.prior),
    )  # fmt: skip
    context.progress(f"tilting towards {unit} (rungs; most need fewer than 12)", 12, 12)
    return clouds


def _ladder(cloud: ParticleSet) -> Ladder:
    from entoptic.sampling.mbar import Ladder

    rungs = [r for r in cloud.rungs if len(r.scores)]
    return Ladder([r.beta for r in rungs], [r.scores[r.scores.isfinite()] for r in rungs])


def _distinct(pictures: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of pictures that differ, of positive weight, and the joint log weight of each with its copies."""
    import torch

    _, place = pictures.flatten(1).unique(dim=0, return_inverse=True)
    joint = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, log_weights.exp())
    first = torch.empty(len(joint), dtype=torch.int64)
    first[place.flip(0)] = torch.arange(len(place)).flip(0)
    first, at = first[joint > 0].sort()
    return first, joint[joint > 0][at].log()


def _beyond(unit: Unit, frontier: Frontier, clouds: Sequence[ParticleSet]) -> str:
    limit = frontier.support_limit
    why = next((c.note for c in clouds if c.note), "its particles do not support it")
    return (
        f"{unit}: {why}; the most that this run supports is a mean of {limit.mean:.4g} sd at {limit.nats:.4g} nats "
        f"(β = {limit.beta:.4g})"
    )


def _interval(estimate: Any) -> list[float] | None:
    return list(estimate.interval) if estimate.interval is not None else None


def _draw(item: Item, population: Population, context: Context) -> Draft:
    """Sample k of a unit is the k-th of one draw without replacement."""
    import torch

    if item.sample >= len(population.scores):
        failure = f"draw {item.sample + 1} was asked for, but the population has {len(population.scores)} samples"
        return Draft(item, torch.empty(0), failure=failure + " (options `particles` and `islands`)")
    row = item.sample
    weight = float(population.log_weights[row].exp())
    selection = population.law | {
        "draw": item.sample + 1, "weight": weight, "score_in_sd": float(population.scores[row])
    }  # fmt: skip
    law = population.law
    notes = list(population.notes)
    if item.sample + 1 > law["ess"] / 4:
        notes.append("drawn late: after so many draws without replacement what is left is nearer to the prior")
    if law["supported"] and law["mean"] is not None:
        notes.insert(0, f"q_β of {law['prior']} with β = {law['beta']:.3g} per sd: {law['nats']:.3g} nats, mean score "
                        f"{law['mean_in_sd']:.3g} sd ({law['mean']:.4g}), ESS {law['ess']:.3g}")  # fmt: skip
    trace = {
        "steps": 0, "evaluations": law["pictures_scored"], "loss": [], "stopped": "finished", "notes": notes,
        "selection": selection,
    }  # fmt: skip
    both = [population.pictures[row]] + ([population.ancestors[row]] if population.ancestors is not None else [])
    picture, *pair = as_shown(context.model, torch.stack(both).float() / 255)
    return Draft(item, picture, trace, pair=pair[0] if pair else None)
