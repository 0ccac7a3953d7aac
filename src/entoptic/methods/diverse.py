"""Pictures of one unit that differ from each other: Fourier ascent with a diversity term (Olah et al., Distill 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from entoptic.errors import UserError
from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from entoptic.models.model import Model
    from entoptic.models.taps import Tap
    from entoptic.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Diverse(MethodConfig):
    """Fourier feature visualisation, several pictures that differ (Olah et al. 2017)."""

    pictures: int = 4
    """k: pictures of a unit that are made together so that they differ; ask for all of them with n=k (--n k)"""
    weight: float = 1.0
    """of the likeness of two pictures, in units of the unit's score: at 1, pictures that are the same lose all of it"""
    layer: str = ""
    """layer whose channels' correlations (Gram matrix) are to differ; empty takes the last of the trunk below the unit"""
    steps: int = 512
    """of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    std: float = 0.01
    """of the spectrum's random start, per real and imaginary part"""
    decay: float = 1.0
    """exponent of the 1/f scaling of the spectrum"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does"""

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
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.weighed_objectives import Likeness, distinct_activation

    size, k = context.model.card.size, config.pictures
    groups: dict[tuple[str, int, int], list[Item]] = {}
    for item in items:
        first = item.sample - item.sample % k
        groups.setdefault((item.target.text, item.seed, first), []).append(item)
    # Every member of every group, the item itself where it was asked for.
    members: list[Item] = []
    for (_, _, first), asked in groups.items():
        by_sample = {item.sample: item for item in asked}
        members += [by_sample.get(s, replace(asked[0], sample=s)) for s in range(first, first + k)]
    units = [group[0].unit for group in groups.values()]
    likeness = Likeness([gram_tap(context.model, unit, config.layer) for unit in units], k)
    generators = [member.generator() for member in members]
    canvas = Spectrum(generators, size, context.model.device, std=config.std, decay=config.decay, gain=0.25)
    drafts = ascend(
        members,
        canvas,
        distinct_activation([member.unit for member in members], likeness, config.weight),
        torch.optim.Adam([canvas.parameter], lr=config.lr),
        context,
        steps=config.steps,
        generators=generators,
        augment=lucid_transforms(size) if config.transforms else identity,
    )
    wanted = {id(item): len(group) for group in groups.values() for item in group}
    for place, draft in enumerate(drafts):
        if (asked_of_group := wanted.get(id(draft.item))) is None:
            continue
        if draft.image is None or draft.trace.evaluations is None:
            yield draft
            continue
        notes = [*draft.trace.notes]
        if k > 1:
            tap = likeness.taps[place // k]
            notes.append(f"one of {k} pictures that were made to differ at {tap}, {asked_of_group} of them asked for")
        trace = replace(
            draft.trace,
            notes=notes,
            evaluations=draft.trace.evaluations * k // asked_of_group,
            detail={"gram_cosine": likeness.record(place)} if k > 1 else {},
        )
        yield replace(draft, trace=trace)


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
