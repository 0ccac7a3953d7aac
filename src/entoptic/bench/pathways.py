"""Whether a unit's pictures go through the network as its photos do: how both depart from photos of anything, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from entoptic.base.pixels import to_float
from entoptic.base.progress import Reporter
from entoptic.bench.make import Setting, Shot
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.images.unit_reference import MOMENTS, evenly_spaced
from entoptic.metrics.sets.pathway import Usual, departure, mean_activations
from entoptic.models.trunk import trunk_layers
from entoptic.units.unit import Unit

FEWEST = 4
"""Strong photos that two halves are made of."""


@dataclass(frozen=True, kw_only=True)
class Pathway:
    """What one method's pictures of one unit share with the unit's photos.

    Attributes:
        method: label of the row.
        unit: string of the unit.
        value: mean cosine over layers, or None.
        real: the same of one half of the unit's strongest photos against the other.
        reason: why there is no value.
    """

    method: str
    unit: str
    value: float | None = None
    real: float | None = None
    reason: str = ""


def pathways(
    setting: Setting, shots: Sequence[Shot], references: References, photos: Photos, report: Reporter
) -> list[Pathway] | str:
    """Measures every method's pictures of every unit.

    Args:
        setting: the subject.
        shots: its pictures.
        references: of the held-out photos.
        photos: the held-out photos.
        report: is told of the progress.

    Returns:
        One result for each method and unit, or why there is none at all.
    """
    model = setting.model
    try:
        trunk = trunk_layers(model)
        indices = evenly_spaced(len(photos), MOMENTS)
        images = torch.cat([batch for _, batch in photos.batches(model.card.prepare, 25, indices)])
        usual = Usual.of(mean_activations(model, images, trunk))
    except UserError as error:
        return str(error)
    found: list[Pathway] = []
    for done, unit in enumerate(setting.units, 1):
        own = {entry.label: [shot for shot in shots if shot.method == entry.label and shot.unit == unit]
               for entry in setting.subject.methods}  # fmt: skip
        found += _of_unit(unit, {label: some for label, some in own.items() if some}, trunk, references, usual)
        report.progress(f"pathways of {setting.subject.name}", done, len(setting.units))
    return found


def _of_unit(
    unit: Unit, by_method: Mapping[str, Sequence[Shot]], trunk: Sequence[str], references: References, usual: Usual
) -> list[Pathway]:
    """The layers before the unit's own: in that one, the unit itself would outweigh all else."""
    known, exemplars = unit.model.layers, references.unit_reference(unit).exemplars
    layers = [one for one in trunk if unit.layer not in known or known[one].order < known[unit.layer].order]
    why = ""
    if isinstance(exemplars, str):
        why = exemplars
    elif not layers:
        why = f"no layer of the trunk leads to {unit.layer}"
    elif len(exemplars.strongest) < FEWEST:
        why = f"it needs {FEWEST} strong photos, there are {len(exemplars.strongest)}"
    if why or isinstance(exemplars, str):
        return [Pathway(method=method, unit=str(unit), reason=why) for method in by_method]
    strong = mean_activations(unit.model, exemplars.strongest, layers)
    halves = [{layer: rows[k::2] for layer, rows in strong.items()} for k in (0, 1)]
    real = _mean(departure(halves[0], halves[1], usual))
    found = []
    for method, shots in by_method.items():
        pictures = torch.cat([to_float(shot.picture.pixels) for shot in shots])
        made = mean_activations(unit.model, pictures, layers)
        found.append(Pathway(method=method, unit=str(unit), value=_mean(departure(made, strong, usual)), real=real))
    return found


def _mean(found: Mapping[str, float]) -> float:
    return sum(found.values()) / len(found)
