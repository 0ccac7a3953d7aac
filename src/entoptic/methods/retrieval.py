"""Retrieval: real photos chosen by how they drive a unit. Nothing is optimised, so no picture is adversarial.

Each way of choosing is a distribution over photos. Its KL divergence (nats) from the distribution that the photos come
from measures how biased the choice is. The trace carries it as `selection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from entoptic.errors import UserError, counted
from entoptic.methods.contract import (
    UNIT_KINDS,
    Context,
    Draft,
    FailureCode,
    Item,
    MethodConfig,
    Trace,
    failed,
    failed_by,
    method,
)

if TYPE_CHECKING:
    from torch import Tensor

    from entoptic.sampling.sampled_distribution import SampledDistribution

UNITS = UNIT_KINDS


@dataclass(frozen=True, kw_only=True)
class Retrieval(MethodConfig):
    """Retrieval, the real photos that drive the unit most (sample k is rank k)."""

    shown: int = 9
    """K: the picture is one of the K best, and its distribution is that of one of them at random"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shown(self.shown)


@dataclass(frozen=True, kw_only=True)
class RetrievalBottom(MethodConfig):
    """Retrieval from below, the real photos that drive the unit least."""

    shown: int = 9
    """K: the picture is one of the K lowest, and its distribution is that of one of them at random"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shown(self.shown)


@dataclass(frozen=True, kw_only=True)
class RetrievalTilted(MethodConfig):
    """Tilted retrieval, real photos drawn at the least cost in nats.

    The samples of a unit are one draw without replacement, in order. Give one of `beta`, `mean` and `nats`; none is a
    budget of 4 nats. Scores are counted in standard deviations from their mean over the photos, so that one number
    means the same for every unit.
    """

    beta: float | None = None
    """strength β of the tilt exp(β s): 0 draws any photo alike, a large one the best first"""
    mean: float | None = None
    """mean score to reach, in standard deviations above the mean of the photos"""
    nats: float | None = None
    """KL divergence to spend (default: 4 where neither of the others is given)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {n: v for n in ("beta", "mean", "nats") if (v := getattr(self, n)) is not None}
        if len(given) > 1:
            raise UserError(f"tilted retrieval takes one of beta, mean and nats, got {' and '.join(given)}")
        for name, value in given.items():
            if not math.isfinite(value):
                raise UserError(f"{name} must be finite, got {value}; the limit of β → ∞ is the method retrieval")
            if name != "mean" and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}; retrieval-bottom shows the low end")


def _check_shown(shown: int) -> None:
    if shown < 1:
        raise UserError(f"shown must be at least 1, got {shown}")


@method("retrieval", Retrieval, paper="top-K selection", units=UNITS, reads={"scores"})
def retrieval(items: Sequence[Item], config: Retrieval, context: Context) -> Iterator[Draft]:
    """Returns the photos that drive the unit most, by rank."""
    yield from _ranked(items, config.shown, context, lowest=False)


@method("retrieval-bottom", RetrievalBottom, paper="top-K selection", units=UNITS, reads={"scores"})
def retrieval_bottom(items: Sequence[Item], config: RetrievalBottom, context: Context) -> Iterator[Draft]:
    """Returns the photos that drive the unit least, by rank."""
    yield from _ranked(items, config.shown, context, lowest=True)


def _ranked(items: Sequence[Item], shown: int, context: Context, *, lowest: bool) -> Iterator[Draft]:
    """Photos by rank, each with the exact distribution of the choice. Equal scores keep the photos' order."""
    from entoptic.base.estimates import Estimate, exactly
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution
    from entoptic.sampling.tilt import rank_kl, selection_kl

    scores = context.references.scores([item.unit for item in items])
    n, k = len(scores.indices), min(shown, len(scores.indices))
    end, nats = "lowest" if lowest else "highest", selection_kl(n, k)
    for item in items:
        rank = item.sample + 1
        if rank > k:
            why = f"only {counted(n, 'photo')} can be read" if n < shown else f"{shown} are shown (option `shown`)"
            yield failed(item, f"rank {rank} was asked for, but {why}", FailureCode.OUT_OF_REACH)
            continue
        values = scores.of(item.unit)
        order = values.argsort(descending=not lowest, stable=True)
        chosen = values[order[:k]]
        nats_of_rank = rank_kl(n, rank)
        distribution = SampledDistribution(
            kind=Kind.SELECTION, description=f"one of the K {end} of N photos, at random",
            prior="the law that the photos were drawn from", n=n, k=k, rank=rank, kl=exactly(nats), kl_is=KlIs.EXACT,
            mean=Estimate(float(chosen.double().mean()), math.inf, None),
            detail={"nats_among_photos": math.log(n / k), "nats_of_rank": nats_of_rank},
        )  # fmt: skip
        notes = [
            f"one of the {k} {end} of {n} photos, at random, is {nats:.3g} nats from the law of the photos; "
            f"rank {rank} alone {nats_of_rank:.3g}"
        ]
        tied = int((values == chosen[-1]).sum())
        if tied > int((chosen == chosen[-1]).sum()):
            notes.append(
                f"{tied} photos share the score of rank {k}: their order decides which are shown, and nats is an upper bound"
            )
        yield _draft_of_photo(item, int(order[item.sample]), values, scores.indices, distribution, notes, context)


