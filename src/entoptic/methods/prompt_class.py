"""The best class of a prior: samples of the class that drives the unit most. It is to classes what a prompt is to text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, Item, MethodConfig, Trace, method
from entoptic.methods.prior_sampling import (
    MAP_STEPS,
    UNITS,
    as_shown,
    mean_scores,
    prior_of,
    scored_bank,
    unit_generators,
    units_of,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.sampling.sampled_distribution import SampledDistribution

EACH = 4
"""Fewest samples of the bank per class; with fewer, the best class is mostly chance."""


@dataclass(frozen=True, kw_only=True)
class PromptClass(MethodConfig):
    """Best class, samples of the class of a prior that drives the unit most."""

    bank: int = 2048
    """samples of the prior that choose the class and standardise the score"""
    fresh: int = 64
    """new samples that the chosen class is measured on"""
    reduction: str = ""
    """score: "" for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fresh < 16:
            raise UserError(f"a class is judged by at least 16 fresh samples, got fresh={self.fresh}")


@method(
    "prompt-class", PromptClass, paper="proxy of arXiv:2605.17504, restricted to classes", units=UNITS, reads={"prior"}
)
def prompt_class(items: Sequence[Item], config: PromptClass, context: Context) -> Iterator[Draft]:
    """Draws samples of the prior given the class whose samples in the bank score highest."""
    import torch

    from entoptic.base.estimates import exactly
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution

    prior = prior_of(context)
    if not prior.conditions:
        raise UserError(f"{prior.name} has no classes to choose among; for a prior that reads text there is prompt")
    if config.bank < EACH * prior.conditions:
        raise UserError(
            f"choosing among {prior.conditions} classes needs a bank of {EACH * prior.conditions}, got {config.bank}"
        )
    units, unit_indices = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction)
    one_hot = torch.nn.functional.one_hot(bank.conditions().cpu(), prior.conditions).double()  # type: ignore[union-attr]
    means = (raw @ one_hot / one_hot.sum(0)).nan_to_num(-math.inf)  # U×conditions; a class that nothing was drawn of
    best = means.argmax(1)

    def sampled(unit_index: int, generators: list[Generator]) -> Tensor:
        from entoptic.priors.prior import generate, noise_like

        condition = best[unit_index].to(prior.device).repeat(len(generators))
        with torch.no_grad():
            return prior.decode(generate(prior, noise_like(prior, generators), condition, steps=MAP_STEPS))

    found_by_unit: dict[int, SampledDistribution] = {}
    for item, u in zip(items, unit_indices):
        if u not in found_by_unit:
            fresh = sampled(u, unit_generators("fresh", item.seed, item.unit, config.fresh))
            mean, mean_in_sd = mean_scores(scores, u, scores.all(fresh)[:, u].cpu())
            found_by_unit[u] = SampledDistribution(
                # Classes are drawn uniformly, so p(x|c) ≤ C·p(x) everywhere, and KL(p(x|c)‖p) ≤ log C.
                kind=Kind.CONDITIONAL, description="the prior given one of its classes (nats: the upper bound log C)",
                prior=prior.name, n=config.fresh, kl=exactly(math.log(prior.conditions)), kl_is=KlIs.UPPER_BOUND,
                mean=mean, mean_in_sd=mean_in_sd, detail={"class": int(best[u])},
            )  # fmt: skip
        found = found_by_unit[u]
        assert found.mean_in_sd is not None
        note = f"class {int(best[u])} of {prior.conditions}: {found.mean_in_sd.value:.3g} sd over {config.fresh} fresh samples"
        trace = Trace(steps=0, evaluations=config.fresh, loss=[], notes=[note], distribution=found)
        yield Draft(item=item, image=as_shown(context.model, sampled(u, [item.generator()]))[0], trace=trace)
