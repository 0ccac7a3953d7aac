"""What `entoptic commitment` computes for a unit, what it depends on, and how long it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from entoptic.base.bounds import check_bounds
from entoptic.base.cache import content_key
from entoptic.base.progress import short_time
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError, instead
from entoptic.images.photos import Photos
from entoptic.methods.prior_sampling import MAP_STEPS
from entoptic.priors.prior import Prior, draw_conditions, generate, noise_like
from entoptic.runs.sampling_time import TIMED, timed
from entoptic.sampling.bank import Bank, bank_key, batch_size_for, held_samples
from entoptic.sampling.switched_chains import SAMPLERS, Side, Switched, switch_places
from entoptic.sampling.unit_scores import REDUCTIONS, UnitScores
from entoptic.units.unit import Unit

VERSION = 1
"""Of what a result holds: another one makes another key."""
CHUNK = 16
"""Most chains that are made together; finished ones are kept, so an interruption costs one such batch at one switch."""


@dataclass(frozen=True, kw_only=True)
class CommitmentOptions:
    """How the commitment of a unit is measured.

    Attributes:
        quantile: of the natural scores, above which a picture is a success.
        level: success rate that the window of guidance keeps.
        nats: strength of the guidance, as the divergence that the tilt of this β has.
        beta: the strength itself, in place of `nats`.
        sampler: a name in `SAMPLERS`.
        steps: of a chain.
        switches: intervals into which the switches divide the steps.
        seeds: chains for each switch.
        reduction: score, a name in `REDUCTIONS`, "" for the unit's readout.
        bank: samples of the prior that standardise the score.
        bank_seed: of the bank.
        seed: of the chains.
    """

    quantile: float = 0.9
    level: float = 0.7
    nats: float = 2.0
    beta: float | None = None
    sampler: str = "ancestral"
    steps: int = 50
    switches: int = 10
    seeds: int = 32
    reduction: str = ""
    bank: int = 2048
    bank_seed: int = 0
    seed: int = 0

    bounds = {  # noqa: RUF012
        "quantile": (0.01, 0.9999), "level": (0.01, 1.0), "nats": (0.0, 1000.0), "beta": (0.0, 1e12),
        "steps": (2, 10_000), "switches": (1, 1000), "seeds": (4, 10_000), "bank": (100, 10_000_000),
    }  # fmt: skip

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.sampler not in SAMPLERS:
            raise UserError(f'no sampler "{self.sampler[:80]}"{instead(self.sampler, SAMPLERS)}')
        if self.reduction and self.reduction not in REDUCTIONS:
            raise UserError(f'no reduction "{self.reduction[:80]}"{instead(self.reduction, REDUCTIONS)}')
        if self.switches > self.steps:
            raise UserError(f"a chain of {self.steps} steps has at most {self.steps} switches, got {self.switches}")

    @property
    def places(self) -> list[int]:
        """Numbers of steps before a switch."""
        return switch_places(self.steps, self.switches)


@dataclass(frozen=True, kw_only=True)
class CommitmentPlan:
    """The commitment of one unit to measure.

    Attributes:
        unit: that guides and judges.
        prior: whose chains are guided.
        options: how.
        photos: whose scores are natural; None for the prior's own samples.
    """

    unit: Unit
    prior: Prior
    options: CommitmentOptions
    photos: Photos | None

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on."""
        return content_key(self.about_chains() | {
            "options": asdict(self.options), "photos": None if self.photos is None else self.photos.fingerprint(),
        })  # fmt: skip

    def about_chains(self) -> dict[str, Any]:
        """Returns what a chain depends on beside its strength, its switch and its seed."""
        card = self.unit.model.card
        return {
            "commitment": VERSION, "weights": card.identity, "card": card.preprocessing(), "unit": self.unit.identity,
            "readout": self.unit.readout, "prior": self.prior.identity, "reduction": self.options.reduction,
            "steps": self.options.steps, "sampler": self.options.sampler, "bank": self.options.bank,
            "bank_seed": self.options.bank_seed, "seed": self.options.seed,
        }  # fmt: skip

    def chunks(self) -> list[range]:
        """Returns the numbers of the chains that are made together."""
        size, total = min(CHUNK, batch_size_for(self.prior)), self.options.seeds
        return [range(first, min(first + size, total)) for first in range(0, total, size)]

    def generators(self, purpose: str, chains: range) -> list[torch.Generator]:
        """Returns the generators of some chains."""
        return [generator_for(purpose, self.options.seed, self.unit.identity, i) for i in chains]


@dataclass(frozen=True, kw_only=True)
class CommitmentCost:
    """What measuring a commitment takes.

    Attributes:
        drawn: samples of the prior's bank that are neither shipped nor in the cache.
        scored: samples of the bank that nobody has scored for this unit.
        photos: that are scored, at most.
        guided: steps of one chain with a gradient.
        free: steps of one chain without.
        seconds: all of it, at the pace of one piece of each.
    """

    drawn: int
    scored: int
    photos: int
    guided: int
    free: int
    seconds: float

    def __str__(self) -> str:
        counts = (
            (self.drawn, "samples of the prior to draw"), (self.scored, "of its samples to score"),
            (self.photos, "photos to score"), (self.guided, "guided steps"), (self.free, "steps without guidance"),
        )  # fmt: skip
        return ", ".join(f"{n:,} {what}" for n, what in counts if n) + f": about {short_time(self.seconds)}"


def estimate_cost(plan: CommitmentPlan) -> CommitmentCost:
    """Counts and times what a plan computes where the cache holds none of its chains. Nothing is kept of what is timed.

    Args:
        plan: of one unit.
    """
    options, prior = plan.options, plan.prior
    held = held_samples(bank_key(prior, steps=MAP_STEPS, seed=options.bank_seed))
    scores = UnitScores([plan.unit], options.reduction)
    bank = Bank(prior, MAP_STEPS, options.bank_seed, options.bank, held[: options.bank])
    unscored = bank.held_scores(scores)[1][0] is None
    after, steps = sum(options.steps - k for k in options.places), options.steps
    guided = options.seeds * (after + 2 * steps)  # continued, the guided trunk, the window at most
    free = options.seeds * (after + steps)
    drawn, scored = max(0, options.bank - len(held)), options.bank if unscored else 0
    photos = 0 if plan.photos is None else len(plan.photos)
    draw, score, with_gradient, without = _seconds(plan, scores)
    judged = options.seeds * (2 * len(options.places) + 1)
    seconds = drawn * draw + (scored + photos + judged) * score + guided * with_gradient + free * without
    return CommitmentCost(drawn=drawn, scored=scored, photos=photos, guided=guided, free=free, seconds=seconds)


def _seconds(plan: CommitmentPlan, scores: UnitScores) -> tuple[float, float, float, float]:
    """Seconds to draw a sample, to score one, and of a chain's step with and without guidance."""
    prior, chains = plan.prior, Switched(prior=plan.prior, score=scores, beta=1e-9, steps=2, sampler="ancestral")
    generators = [generator_for("timed", i) for i in range(TIMED)]
    condition, noise = draw_conditions(prior, generators), noise_like(prior, generators)
    with torch.no_grad():
        pictures = prior.decode(generate(prior, noise, condition, steps=MAP_STEPS))
        drawing = timed(lambda: prior.decode(generate(prior, noise, condition, steps=MAP_STEPS)))
        scoring = timed(lambda: scores.all(pictures))
    guided = timed(lambda: chains.trunk(generators, Side.OFF, [1]))
    return drawing, scoring, guided, timed(lambda: chains.trunk(generators, Side.ON, [1]))
