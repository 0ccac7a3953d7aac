"""KLSC inside the diffusion itself: guided chains whose bias is corrected by weights (twisted SMC).

The law is that of Zhou et al. 2026 (arXiv:2605.17504), the sampler after Wu et al. 2023 (arXiv:2306.17775).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, MethodConfig, method
from entoptic.methods.prior_sampling import UNITS, as_shown, island_generators, scored_bank, units_of

if TYPE_CHECKING:
    from entoptic.sampling.particles import ParticleSet


@dataclass(frozen=True, kw_only=True)
class KlscTwisted(MethodConfig):
    """KLSC by twisted diffusion, guided chains that are weighted to be exact.

    The tilt is of the law of the prior's ancestral sampler with `steps` steps, not of its few-step generator; β is the one
    that the bank's frontier gives for `nats` (or `beta` itself).
    """

    nats: float = 3.0
    """KL divergence from the prior to spend; it must lie within what the bank supports"""
    beta: float | None = None
    """strength β of the tilt exp(β s) in place of `nats`"""
    steps: int = 50
    """ancestral steps"""
    particles: int = 16
    """particles of each island"""
    islands: int = 4
    """independent runs, which the intervals come from"""
    bank: int = 2048
    """samples of the prior that standardise the score and give β"""
    reduction: str = ""
    """score: "" for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""
    bound: float | None = None
    """s = bound·tanh(s/bound) in standard deviations, so that every β has a tilt"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.particles, self.islands) < 1 or self.nats < 0 or (self.beta is not None and self.beta < 0):
            raise UserError(
                f"klsc-twisted needs at least 1 particle and island and nats and beta of at least 0, got "
                f"{self.particles}, {self.islands}, {self.nats} and {self.beta}"
            )


def refusal(clouds: Sequence[ParticleSet]) -> str:
    """Why no expectation may be reported of these islands together, or an empty string.

    They must be worth 20 particles together, and each descend from half of its first ones (10 at most). To ask each
    island for an ESS of its own drops those that found a rare particle of high weight, so that what is left lies low:
    half of the runs of 16 particles at 5.9 nats of a Gaussian, whose other means were .12 sd too low rather than .07.
    Ancestors tell more: where 5 of 16 were left, in a mode of a tenth of the prior at 4.2 nats, nats were .8 too high.
    """
    n, total = len(clouds[0].scores), sum(len(c.scores) for c in clouds)
    ess, roots = sum(c.ess for c in clouds), min(c.distinct_ancestors for c in clouds)
    least_ess, least_roots = min(20.0, max(2.0, total / 2)), min(10, max(2, n // 2))
    if not ess >= least_ess:
        return f"the effective number of particles is {ess:.3g} of {total}, and at least {least_ess:.3g} are needed"
    if roots < least_roots:
        return f"the {n} particles of an island descend from {roots} first ones, and at least {least_roots} are needed"
    return ""


@method("klsc-twisted", KlscTwisted, paper="arXiv:2605.17504, arXiv:2306.17775", units=UNITS, reads={"prior"})
def klsc_twisted(items: Sequence[Item], config: KlscTwisted, context: Context) -> Iterator[Draft]:
    import torch
    from torch import Tensor

    from entoptic.base.estimates import t_quantile
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.particles import estimate_across_islands
    from entoptic.sampling.twisted_smc import twisted_smc

    units, places = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction, bound=config.bound)
    for u, unit in enumerate(units):
        mine = [item for item, place in zip(items, places) if place == u]
        try:
            frontier = Frontier.from_bank(scores.of(raw[u], u))
            beta = config.beta if config.beta is not None else frontier.at_nats(config.nats).beta.value
            group = torch.full((config.islands,), u)

            def on_step(done: int, of: int, u: int = u) -> None:
                context.on_step(u * of + done, len(units) * of)

            def score(pictures: Tensor, island: Tensor, group: Tensor = group) -> Tensor:
                return scores(pictures, group.to(island.device)[island])

            generators = island_generators(mine[0].seed, unit, config.islands)
            clouds = twisted_smc(
                bank.prior, score, beta, generators, particles=config.particles, steps=config.steps, batch=32,
                on_step=on_step,
            )  # fmt: skip
        except UserError as error:
            for item in mine:
                yield Draft(item, torch.empty(0), failure=f"{unit}: {error}")
            continue
        if stopped := next((c.note for c in clouds if not c.reached), ""):
            for item in mine:
                yield Draft(item, torch.empty(0), failure=f"{unit}: {stopped}")
            continue
        why = refusal(clouds)
        law = {
            "law": "ancestral sampler's law tilted by exp(β s)", "prior": bank.prior.name, "beta": beta,
            "N": config.particles * config.islands, "K": 1, "steps": config.steps, "islands": config.islands,
            "ess": sum(c.ess for c in clouds), "calls_per_particle": config.steps, "nats": None,
        }  # fmt: skip
        if why:
            law["refused"] = why
        elif len(clouds) < 4:
            law["refused"] = f"an interval needs at least 4 islands, and there are {len(clouds)}"
        else:
            found, t = estimate_across_islands(clouds), t_quantile(len(clouds) - 1)
            law |= {
                "nats": max(found.kl, 0.0), "nats_interval": [max(found.kl - t * found.kl_se, 0.0), found.kl + t * found.kl_se],
                "mean_in_sd": found.mean,
                "mean_in_sd_interval": [found.mean - t * found.mean_se, found.mean + t * found.mean_se],
                "mean": float(scores.raw(torch.tensor(found.mean), u)) if config.bound is None else None,
                "rhat": found.rhat,
            }  # fmt: skip
        # Every island in turn gives its next draw, so that few pictures come from many islands.
        drawn = [c.draw(config.particles, g) for c, g in zip(clouds, generators)]
        order = [(i, int(rows[k])) for k in range(config.particles) for i, rows in enumerate(drawn) if k < len(rows)]
        for item in mine:
            if item.sample >= len(order):
                failure = f"draw {item.sample + 1} was asked for, but {len(order)} particles are left"
                yield Draft(item, torch.empty(0), failure=failure + " (options `particles` and `islands`)")
                continue
            island, row = order[item.sample]
            picture = as_shown(context.model, clouds[island].pictures(bank.prior, torch.tensor([row])))[0]
            trace = {
                "steps": config.steps, "evaluations": config.steps * config.particles * config.islands, "loss": [],
                "stopped": "finished", "selection": law | {"draw": item.sample + 1, "island": island},
                "notes": [f"β = {beta:.3g} per sd of the prior's bank; the tilt is of the {config.steps}-step sampler's law"],
            }  # fmt: skip
            yield Draft(item, picture, trace)
