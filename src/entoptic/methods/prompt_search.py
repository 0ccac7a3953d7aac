"""Shared parts of the methods that search a prompt for a text-conditional prior: measuring a prompt and drawing from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from entoptic.base.cache import content_key, load_cached, pack, save_cached, unpack
from entoptic.errors import UserError
from entoptic.methods.contract import Context, Draft, FailureCode, Item, MethodConfig, Trace, failed, failed_by
from entoptic.methods.prior_sampling import (
    as_shown,
    chain_prior,
    mean_estimate,
    mean_scores,
    scored_bank,
    unit_generators,
    units_of,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.priors.network_prior import TextPrior
    from entoptic.sampling.unit_scores import UnitScores
    from entoptic.units.unit import Unit

CHAIN_STEPS = 50
"""Ancestral steps of the chains that a found prompt is measured on and shown by."""
_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Prompted(MethodConfig):
    """Options of every search for a prompt."""

    seeds: int = 4
    """pictures that a prompt is scored by during the search (one alone would be overfitted)"""
    fresh: int = 16
    """new pictures that the prompt which was found is measured on"""
    bank: int = 2048
    """samples of the prior that standardise the score"""
    reduction: str = ""
    """score: "" for the unit's readout, or max, mean, mix, top, log-mean-exp over its map"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")
        if self.fresh < 16:
            raise UserError(f"a prompt is judged by at least 16 fresh pictures, got fresh={self.fresh}")


@dataclass(frozen=True)
class Search:
    """What a search for the prompt of one unit may use.

    Attributes:
        prior: that reads text.
        scores: standardised scores of several units.
        unit: whose prompt is searched.
        unit_index: of the unit among those of `scores`.
        seed: of the run.
    """

    prior: TextPrior
    scores: UnitScores
    unit: Unit
    unit_index: int
    seed: int


