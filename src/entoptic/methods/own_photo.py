"""A photo that a method starts at or exaggerates: known by its content, and seen through the views of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from entoptic.errors import UserError
from entoptic.inversion.targets import picture_of, readable

if TYPE_CHECKING:
    from entoptic.methods.augment import Augment
    from entoptic.models.model import Model


def prepared_photo(model: Model, photo: str, sha256: str, method: str) -> Tensor:
    """Returns the photo as the network sees it, 3×H×W in [0, 1].

    Args:
        model: the network.
        photo: its file.
        sha256: of the content that was asked for.
        method: name, for the message.

    Raises:
        UserError: none was named, it cannot be read, or it is another one than was asked for.
    """
    if not photo:
        raise UserError(f"{method} starts at a photo: give --{method}.photo FILE (Python: photo=…)")
    if (found := readable(photo)).sha256 != sha256:
        raise UserError(f"{photo} is another photo than was asked for: sha256 {found.sha256[:16]}, not {sha256[:16]}")
    return model.card.prepare(picture_of(photo))


def with_same_views(view: Augment, photos: Tensor, seen: Callable[[Tensor], None]) -> Augment:
    """Returns an augmentation that shows the photos through the same random views as the pictures.

    Args:
        view: of the pictures.
        photos: B×3×H×W.
        seen: called at each step with the photos' views, before those of the pictures are drawn.
    """

    def run(images: Tensor, generators: Sequence[Generator]) -> Tensor:
        states = [generator.get_state() for generator in generators]
        with torch.no_grad():
            seen(view(photos, generators))
        for generator, state in zip(generators, states):
            generator.set_state(state)
        return view(images, generators)

    return run
