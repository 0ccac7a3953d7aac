"""What a unit's photos have beyond other photos: matching targets, exaggerated.

Strong photos of an inner unit have much in common with all photos. A picture that matches their features is therefore much like any
other such picture. Here a target t is moved away from the features n of photos that do not drive the unit, to t + c·(t - n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from entoptic.images.matching_targets import MatchingTarget
from entoptic.images.references import References
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.unit import Unit


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


def contrasted(
    target: MatchingTarget, references: References, unit: Unit, amount: float, *, logit: bool = False
) -> MatchingTarget:
    """Returns a target moved away from photos that do not drive the unit, by `amount` times its distance from them.

    Args:
        target: mean sorted values of the unit's own reference photos, without relevance.
        references: the photos.
        unit: the unit.
        amount: 0 leaves the target as it is; 1 doubles its distance.
        logit: move it away from photos of all kinds instead, the same for all classes.

    Raises:
        UserError: there are no photos, and no shipped statistics that hold these layers.
    """
    if not amount:
        return target
    taps = tuple(target.values)
    others = references.typical(taps) if logit else references.natural(unit, taps)
    values = {tap: value + amount * (value - others.values[tap]) for tap, value in target.values.items()}
    return replace(target, values=values, source=f"{target.source}, against {others.source}")
