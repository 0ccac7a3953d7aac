"""`selectivity`: whether a picture is about its unit or about its whole layer."""

from __future__ import annotations

from torch import Tensor

from entoptic.images.unit_reference import UnitReference
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import PHOTOS, UNIT, card, metric
from entoptic.models.model import LOGITS
from entoptic.units.unit import Unit, read_siblings, without_siblings

INNER_ONLY = "only for units inside the network; a logit is its answer itself"
"""Reason why a metric of inner units has no value for a logit."""


def selectivity(values_BCD: Tensor, unit: Unit, reference: UnitReference) -> Evidence:
    """Measures how much further the picture drives its unit out of the usual than the units beside it.

    Every unit's activation is counted from its mean over real photos in its own standard deviations (its z), because
    raw activations of two units have no common scale (`rank`, which compares them raw, favours units that are large on
    everything). The value is the unit's z minus the 99th percentile of the other units' z: above 0, the picture is
    about this unit and not about its layer. It is exact for these photos. Units that never vary on them are not
    counted.

    Args:
        values_BCD: values of the unit's tap on the picture, 1×C×D.
        unit: the unit.
        reference: gives `moments`.

    Returns:
        Evidence in standard deviations, n being the number of other units.
    """
    if unit.parts:
        return missing("selectivity", without_siblings(unit))
    if unit.layer == LOGITS:
        return missing("selectivity", INNER_ONLY)
    moments = reference.moments
    if isinstance(moments, str):
        return missing("selectivity", moments)
    mean, sd = moments.mean, moments.sd
    now = read_siblings(unit, values_BCD)[0].float().cpu()
    varies = sd > 1e-6 * mean.abs().clamp_min(1e-12)
    if not bool(varies[unit.index]):
        return missing("selectivity", f"the unit is {float(mean[unit.index]):.3g} on all of {moments.n} photos")
    others = varies.clone()
    others[unit.index] = False
    if not bool(others.any()):
        return missing(
            "selectivity", f"no other {'feature' if unit.dictionary else 'unit of the layer'} varies over the photos"
        )
    z = (now - mean) / sd.clamp_min(1e-30)
    own, rest = float(z[unit.index]), z[others]
    high = float(rest.quantile(0.99))
    detail = {
        "its own deviation": round(own, 3), "99th percentile of the others": round(high, 3),
        "strongest other": int(others.nonzero()[rest.argmax()]), "place": 1 + int((rest > own).sum()),
        "photos": moments.n,
    }  # fmt: skip
    value = own - high
    return Evidence("selectivity", value, len(rest), (value, value), "higher", "sd", detail=detail)


metric(card("selectivity", "Selectivity", unit="sd", targets={UNIT}, needs={PHOTOS}, since=2))(
    lambda p: selectivity(p.values, p.unit, p.reference)
)
