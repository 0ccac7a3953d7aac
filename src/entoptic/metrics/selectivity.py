"""Whether a picture is about its unit or about its whole layer: deviations from what is usual in real photos."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.images.references import References
from entoptic.metrics.evidence import Evidence, missing
from entoptic.units.dictionary import digest
from entoptic.units.unit import Unit

MOMENTS = 256
"""Photos behind the mean and standard deviation of the units of a layer."""


def layer_moments(references: References, unit: Unit) -> tuple[Tensor, Tensor, int]:
    """Mean and standard deviation (C each, float32) over real photos of every unit of a layer, read as `unit` is.

    Returns:
        Them and the number of photos: all of an index that holds the layer, else at most `MOMENTS`, at even distances
        through the set.
    """
    model, photos, index = references.model, references.photos, references.index
    assert photos is not None
    if index is not None and unit in index:
        held = [index.moments(replace(unit, index=i)) for i in range(model.layer(unit.layer).channels)]
        variance = torch.tensor([m.variance for m in held], dtype=torch.float64)
        return torch.tensor([m.mean for m in held]), variance.sqrt().float(), held[unit.index].n
    indices = evenly(len(photos), MOMENTS)
    key = content_key(
        {"weights": model.card.weights_sha256, "card": model.card.preprocessing(), "tap": str(unit.tap),
         "readout": unit.readout, **({"dictionary": digest(unit.dictionary)} if unit.dictionary is not None else {}),
         "photos": [photos.sha256(i) for i in indices]}
    )  # fmt: skip
    known = load_cached("moments", key)
    if known is None:
        rows = []
        with torch.no_grad(), model.frozen():
            for _, images in photos.batches(model.card.prepare, references.batch_size, indices):
                rows.append(siblings(unit, model.read(images.to(model.device), [unit.tap])[unit.tap]).cpu().double())
        table = torch.cat(rows)
        known = {
            "mean": table.mean(0).float(),
            "sd": table.std(0, unbiased=False).float(),
            "n": torch.tensor(len(table)),
        }
        save_cached("moments", key, known)
    return known["mean"], known["sd"], int(known["n"])


def siblings(unit: Unit, values_BCD: Tensor) -> Tensor:
    """Every unit of the layer (B×C), or every feature of the unit's dictionary (B×K), read in the way that `unit` is."""
    if unit.dictionary is not None:
        values_BCD = unit.dictionary.activations(values_BCD)
    if unit.position is not None:
        return values_BCD[:, :, unit.position]
    return values_BCD.amax(2) if unit.readout.startswith("max") else values_BCD.mean(2)


def selectivity(unit: Unit, values_BCD: Tensor, moments: tuple[Tensor, Tensor, int]) -> Evidence:
    """How much further the picture drives its unit out of the usual than the units beside it, in standard deviations.

    Every unit's activation is counted from its mean over real photos in its own standard deviations, because raw
    activations of two units have no common scale (`rank`, which compares them raw, favours units that are large on
    everything). The value is the unit's z minus the 99th percentile of the other units' z: above 0, the picture is
    about this unit and not about its layer. Exact for these photos; units that never vary on them are not counted.
    """
    if unit.direction is not None:
        return missing("selectivity", "a direction has no sibling units")
    mean, sd, photos = moments
    now = siblings(unit, values_BCD)[0].float().cpu()
    varies = sd > 1e-6 * mean.abs().clamp_min(1e-12)
    if not bool(varies[unit.index]):
        return missing("selectivity", f"the unit is {float(mean[unit.index]):.3g} on all of {photos} photos")
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
        "strongest other": int(others.nonzero()[rest.argmax()]), "place": 1 + int((rest > own).sum()), "photos": photos,
    }  # fmt: skip
    value = own - high
    return Evidence("selectivity", value, len(rest), (value, value), "higher", "sd", detail=detail)


def evenly(total: int, count: int) -> list[int]:
    """At most `count` positions of `total` at even distances."""
    return sorted({int((k + 0.5) * total / count) for k in range(count)}) if total > count else list(range(total))