@dataclass(frozen=True)
class FoundPrompt:
    """The prompt that a search found.

    Attributes:
        text: its embedding, 1×L×D.
        what: completes "the prior given …".
        passes: pictures scored during the search.
        loss: pairs of step and value.
        notes: for people.
    """

    text: Tensor
    what: str
    passes: int
    loss: list[list[float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def text_prior(context: Context) -> TextPrior:
    """Returns the prior of a method's context, which reads text.

    Raises:
        UserError: it does not read text; the message names priors that do.
    """
    from entoptic.priors.network_prior import TextPrior

    prior = chain_prior(context)
    if not isinstance(prior, TextPrior):
        classes = f"; prompt-class chooses among its {prior.conditions} classes" if prior.conditions else ""
        raise UserError(
            f"{prior.name} reads no text, so there is no prompt to search; give --prior hf:REPO of a text-to-image "
            f"pipeline (Stable Diffusion 1, 2 or XL or what derives from them){classes}"
        )
    return prior


def draw_prompted(
    items: Sequence[Item], config: Prompted, context: Context, name: str, find: Callable[[Search], FoundPrompt]
) -> Iterator[Draft]:
    """Finds the prompt of each unit and draws one chain of the prior, given that prompt, for each item.

    Samples of a unit have the same prompt: they are independent draws from one distribution. Prompts are cached.

    Args:
        items: pictures to make.
        config: of the method.
        context: of the method.
        name: of the method, for the cache.
        find: searches the prompt of one unit.
    """
    import torch

    prior, model = text_prior(context), context.model
    units, unit_indices = units_of(items)
    bank, scores, _ = scored_bank(context, units, size=config.bank, reduction=config.reduction)
    for u, unit in enumerate(units):
        mine = [item for item, index in zip(items, unit_indices) if index == u]
        recipe = {
            "prior": prior.identity, "config": asdict(config), "seed": mine[0].seed, "unit": unit.identity,
            "readout": unit.readout, "weights": model.card.identity, "card": model.card.preprocessing(),
            "labels": model.card.labels, "bank": bank.identity, "version": 1,
        }  # fmt: skip
        key = content_key(recipe)
        known = load_cached(name, key, {"record": 1, "text": 3})
        if known is None:
            try:
                known = _measured_prompt(
                    find(Search(prior, scores, unit, u, mine[0].seed)), prior, scores, u, unit, config, mine[0]
                )
            except UserError as error:
                for item in mine:
                    yield failed_by(item, error)
                continue
            save_cached(name, key, known)
        trace = _unpacked_trace(unpack(known["record"]))
        at = prior.with_text(known["text"])
        for item in mine:
            pictures, _ = _draw_chains(prior, at, [item.generator()])
            pair, _ = _draw_chains(prior, prior, [item.generator()])
            if not bool(pictures.isfinite().all()):
                yield failed(item, f"the chain of {unit} became infinite or undefined", FailureCode.NOT_FINITE)
                continue
            picture, pair = as_shown(model, torch.cat([pictures, pair]))
            yield Draft(item=item, image=picture, trace=trace, overlays={"pair": pair})


def _unpacked_trace(record: Mapping[str, Any]) -> Trace:
    """The trace that `_measured_prompt` stored."""
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution

    selection = {"kind": Kind.CONDITIONAL, "kl_is": KlIs.UPPER_BOUND} | record["selection"]
    return Trace(
        steps=record["steps"], evaluations=record["evaluations"], loss=record["loss"], notes=record["notes"],
        distribution=SampledDistribution.from_json(selection),
    )  # fmt: skip


def _measured_prompt(
    found: FoundPrompt, prior: TextPrior, scores: UnitScores, unit_index: int, unit: Unit, config: Prompted, item: Item
) -> dict[str, Tensor]:
    """The prompt with its trace: mean score and KL divergence of paths, over new chains that the search has not used."""
    import torch

    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution

    generators = unit_generators("fresh", item.seed, unit, config.fresh)
    pictures, path_kl = _draw_chains(prior, prior.with_text(found.text), generators)
    if not bool(found.text.isfinite().all() and pictures.isfinite().all() and path_kl.isfinite().all()):
        raise UserError(f"{unit}: the prompt, or pictures of the prior given it, are not finite; try a lower lr")
    raw = torch.cat([scores.all(part)[:, unit_index].cpu() for part in pictures.split(_BATCH)])
    kl, (mean, mean_in_sd) = mean_estimate(path_kl), mean_scores(scores, unit_index, raw)
    assert kl.interval is not None
    distribution = SampledDistribution(
        kind=Kind.CONDITIONAL, description=f"the prior given {found.what} (nats: of its paths, an upper bound)",
        prior=prior.name, n=config.fresh, kl=kl._replace(interval=(max(kl.interval[0], 0.0), kl.interval[1])),
        kl_is=KlIs.UPPER_BOUND, mean=mean, mean_in_sd=mean_in_sd, detail={"chain_steps": CHAIN_STEPS},
    )  # fmt: skip
    note = (
        f"over {config.fresh} fresh chains of {CHAIN_STEPS} steps: mean score {mean_in_sd.value:.3g} sd "
        f"({mean.value:.4g}), at most {kl.value:.3g} nats from {prior.name}"
    )
    trace = Trace(
        steps=len(found.loss), evaluations=found.passes + config.fresh, loss=[(int(t), v) for t, v in found.loss],
        notes=[note, *found.notes],
        distribution=distribution,
    )  # fmt: skip
    record = pack(trace.to_json())
    return {"text": found.text.detach().cpu(), "record": record}


def _draw_chains(prior: TextPrior, at: TextPrior, generators: Sequence[Generator]) -> tuple[Tensor, Tensor]:
    """Pictures B×3×h×w of chains of `at`, and the KL divergence of each along its path (nats)."""
    import torch

    from entoptic.sampling.guidance import conditioned_chains

    parts, costs = [], []
    for i in range(0, len(generators), _BATCH):
        chains = conditioned_chains(prior, at, generators[i : i + _BATCH], steps=CHAIN_STEPS)
        with torch.no_grad():
            parts.append(prior.decode(chains.x0))
        costs.append(chains.path_kl)
    return torch.cat(parts), torch.cat(costs)
