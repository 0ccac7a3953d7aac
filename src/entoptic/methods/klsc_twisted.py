"""KLSC inside the diffusion itself: guided chains whose bias is corrected by weights (twisted SMC).

The distribution is that of Zhou et al. 2026 (arXiv:2605.17504), the sampler after Wu et al. 2023 (arXiv:2306.17775).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, Trace, failed, failed_by, method
from entoptic.methods.guidance_window import read_window, shares_of
from entoptic.methods.prior_sampling import UNITS, as_shown, chain_prior, island_generators, scored_bank, units_of

if TYPE_CHECKING:
    from entoptic.sampling.particles import ParticleSet


@dataclass(frozen=True, kw_only=True)
class KlscTwisted(MethodConfig):
    """KLSC by twisted diffusion, guided chains that are weighted to be exact.

    The tilted distribution is that of the prior's ancestral sampler with `steps` steps, not that of its few-step generator. β
    is the one that the bank's frontier gives for `nats` (or `beta` itself).
    """

    came_later = MappingProxyType[str, Any]({"window": ""})

    nats: float = 3.0
    """KL divergence from the prior to spend; it must lie within what the bank supports"""
    beta: float | None = None
    """strength β of the tilt exp(β s), in place of `nats`"""
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
    window: str = ""
    """shares of the steps between which particles are pushed, such as 0.12-0.6, or the JSON of entoptic commitment; '' for all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", read_window(self.window))
        if min(self.particles, self.islands) < 1 or self.nats < 0 or (self.beta is not None and self.beta < 0):
            raise UserError(
                f"klsc-twisted needs at least 1 particle and island and nats and beta of at least 0, got "
                f"{self.particles}, {self.islands}, {self.nats} and {self.beta}"
            )


def refusal_of_chains(islands: Sequence[ParticleSet]) -> str:
    """Returns why no expectation is reported of these islands together, or "".

    Together they need an effective sample size (ESS) of 20, and each must descend from half of its first particles (at most
    10).

    No island needs an ESS of its own. That would drop islands which found a rare particle of high weight, and the means of
    the others would be too low: at 5.9 nats of a Gaussian, half of the runs of 16 particles were dropped, and the other means
    were .12 sd too low rather than .07. The number of ancestors is a better sign: with 5 of 16 left, in a mode of a tenth of
    the prior at 4.2 nats, the KL divergence was .8 nats too high.

    Args:
        islands: at least one, all of the same size.
    """
    n, total = len(islands[0].scores), sum(len(c.scores) for c in islands)
    ess, roots = sum(c.ess for c in islands), min(c.distinct_ancestors for c in islands)
    least_ess, least_roots = min(20.0, max(2.0, total / 2)), min(10, max(2, n // 2))
    if not ess >= least_ess:
        return f"the effective number of particles is {ess:.3g} of {total}, and at least {least_ess:.3g} are needed"
    if roots < least_roots:
        return f"the {n} particles of an island descend from {roots} first ones, and at least {least_roots} are needed"
    return ""


@method("klsc-twisted", KlscTwisted, paper="arXiv:2605.17504, arXiv:2306.17775", units=UNITS, reads={"prior"})
def klsc_twisted(items: Sequence[Item], config: KlscTwisted, context: Context) -> Iterator[Draft]:
    """Draws pictures from the tilt of the ancestral sampler's distribution by twisted sequential Monte Carlo."""
    import torch
    from torch import Tensor

    from entoptic.base.estimates import Estimate, t_quantile
    from entoptic.sampling.bank import batch_size_for
    from entoptic.sampling.frontier import Frontier
    from entoptic.sampling.particles import estimate_across_islands
    from entoptic.sampling.sampled_distribution import Kind, SampledDistribution
    from entoptic.sampling.twisted_smc import twisted_smc

    chain_prior(context)
    units, unit_indices = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction, bound=config.bound)
    for u, unit in enumerate(units):
        mine = [item for item, index in zip(items, unit_indices) if index == u]
        try:
            frontier = Frontier.from_bank(scores.of(raw[u], u))
            beta = config.beta if config.beta is not None else frontier.at_nats(config.nats).beta.value
            group = torch.full((config.islands,), u)

            def on_step(done: int, of: int, u: int = u) -> None:
                context.on_step(u * of + done, len(units) * of)

            def score(pictures: Tensor, island: Tensor, group: Tensor = group) -> Tensor:
                return scores(pictures, group.to(island.device)[island])

            generators = island_generators(mine[0].seed, unit, config.islands)
            islands = twisted_smc(
                bank.prior, score, beta, generators, particles=config.particles, steps=config.steps,
                window=shares_of(config.window), batch=min(32, batch_size_for(bank.prior)), on_step=on_step,
            )  # fmt: skip
        except UserError as error:
            for item in mine:
                yield failed_by(item, error, prefix=f"{unit}: ")
            continue
        if stopped := next((c.note for c in islands if not c.reached), ""):
            for item in mine:
                yield failed(item, f"{unit}: {stopped}", FailureCode.OUT_OF_REACH)
            continue
        why = refusal_of_chains(islands)
        distribution = SampledDistribution(
            kind=Kind.TILT, description="ancestral sampler's law tilted by exp(β s)", prior=bank.prior.name, beta=beta,
            n=config.particles * config.islands, ess=sum(c.ess for c in islands),
            detail={"steps": config.steps, "islands": config.islands, "calls_per_particle": config.steps},
        )  # fmt: skip
        if why:
            distribution = replace(distribution, refused=why)
        elif len(islands) < 4:
            few = f"an interval needs at least 4 islands, and there are {len(islands)}"
            distribution = replace(distribution, refused=few)
        else:
            found, t = estimate_across_islands(islands), t_quantile(len(islands) - 1)
            low, high = max(found.kl - t * found.kl_se, 0.0), found.kl + t * found.kl_se
            mean = float(scores.raw(torch.tensor(found.mean), u)) if config.bound is None else None
            distribution = replace(
                distribution,
                kl=Estimate(max(found.kl, 0.0), found.kl_se, (low, high)),
                mean_in_sd=Estimate(
                    found.mean, found.mean_se, (found.mean - t * found.mean_se, found.mean + t * found.mean_se)
                ),
                mean=None if mean is None else Estimate(mean, math.inf, None),
                detail=dict(distribution.detail) | {"rhat": found.rhat},
            )
        # Every island in turn gives its next draw, so that few pictures come from many islands.
        drawn = [c.draw(config.particles, g) for c, g in zip(islands, generators)]
        order = [(i, int(rows[k])) for k in range(config.particles) for i, rows in enumerate(drawn) if k < len(rows)]
        for item in mine:
            if item.sample >= len(order):
                failure = f"draw {item.sample + 1} was asked for, but {len(order)} particles are left"
                yield failed(item, failure + " (options `particles` and `islands`)", FailureCode.OUT_OF_REACH)
                continue
            island, row = order[item.sample]
            picture = as_shown(context.model, islands[island].pictures(bank.prior, torch.tensor([row])))[0]
            drawn_as = dict(distribution.detail) | {"draw": item.sample + 1, "island": island}
            trace = Trace(
                steps=config.steps, evaluations=config.steps * config.particles * config.islands, loss=[],
                distribution=replace(distribution, detail=drawn_as),
                notes=[f"β = {beta:.3g} per sd of the prior's bank; the tilt is of the {config.steps}-step sampler's law"],
            )  # fmt: skip
            yield Draft(item=item, image=picture, trace=trace)
