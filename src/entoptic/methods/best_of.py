"""Best of N samples of a prior, without any gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, Trace, failed, method
from entoptic.methods.prior_sampling import UNITS, as_shown, scored_bank, units_of


@dataclass(frozen=True, kw_only=True)
class BestOf(MethodConfig):
    """Best of N, the sample of a prior that drives the unit most (sample k is rank k)."""

    bank: int = 2048
    """N: samples of the prior that are scored"""
    reduction: str = ""
    """score: "" for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""


@method("best-of", BestOf, paper="best-of-N selection", units=UNITS, reads={"prior"})
def best_of(items: Sequence[Item], config: BestOf, context: Context) -> Iterator[Draft]:
    """Returns the samples of the prior's bank that drive the unit most, by rank."""
    from entoptic.base.estimates import exactly
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution
    from entoptic.sampling.tilt import rank_kl

    units, unit_indices = units_of(items)
    bank, scores, raw = scored_bank(context, units, size=config.bank, reduction=config.reduction)
    for item, u in zip(items, unit_indices):
        if item.sample >= config.bank:
            failure = f"rank {item.sample + 1} was asked for, but only {config.bank} samples are drawn (option `bank`)"
            yield failed(item, failure, FailureCode.OUT_OF_REACH)
            continue
        order = raw[u].argsort(descending=True, stable=True)
        best = int(order[item.sample])
        value = float(raw[u, best])
        distribution = SampledDistribution(
            kind=Kind.SELECTION, description="one rank of N samples of the prior", prior=bank.prior.name, n=config.bank,
            rank=item.sample + 1, kl=exactly(rank_kl(config.bank, item.sample + 1)), kl_is=KlIs.EXACT, score=value,
            score_in_sd=float((value - scores.centre[u]) / scores.scale[u]),
        )  # fmt: skip
        trace = Trace(
            steps=0, evaluations=0, loss=[], distribution=distribution,
            notes=[f"rank {item.sample + 1} of {config.bank} samples of {bank.prior.name}, score {value:.6g}"],
        )  # fmt: skip
        image = as_shown(context.model, bank.pictures[best : best + 1].float() / 255)[0]
        yield Draft(item=item, image=image, trace=trace)
