"""Concepts of a class in a model's own maps: reads the class's photos and the head's weights, and applies MCD to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from entoptic.base.pixels import centre_square
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.model import Model
from entoptic.units.concepts import Concepts, Mcd, discover
from entoptic.units.head import HeadWeights, head_weights


def class_weights(maps: FeatureMaps, pictures: Tensor, class_index: int) -> tuple[Tensor, HeadWeights]:
    """Returns the maps B×C×h×w of pictures B×3×H×W, and the weights with which the logit of a class reads them."""
    with torch.no_grad():
        maps_BChw = maps.read(pictures)
    found = head_weights(maps.model.module, lambda given: maps.logits(given, pictures)[:, class_index], maps_BChw)
    return maps_BChw, found


def concepts_of(
    model: Model, layer: str, photos: Any, class_index: int, config: Mcd | None = None, *,
    batch_size: int = 16, limit: int = 400,
) -> Concepts:  # fmt: skip
    """Finds the concepts of a class in the maps of a layer.

    Args:
        model: the network under study.
        layer: a layer with positions in the picture.
        photos: anything `Photos.open` takes. Of labelled photos those of the class are read (all if the set has one label).
        class_index: index of the class's logit.
        config: options of MCD; None for the defaults.
        batch_size: photos per forward pass.
        limit: maximum number of photos; the first ones are taken.

    Raises:
        UserError: no photo, a layer without positions, no such class, or what `discover` refuses.
    """
    last = model.outputs - 1
    if not 0 <= class_index <= last:
        near = min(max(class_index, 0), last)
        raise UserError(f"{model.card.name} has logits 0 to {last}, not {class_index}; did you mean logits:{near}?")
    maps, opened = FeatureMaps.of(model, layer), Photos.open(photos)
    side = model.card.size[0]  # the whole central square, as for inverters
    indices: Sequence[int] = opened.of_class(model.card.identifiers(class_index), class_index)
    if (
        not indices and len({photo.labels for photo in opened}) > 1
    ):  # a set with a single label is taken as photos of the class
        names = ", ".join(list(opened.classes())[:6])
        raise UserError(f"{opened.source} has photos of {names}, …, none of {model.card.label(class_index)}")
    indices = indices or range(len(opened))
    vectors: list[Tensor] = []
    weights: list[Tensor] = []
    heads: list[HeadWeights] = []
    for _, pictures in opened.batches(
        lambda photo: centre_square(photo, side).float() / 255, batch_size, list(indices)[:limit]
    ):
        maps_BChw, head = class_weights(maps, pictures, class_index)
        vectors.append(maps_BChw.flatten(2).transpose(1, 2).flatten(0, 1))
        weights.append(head.weight_BC)
        heads.append(head)
    if not heads:
        raise UserError(f"no photo of class {class_index} could be read from {opened.source}")
    worst = max(heads, key=lambda head: head.gap)
    about = {
        "model": model.card.name, "class": class_index, "label": model.card.label(class_index),
        "photos": len(torch.cat(weights)), "head": str(worst), "head_gap": worst.gap,
    }  # fmt: skip
    # Pictures differ only in the scale σ of their weights, which affects neither completeness nor global relevance.
    return discover(
        torch.cat(vectors), torch.cat(weights).mean(0), config,
        layer=layer, model_sha256=model.card.identity, found=about,
    )  # fmt: skip
