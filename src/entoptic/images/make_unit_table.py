"""Makes the tables of reference statistics that the package ships (see `unit_table`).

python -m entoptic.images.make_unit_table builtin:lite0 logits --photos SHARP_PHOTOS… --out lite0.logits.units.safetensors
python -m entoptic.images.make_unit_table builtin:lite0 blocks.6 --photos PHOTOS --rank 64 --out lite0.blocks.6.units.safetensors
python -m entoptic.images.make_unit_table builtin:lite0 blocks.6 --relevance none --photos PHOTOS… --rank 64 \
    --out lite0.blocks.6.whole.units.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from entoptic.base.sorting import sorted_rows
from entoptic.images.unit_table import UnitTable, class_weights, factorise, table_ranks, write_table
from entoptic.models.model import LOGITS
from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from entoptic.images.photos import Photos
    from entoptic.models.model import Model

EFFECTIVE = 8.0
"""Effective number of photos behind a class."""
MOST = 60
"""Number of photos that can count for a class."""
STRONGEST = 25
"""Number of photos behind a channel."""
RANK = 256
"""Directions that all units of a layer share, per matched layer."""


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
    logit_tap = Tap(LOGITS)
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
                    curves[tap].append(values_BCD[:, :, table_ranks(values_BCD.shape[2], "none")].half())
                print(f"{source}: {len(classes)} photos so far", file=sys.stderr)
    return {tap: torch.cat(parts) for tap, parts in curves.items()}, torch.cat(logits), torch.tensor(classes)


def table_of_classes(
    model: Model, curves: dict[Tap, Tensor], logits_NL: Tensor, classes_N: Tensor, *,
    effective: float = EFFECTIVE, most: int = MOST, rank: int = RANK,
) -> UnitTable:  # fmt: skip
    """Computes the table of all classes.

    Args:
        model: the network.
        curves: per tap N×C×K sorted values.
        logits_NL: of the photos.
        classes_N: of the photos, -1 for none.
        effective: see `class_weights`.
        most: see `class_weights`.
        rank: directions per matched layer.
    """
    count = logits_NL.shape[1]
    weights_LN = torch.stack([class_weights(logits_NL[:, k], effective, most) for k in range(count)])
    counts_LN = weights_LN > 0.1 / effective
    own_L = (counts_LN & (classes_N[None] == torch.arange(count)[:, None])).sum(1)
    factors = {
        str(tap): factorise(weights_LN @ values_NCK.flatten(1).float(), rank) for tap, values_NCK in curves.items()
    }
    recipe = (
        f"softmax weights of effective number {effective:g} over the {most} strongest of {len(logits_NL)} photos; "
        f"rank {rank}"
    )
    return UnitTable(
        layer=LOGITS, factors=factors, channels={str(tap): v.shape[1] for tap, v in curves.items()},
        photos_n=(1 / weights_LN.square().sum(1)).round(), own_n=own_L, importance={}, relevance="none",
        meta=_meta(model, len(logits_NL), recipe),
    )  # fmt: skip


def table_of_channels(
    model: Model, layer: str, photos: Photos, taps: Sequence[Tap], *, rank: int, relevance: str = "lrp"
) -> UnitTable:
    """Computes the table of all channels of a layer, as VITAL matches them: weighted by relevance at the layers below.

    Args:
        model: the network.
        layer: whose channels.
        photos: the set whose strongest photos stand for each channel.
        taps: the layers that VITAL matches; those below `layer` count, the first of them not.
        rank: directions per matched layer.
        relevance: see `RelevanceWeighting`.

    Raises:
        UserError: no matched layer lies below the layer.
    """
    from entoptic.images.references import References
    from entoptic.images.relevance_weighting import RelevanceWeighting, layers_below
    from entoptic.units.unit import bind

    references = References(model, photos, batch_size=25)
    units = bind(model, [f"{layer}:*"])
    references.expect(units)
    rows: dict[str, list[Tensor]] = {}
    shares: dict[str, list[Tensor]] = {}
    channels: dict[str, int] = {}
    read = []
    for number, unit in enumerate(units, 1):
        below = layers_below(model, taps, unit)
        target = references.target(unit, below[1:] or below, STRONGEST, wanted=RelevanceWeighting(relevance))
        for tap, values_CD in target.values.items():
            kept_CK = values_CD[:, table_ranks(values_CD.shape[1], relevance)]
            rows.setdefault(str(tap), []).append(kept_CK.flatten().cpu())
            shares.setdefault(str(tap), []).append(target.importance[tap].cpu())
            channels[str(tap)] = len(values_CD)
        read.append(target.photos)
        print(f"{layer}: {number} of {len(units)} channels", file=sys.stderr)
    recipe = f"{STRONGEST} photos a unit of {len(photos)}; rank {rank}"
    return UnitTable(
        layer=layer, factors={name: factorise(torch.stack(values), rank) for name, values in rows.items()},
        channels=channels, photos_n=torch.tensor(read), own_n=torch.zeros(len(read)),
        importance={name: torch.stack(values) for name, values in shares.items()}, relevance=relevance,
        meta=_meta(model, len(photos), recipe),
    )  # fmt: skip


def whole_table_of_channels(
    model: Model, layer: str, photos: Sequence[str], taps: Sequence[Tap], *, rank: int
) -> UnitTable:
    """Computes the table of all channels of a layer from whole photos, not weighted by relevance, in one pass over them.

    Args:
        model: the network.
        layer: whose channels.
        photos: sets whose strongest photos stand for each channel.
        taps: the layers that VITAL matches; those that run before the layer count, and the layer itself.
        rank: directions per matched layer.
    """
    from entoptic.images.contrast import layers_up_to
    from entoptic.images.photos import Photos
    from entoptic.units.unit import bind

    units = bind(model, [f"{layer}:*"])
    taps = layers_up_to(model, taps, units[0])
    curves: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    scores = []
    with torch.no_grad(), model.frozen():
        for source in photos:
            for _, images in Photos.open(source).batches(model.card.prepare, 32):
                read = model.read(images.to(model.device), taps)
                scores.append(torch.stack([unit.read(read[unit.tap]) for unit in units], 1).cpu())
                for tap in taps:
                    values_BCD = sorted_rows(read[tap]).cpu()
                    curves[tap].append(values_BCD[:, :, table_ranks(values_BCD.shape[2], "none")].half())
                print(f"{source}: {sum(map(len, scores))} photos so far", file=sys.stderr)
    scores_Nn = torch.cat(scores)
    count = min(STRONGEST, len(scores_Nn))
    strongest_kn = scores_Nn.topk(count, dim=0).indices
    factors = {}
    for tap, parts in curves.items():
        values_NF = torch.cat(parts).flatten(1)
        factors[str(tap)] = factorise(torch.stack([values_NF[rows].float().mean(0) for rows in strongest_kn.T]), rank)
    return UnitTable(
        layer=layer, factors=factors, channels={str(tap): parts[0].shape[1] for tap, parts in curves.items()},
        photos_n=torch.full((len(units),), count), own_n=torch.zeros(len(units)), importance={}, relevance="none",
        meta=_meta(model, len(scores_Nn), f"{count} photos a unit of {len(scores_Nn)}; rank {rank}"),
    )  # fmt: skip


def _meta(model: Model, photos: int, recipe: str) -> dict[str, Any]:
    card = model.card
    return {
        "weights_sha256": card.identity, "card": card.preprocessing_json(), "model": card.name,
        "photos": photos, "recipe": recipe,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes a file from the command line; see the module's first lines."""
    from entoptic.images.photos import Photos
    from entoptic.models.sources import load
    from entoptic.models.trunk import trunk_layers

    parser = argparse.ArgumentParser(description="Make the table of reference statistics of a layer's units.")
    parser.add_argument("model")
    parser.add_argument("layer", help="logits, or a layer whose channels are units")
    parser.add_argument("--photos", required=True, nargs="+", help="photos of many classes, at least 224 pixels wide")
    parser.add_argument("--relevance", default="lrp", help='of channels: kind of relevance, or "none" for whole photos')
    parser.add_argument("--rank", type=int, default=RANK, help="directions per matched layer")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    model = load(given.model)
    taps = [Tap(layer) for layer in trunk_layers(model)]
    if given.layer == LOGITS:
        table = table_of_classes(model, *sorted_curves(model, given.photos, taps), rank=given.rank)
    elif given.relevance == "none":
        table = whole_table_of_channels(model, given.layer, given.photos, taps, rank=given.rank)
    else:
        photos = Photos.open(given.photos[0])
        table = table_of_channels(model, given.layer, photos, taps, rank=given.rank, relevance=given.relevance)
    write_table(given.out, table)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {len(table.photos_n)} units")


if __name__ == "__main__":
    main()
