"""What a unit's photos have beyond other photos: matching targets, exaggerated.

Strong photos of an inner unit have much in common with all photos. A picture that matches their features is therefore much like any
other such picture. Here a target t is moved away from the features n of photos that do not drive the unit, to t + c·(t - n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from entoptic.errors import NotAvailable
from entoptic.images.matching_targets import MatchingTarget
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit

if TYPE_CHECKING:
    from entoptic.images.references import References


def layers_up_to(model: Model, taps: Sequence[Tap], unit: Unit) -> tuple[Tap, ...]:
    """Selects the layers that run before a unit, and adds its own: those whose features the unit can depend on, and itself.

    A combination reaches to the deepest layer of its parts.

    Args:
        model: the network.
        taps: the layers to choose from.
        unit: the unit.

    Returns:
        Taps in the order in which the layers run; the unit's own layer is the last.
    """
    own = max((part.layer for _, part in unit.terms), key=lambda layer: model.layer(layer).order)
    order = model.layer(own).order
    # A part of the unit's own stage would count twice: its end is the stage's output.
    below = [t for t in taps if model.layer(t.layer).order < order and not t.layer.startswith(f"{own}.")]
    return (*sorted(below, key=lambda t: model.layer(t.layer).order), Tap(own))


def contrasted(target: MatchingTarget, others: MatchingTarget, amount: float) -> MatchingTarget:
    """Returns a target moved away from that of other photos, by `amount` times its distance from it.

    Args:
        target: mean sorted values of a unit's own reference photos, without relevance.
        others: of photos that are not the unit's own; it holds the same layers.
        amount: 0 leaves the target's values as they are; 1 doubles its distance.
    """
    values = {tap: value + amount * (value - others.values[tap]) for tap, value in target.values.items()}
    return replace(target, values=values, source=f"{target.source}, against {others.source}", against=others)


def is_answer(unit: Unit) -> bool:
    """Whether a unit has a logit in it: its photos are matched as a whole."""
    return any(part.kind == "logit" for _, part in unit.terms)


def away_from_others(
    target: MatchingTarget, unit: Unit, references: References, amount: float, used: int
) -> MatchingTarget:
    """Returns a unit's target moved away from that of other photos (`References.others`).

    Args:
        target: mean sorted values of the unit's own reference photos.
        unit: the unit.
        references: the photos, or the shipped statistics. Where these hold no other photos, a logit's target stays as it is.
        amount: 1 doubles its distance.
        used: number of reference photos asked for the target.

    Raises:
        UserError: there are no other photos for an inner unit.
    """
    try:
        return contrasted(target, references.others(unit, tuple(target.values), used), amount)
    except NotAvailable:
        if is_answer(unit):
            return target
        raise
