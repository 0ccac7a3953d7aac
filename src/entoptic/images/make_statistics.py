"""Makes the statistics of photos that the package ships (see `shipped_statistics`).

python -m entoptic.images.make_statistics builtin:lite0 --photos CLASS_FOLDERS --broad MIXED_PHOTOS --out lite0.safetensors
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from entoptic.images.shipped_statistics import KNOTS, NATURAL, QUANTILES, PackMeta, thin
from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from entoptic.models.model import Model


def make_pack(
    model: Model, photos: str, broad: Sequence[str], channels: Sequence[str], count: int, taps: Sequence[Tap]
) -> tuple[dict[str, Tensor], PackMeta]:
    """Computes the tensors and the metadata of a pack.

    Args:
        model: the network.
        photos: class folders; each class becomes a logit's reference.
        broad: sets of mixed photos for quantiles and spectrum; the first also gives channels their references.
        channels: units inside the network to hold references of.
        count: reference photos per unit.
        taps: the layers, in the order in which they run.
    """
    from entoptic.images.colour import natural_spectrum
    from entoptic.images.matching_targets import sorted_means
    from entoptic.images.photos import Photos
    from entoptic.images.references import References
    from entoptic.images.relevance_weighting import RelevanceWeighting, layers_below
    from entoptic.units.unit import bind

    labelled = Photos.open(photos)
    mixed = [Photos.open(source) for source in broad]
    card = model.card
    classes = [i for i in range(model.outputs) if labelled.of_class(card.identifiers(i))]
    by_class, of_all = References(model, labelled), References(model, mixed[0])
    tensors: dict[str, Tensor] = {}
    units, relevance = {}, {}
    bound = bind(model, [f"logits:{i}" for i in classes] + list(channels))
    by_class.expect(unit for unit in bound if unit.kind == "logit")
    of_all.expect(unit for unit in bound if unit.kind != "logit")
    for unit in bound:
        layers = layers_below(model, taps, unit)
        if unit.kind == "logit":
            target = by_class.target(unit, taps, count)
        elif not layers:
            target = of_all.target(unit, taps, count)
        else:
            target = of_all.target(unit, layers[1:] or layers, count, wanted=RelevanceWeighting("lrp"))
            relevance[str(unit)] = "lrp"
        units[str(unit)] = target.photos
        for tap, weights in target.importance.items():
            tensors[f"importance|{unit}|{tap}"] = weights.half().cpu()
        for tap, values in target.values.items():
            tensors[f"target|{unit}|{tap}"] = thin(values.cpu())
    step = max(1, len(mixed[0]) // NATURAL)
    chosen = list(range(0, len(mixed[0]), step))[:NATURAL]
    natural, natural_count = sorted_means(model, taps, mixed[0].batches(card.prepare, 32, chosen), lambda n: None)
    for tap, values in natural.items():
        tensors[f"target|natural|{tap}"] = thin(values.cpu())
    logits, means, spectrum, read = [], [], torch.zeros(3, card.size[0], card.size[1] // 2 + 1), 0
    deepest = taps[-1]
    with torch.no_grad():
        for source in mixed:
            for _, images in source.batches(card.prepare, 32):
                read_out = model.read(images.to(model.device), [Tap("logits"), deepest])
                logits.append(read_out[Tap("logits")][:, :, 0].cpu())
                means.append(read_out[deepest].mean(2).cpu())
                spectrum += natural_spectrum(images)
                read += len(images)
    levels = torch.linspace(0, 1, QUANTILES)
    tensors["quantiles|logits"] = torch.cat(logits).quantile(levels, dim=0).T.half()
    tensors[f"quantiles|{deepest}"] = torch.cat(means).quantile(levels, dim=0).T.half()
    tensors["spectrum"] = (spectrum / read).clamp_min(1e-6).log().half()
    meta = PackMeta(
        weights_sha256=card.weights_sha256,
        card=card.preprocessing_json(),
        model=card.name,
        units=units,
        relevance=relevance,
        natural=natural_count,
        layers=[str(tap) for tap in taps],
        broad=read,
        recipe=f"{count} photos a unit; quantiles over {read} mixed photos; {KNOTS} ranks a sketch",
    )
    return tensors, meta


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes a pack from the command line; see the module's first lines."""
    from safetensors.torch import save_file

    from entoptic.models.sources import load
    from entoptic.models.trunk import trunk_layers

    parser = argparse.ArgumentParser(description="Make the statistics pack of a model from real photos.")
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, help="class folders; each becomes a logit's reference")
    parser.add_argument(
        "--broad",
        required=True,
        nargs="+",
        help="photos of many classes: quantiles and spectrum; the first set also gives channels their references",
    )
    parser.add_argument("--channels", nargs="*", default=[], help="channels to hold references of, as units")
    parser.add_argument("--count", type=int, default=25, help="reference photos per unit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    model = load(given.model)
    taps = [Tap(layer) for layer in trunk_layers(model)]
    tensors, meta = make_pack(model, given.photos, given.broad, given.channels, given.count, taps)
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, given.out, metadata={"entoptic": json.dumps(meta.to_json())}
    )
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {len(meta.units)} units, {meta.broad} photos")


if __name__ == "__main__":
    main()
