"""Pictures of one unit that differ from each other: Fourier ascent with a diversity term (Olah et al., Distill 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, FailureCode, Item, MethodConfig, failed, method

if TYPE_CHECKING:
    from entoptic.methods.large import Stage
    from entoptic.models.model import Model
    from entoptic.models.taps import Tap
    from entoptic.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Diverse(MethodConfig):
    """Fourier feature visualisation, several pictures that differ (Olah et al. 2017)."""

    came_later = MappingProxyType[str, Any]({"size": 0})
    bounds = MappingProxyType[str, tuple[float, float]]({"size": (0, 4096)})  # 0 is the network's own

    pictures: int = 4
    """k: pictures of a unit that are made together so that they differ; ask for all of them with n=k (--n k)"""
    weight: float = 1.0
    """weight of the likeness of two pictures, in units of the unit's score: at 1, pictures that are the same lose all of it"""
    layer: str = ""
    """layer whose channels' correlations (Gram matrix) are to differ; empty takes the last of the trunk below the unit"""
    steps: int = 512
    """steps of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    std: float = 0.01
    """standard deviation of the spectrum's random start, per real and imaginary part"""
    decay: float = 1.0
    """exponent of the 1/f scaling of the spectrum"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does"""
    size: int = 0
    """pixels of the picture's longer side, above the network's own; 0 is the network's own size"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pictures < 1:
            raise UserError(f"pictures must be at least 1, got {self.pictures}")
        if self.weight < 0:
            raise UserError(f"weight must not be negative, got {self.weight}")


@method(
    "diverse", Diverse, paper="doi:10.23915/distill.00007", units=UNIT_KINDS, together=lambda item: item.target.text
)
def diverse(items: Sequence[Item], config: Diverse, context: Context) -> Iterator[Draft]:
    """Maximises the score of k pictures of each unit, less how alike their Gram matrices are.

    Samples 0 to k-1 of a unit are one group, samples k to 2k-1 the next. A group is made as a whole, also where only some of
    its samples are asked for, so that a picture depends on its unit, sample and seed alone.
    """
    from entoptic.methods.large import from_coarse_to_fine, measured_at_both_sizes

    k = config.pictures
    groups: dict[_Group, list[Item]] = {}
    for item in items:
        groups.setdefault(_group(item, k), []).append(item)
    # Every member of every group, the item itself where it was asked for.
    members: list[Item] = []
    for group, asked in groups.items():
        by_sample = {item.sample: item for item in asked}
        members += [by_sample.get(s, replace(asked[0], sample=s)) for s in range(group[2], group[2] + k)]
    wanted = {id(item): len(asked) for asked in groups.values() for item in asked}

    def make(stage: Stage) -> Iterator[Draft]:
        return _made_to_differ(config, stage)

    for draft in from_coarse_to_fine(members, config.size, config.steps, context, make):
        if (asked_of_group := wanted.get(id(draft.item))) is None:
            continue
        if draft.image is None or draft.trace.evaluations is None:
            yield draft
            continue
        notes = [*draft.trace.notes]
        if k > 1:
            tap = gram_tap(context.model, draft.item.unit, config.layer)
            notes.append(f"one of {k} pictures that were made to differ at {tap}, {asked_of_group} of them asked for")
        trace = replace(draft.trace, notes=notes, evaluations=draft.trace.evaluations * k // asked_of_group)
        yield measured_at_both_sizes(replace(draft, trace=trace), context)


_Group = tuple[str, int, int]
"""Unit, seed, and the first of the samples that are made together."""


def _group(item: Item, k: int) -> _Group:
    return item.target.text, item.seed, item.sample - item.sample % k


def _made_to_differ(config: Diverse, stage: Stage) -> Iterator[Draft]:
    """Makes whole groups at one size. Where one picture of a group has failed before, the others fail too."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import chain, identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.large import squares
    from entoptic.methods.weighed_objectives import Likeness, distinct_activation

    context, k, own = stage.context, config.pictures, stage.context.model.card.size
    left: dict[_Group, int] = {}
    for item in stage.items:
        left[_group(item, k)] = left.get(_group(item, k), 0) + 1
    kept = [i for i, item in enumerate(stage.items) if left[_group(item, k)] == k]
    for item in stage.items:
        if left[_group(item, k)] < k:
            yield failed(item, f"another picture of the group of {item.unit} failed", FailureCode.NOT_FINITE)
    if not kept:
        return
    members = [stage.items[i] for i in kept]
    taps = [gram_tap(context.model, member.unit, config.layer) for member in members[::k]]
    likeness = Likeness(taps, k)
    generators = [member.generator() for member in members]
    canvas = Spectrum(generators, stage.size, context.model.device, std=config.std, decay=config.decay, gain=0.25)
    if stage.start is not None:
        canvas.start_at(stage.start[kept])
    view = lucid_transforms(own) if config.transforms else identity
    drafts = ascend(
        members,
        canvas,
        distinct_activation([member.unit for member in members], likeness, config.weight),
        torch.optim.Adam([canvas.parameter], lr=config.lr),
        context,
        steps=stage.steps,
        generators=generators,
        augment=view if stage.size == own else chain(squares(own), view),
    )
    for place, draft in enumerate(drafts):
        detail = {"gram_cosine": likeness.record(place)} if k > 1 and draft.image is not None else {}
        yield replace(draft, trace=replace(draft.trace, detail=detail)) if detail else draft


def gram_tap(model: Model, unit: Unit, layer: str) -> Tap:
    """Returns the tap of the layer at which pictures of a unit are to differ.

    Args:
        model: the network under study.
        unit: the unit.
        layer: its name; "" takes the last layer of the trunk that runs before the unit's own, or the first where none does.

    Raises:
        UserError: there is no such layer; the message names the nearest.
    """
    from entoptic.images.relevance_weighting import layers_below
    from entoptic.models.taps import Tap
    from entoptic.models.trunk import trunk_layers

    if layer:
        model.layer(layer)
        return Tap(layer)
    trunk = [Tap(name) for name in trunk_layers(model)]
    return (layers_below(model, trunk, unit) or (trunk[0],))[-1]