@method("retrieval-tilted", RetrievalTilted, paper="KL-minimal selection", units=UNITS, reads={"scores"})
def retrieval_tilted(items: Sequence[Item], config: RetrievalTilted, context: Context) -> Iterator[Draft]:
    """Draws photos without replacement, with weights exp(β s)."""
    from entoptic.base.estimates import Estimate, exactly
    from entoptic.sampling.sampled_distribution import Kind, KlIs, SampledDistribution
    from entoptic.sampling.tilt import beta_for_kl, beta_for_mean, draw_order, gumbel_noise, standardise_scores, tilt

    scores, photos = context.references.scores([item.unit for item in items]), context.references.photos
    assert photos is not None
    names = [photos.sha256(index) for index in scores.indices]
    n = len(names)
    for item in items:
        values = scores.of(item.unit)
        if item.sample >= n:
            why = f"draw {item.sample + 1} was asked for, but only {counted(n, 'photo')} can be read"
            yield failed(item, why, FailureCode.OUT_OF_REACH)
            continue
        try:
            s, centre, sd = standardise_scores(values)
            if config.beta is not None:
                beta = config.beta
            elif config.mean is not None:
                beta = beta_for_mean(s, config.mean)
            else:
                beta = beta_for_kl(s, 4.0 if config.nats is None else config.nats)
            tilted = tilt(s, beta)
        except UserError as error:
            yield failed_by(item, error, hint=" (scores in standard deviations above their mean over the photos)")
            continue
        # All samples of one unit are one ordered draw without replacement.
        order = draw_order(s, beta, gumbel_noise(f"{item.seed}|{item.unit.identity}", names))
        mean = centre + sd * tilted.mean
        distribution = SampledDistribution(
            kind=Kind.TILT, description="drawn with weights exp(β s), without replacement",
            prior="the N photos, each alike", n=n, kl=exactly(tilted.kl), kl_is=KlIs.EXACT, beta=tilted.beta,
            mean=Estimate(mean, math.inf, None), mean_in_sd=Estimate(tilted.mean, math.inf, None), ess=tilted.ess,
            detail={"draw": item.sample + 1},
        )  # fmt: skip
        notes = [
            f"draw {item.sample + 1} of {n} photos tilted by β = {tilted.beta:.3g} per standard deviation: "
            f"{tilted.kl:.3g} nats from the photos at a mean score of {mean:.4g}, as if {tilted.ess:.3g} photos"
        ]
        yield _draft_of_photo(item, int(order[item.sample]), values, scores.indices, distribution, notes, context)


def _draft_of_photo(
    item: Item, position: int, values: Tensor, indices: Sequence[int], distribution: SampledDistribution, notes: list[str],
    context: Context,
) -> Draft:  # fmt: skip
    """The draft of a photo. position: of the photo among those that could be read."""
    photos = context.references.photos
    assert photos is not None
    index = indices[position]
    photo = photos.read(index)
    if photo is None:
        return failed(item, f"photo {photos[index].name} can no longer be read", FailureCode.UNREADABLE)
    image = context.model.as_seen(context.model.card.prepare(photo)[None])[0]
    notes = [
        f"photo {photos[index].name}, sha256 {photos.sha256(index)[:16]}, score {float(values[position]):.6g}",
        *notes,
    ]
    trace = Trace(steps=0, evaluations=0, loss=[], notes=notes, distribution=distribution)
    return Draft(item=item, image=image, trace=trace)
