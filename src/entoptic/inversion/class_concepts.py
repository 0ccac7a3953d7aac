"""Concepts of a class in a model's own maps: reads a class's photos, its head's weights, and hands both to MCD."""

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
    """Maps B×C×h×w of pictures B×3×H×W, and what the logit of a class reads from them."""
    with torch.no_grad():
        maps_BChw = maps.read(pictures)
    found = head_weights(maps.model.module, lambda given: maps.logits(given, pictures)[:, class_index], maps_BChw)
    return maps_BChw, found


def concepts_of(
    model: Model, layer: str, photos: Any, class_index: int, config: Mcd | None = None, *,
    batch_size: int = 16, limit: int = 400,
) -> Concepts:  # fmt: skip
    """Concepts of class `class_index` in the maps of `layer`.

    Args:
        photos: anything `Photos.open` takes. Of labelled photos those of the class are read (all if none has its label).
        limit: most photos, the first of them.

    Raises:
        UserError: no photo, no map over the picture, no such class, or what `discover` refuses.
    """
    last = model.outputs - 1
    if not 0 <= class_index <= last:
        near = min(max(class_index, 0), last)
        raise UserError(f"{model.card.name} has logits 0 to {last}, not {class_index}; did you mean logits:{near}?")
    maps, opened = FeatureMaps.of(model, layer), Photos.open(photos)
    side = model.card.size[0]  # the whole central square, as inverters see photos
    indices: Sequence[int] = opened.of_class(model.card.identifiers(class_index), class_index)
    if (
        not indices and len({photo.labels for photo in opened}) > 1
    ):  # photos of one unnamed kind are taken at their word
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
    # Pictures differ in the scale σ of their weights only, which neither completeness nor global relevance sees.
    return discover(
        torch.cat(vectors), torch.cat(weights).mean(0), config,
        layer=layer, model_sha256=model.card.weights_sha256, found=about,
    )  # fmt: skip
