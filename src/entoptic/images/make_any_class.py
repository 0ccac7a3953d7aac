"""Makes the statistics of every class that the package ships (see `any_class`).

python -m entoptic.images.make_any_class builtin:lite0 --photos SHARP_PHOTOS… --out lite0.any-class.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from entoptic.base.sorting import sorted_rows
from entoptic.images.any_class import KNOTS, Factors, class_weights, factorise, write_any_class
from entoptic.images.shipped_statistics import kept_ranks
from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from entoptic.models.model import Model

EFFECTIVE = 8.0
"""Effective number of photos behind a class."""
MOST = 60
"""Number of photos that can count for a class."""
RANK = 256
"""Directions that all classes share, per layer."""


def sorted_curves(model: Model, photos: Sequence[str], taps: Sequence[Tap]) -> tuple[dict[Tap, Tensor], Tensor, Tensor]:
    """Reads the sorted features of photos at a few ranks, their logits and their classes.

    Args:
        model: the network.
        photos: sets of photos.
        taps: the layers.

    Returns:
        Per tap N×C×K float16, logits N×L, and classes N, -1 where a photo has none that the network knows.
    """
    from entoptic.images.photos import Photos

    curves: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    logits, classes = [], []
    logit_tap = Tap("logits")
    with torch.no_grad(), model.frozen():
        for source in photos:
            opened = Photos.open(source)
            known = {at: i for i in range(model.outputs) for at in opened.of_class(model.card.identifiers(i), i)}
            for indices, images in opened.batches(model.card.prepare, 32):
                read = model.read(images.to(model.device), [*taps, logit_tap])
                logits.append(read[logit_tap][:, :, 0].cpu())
                classes += [known.get(at, -1) for at in indices]
                for tap in taps:
                    values_BCD = sorted_rows(read[tap]).cpu()
                    curves[tap].append(values_BCD[:, :, kept_ranks(values_BCD.shape[2], KNOTS)].half())
                print(f"{source}: {len(classes)} photos so far", file=sys.stderr)
    return {tap: torch.cat(parts) for tap, parts in curves.items()}, torch.cat(logits), torch.tensor(classes)


def make_any_class(
    curves: dict[Tap, Tensor], logits_NL: Tensor, classes_N: Tensor, *, effective: float, most: int, rank: int
) -> tuple[dict[str, Factors], Tensor, Tensor]:
    """Computes the statistics of every class.

    Args:
        curves: per tap N×C×K sorted values.
        logits_NL: of the photos.
        classes_N: of the photos, -1 for none.
        effective: see `class_weights`.
        most: see `class_weights`.
        rank: directions per layer.

    Returns:
        Factors per tap, photos of each class itself among those that count (L), and effective numbers of photos (L).
    """
    count = logits_NL.shape[1]
    weights_LN = torch.stack([class_weights(logits_NL[:, k], effective, most) for k in range(count)])
    counts_LN = weights_LN > 0.1 / effective
    own_L = (counts_LN & (classes_N[None] == torch.arange(count)[:, None])).sum(1)
    factors = {}
    for tap, values_NCK in curves.items():
        table_LF = weights_LN @ values_NCK.flatten(1).float()
        factors[str(tap)] = factorise(table_LF, rank)
    return factors, own_L, (1 / weights_LN.square().sum(1)).round()


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the file from the command line; see the module's first lines."""
    from entoptic.models.sources import load
    from entoptic.models.trunk import trunk_layers

    parser = argparse.ArgumentParser(description="Make the statistics of every class of a model from real photos.")
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, nargs="+", help="photos of many classes, at least 224 pixels wide")
    parser.add_argument("--effective", type=float, default=EFFECTIVE, help="effective number of photos of a class")
    parser.add_argument("--most", type=int, default=MOST, help="number of photos that can count for a class")
    parser.add_argument("--rank", type=int, default=RANK, help="directions per layer")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    model = load(given.model)
    taps = [Tap(layer) for layer in trunk_layers(model)]
    curves, logits_NL, classes_N = sorted_curves(model, given.photos, taps)
    factors, own_L, photos_L = make_any_class(
        curves, logits_NL, classes_N, effective=given.effective, most=given.most, rank=given.rank
    )
    meta = {
        "weights_sha256": model.card.weights_sha256, "card": model.card.preprocessing_json(), "model": model.card.name,
        "photos": len(logits_NL),
        "recipe": f"softmax weights of effective number {given.effective:g} over the {given.most} strongest of "
        f"{len(logits_NL)} photos; rank {given.rank}; {KNOTS} ranks a sketch",
    }  # fmt: skip
    write_any_class(given.out, factors, {str(t): v.shape[1] for t, v in curves.items()}, own_L, photos_L, meta)
    print(
        f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {logits_NL.shape[1]} classes, {len(logits_NL)} photos"
    )


if __name__ == "__main__":
    main()
