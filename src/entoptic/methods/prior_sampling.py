"""Shared parts of the methods that draw pictures from a prior: the bank, the scores and the size of a picture.

Nothing at the top imports torch: the command line reads the methods' configs before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from entoptic.base.estimates import Estimate, t_quantile
from entoptic.base.randomness import generator_for
from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Item

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from entoptic.models.model import Model
    from entoptic.priors.prior import Prior
    from entoptic.sampling.bank import Bank
    from entoptic.sampling.unit_scores import UnitScores
    from entoptic.units.unit import Unit

UNITS = UNIT_KINDS
MAP_STEPS = 6
"""Steps of the few-step map G(z) behind banks and noise-space sampling."""


def prior_of(context: Context) -> Prior:
    """Returns the prior of a method's context.

    Raises:
        UserError: there is none.
    """
    if context.prior is None:
        raise UserError("this method samples an image prior; give --prior NAME (Python: prior=…)")
    return context.prior


def chain_prior(context: Context) -> Prior:
    """Returns the prior of a method's context, if it has levels that a chain can go through.

    Methods ask before they make a bank, which a prior without levels must not cost.

    Raises:
        UserError: there is no prior, or it is a network distilled to one step.
    """
    from entoptic.priors.one_step import OneStepPrior

    prior = prior_of(context)
    if isinstance(prior, OneStepPrior):
        raise UserError(f"{prior.name} {prior.no_chains}")
    return prior


def scored_bank(
    context: Context, units: Sequence[Unit], *, size: int, reduction: str = "", bound: float | None = None
) -> tuple[Bank, UnitScores, Tensor]:
    """Returns the prior's bank, scores standardised on it, and its raw scores U×M float64.

    All methods of a run use one bank, that of `context.bank_seed`, whatever the seed of the run.

    Args:
        context: of the method.
        units: U units, all different.
        size: M, samples in the bank.
        reduction: of a unit's map to one score, "" for the unit's readout.
        bound: of the standardised scores, bound·tanh(s/bound); None for none.
    """
    from entoptic.sampling.bank import make_bank
    from entoptic.sampling.unit_scores import UnitScores

    scores = UnitScores(units, reduction, bound=bound)  # before the bank: a wrong option must not cost a bank
    bank = make_bank(prior_of(context), size=size, steps=MAP_STEPS, seed=context.bank_seed, progress=context.progress)
    asked = {unit.identity for unit in units}
    rest = [unit for unit in context.units if unit.identity not in asked]
    raw = bank.scores(UnitScores([*units, *rest], reduction), progress=context.progress)[: len(units)]
    return bank, scores.standardised(raw), raw


def as_shown(model: Model, pictures: Tensor) -> Tensor:
    """Returns pictures at the model's input size, as they are scored and saved: B×3×H×W in [0, 1] on the CPU.

    Args:
        model: the network under study.
        pictures: B×3×h×w in [0, 1].
    """
    from entoptic.sampling.unit_scores import as_saved

    return model.as_seen(as_saved(model, pictures.to(model.device).float())).cpu()


def units_of(items: Sequence[Item]) -> tuple[list[Unit], list[int]]:
    """Returns the distinct units of some items, and for each item the index of its unit among them."""
    index_of: dict[str, int] = {}
    units: list[Any] = []
    for item in items:
        if item.unit.identity not in index_of:
            index_of[item.unit.identity] = len(units)
            units.append(item.unit)
    return units, [index_of[item.unit.identity] for item in items]


def unit_generators(purpose: str, seed: int, unit: Unit, count: int) -> list[Generator]:
    """Returns generators for what is drawn once per unit, from hashes of (purpose, seed, unit, number)."""
    return [generator_for(purpose, seed, unit.identity, i) for i in range(count)]


def island_generators(seed: int, unit: Unit, islands: int) -> list[Generator]:
    """Returns one generator for each island, an independent run of a unit."""
    return unit_generators("island", seed, unit, islands)


def mean_scores(scores: UnitScores, unit: int, raw_N: Tensor) -> tuple[Estimate, Estimate]:
    """Returns the mean of independent scores with its 95 % interval, raw and in the prior's standard deviations.

    Args:
        scores: standardised on the prior's bank.
        unit: index of the unit among those of `scores`.
        raw_N: N ≥ 4 independent raw scores.
    """
    mean = mean_estimate(raw_N)
    centre, scale = float(scores.centre[unit]), float(scores.scale[unit])
    assert mean.interval is not None
    low, high = ((end - centre) / scale for end in mean.interval)
    return mean, Estimate((mean.value - centre) / scale, mean.se / scale, (low, high))


def mean_estimate(values_N: Tensor) -> Estimate:
    """Returns the mean of N ≥ 4 independent values with its 95 % interval by Student's t."""
    values = values_N.double()
    mean, se = float(values.mean()), float(values.std()) / len(values) ** 0.5
    width = t_quantile(len(values) - 1) * se
    return Estimate(mean, se, (mean - width, mean + width))
