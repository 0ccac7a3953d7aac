"""Which class of a network each photo is of."""

from __future__ import annotations

import numpy as np

from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.models.model import Model


def true_classes(model: Model, photos: Photos) -> np.ndarray:
    """Returns the class of each photo as the network counts them; -1 where its label is none of them.

    Args:
        model: the network.
        photos: with labels.

    Raises:
        UserError: no photo has a label, or none is a class of the network.
    """
    check_labelled(photos, "errors can only be found on photos with labels")
    found = np.full(len(photos), -1)
    for index in range(model.outputs):
        for photo in photos.of_class(model.card.identifiers(index), index):
            if found[photo] < 0:
                found[photo] = index
    if not (found >= 0).any():
        known = ", ".join(list(photos.classes())[:5])
        raise UserError(
            f"none of the labels of {photos.source} ({known}) is a class of {model.card.name}; name class folders as "
            f"`entoptic ls {model.card.name}` names the logits, or give a labels.csv with class_index"
        )
    return found


def check_labelled(photos: Photos, why: str) -> None:
    """Checks that photos have labels.

    Args:
        photos: the photos.
        why: they are needed; begins the message.

    Raises:
        UserError: there is none.
    """
    if not any(photo.labels or photo.class_index is not None for photo in photos):
        raise UserError(f"{why}; {photos.source} has none: give a folder of class folders, or one with labels.csv")
