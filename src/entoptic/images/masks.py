"""Masks of objects: PNG files by the names of the photos, white where the object is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from entoptic.base.files import folder_exists, user_path
from entoptic.errors import Unreadable, UserError
from entoptic.images.photos import Photos
from entoptic.models.card import Card


def mask_folder(folder: str | Path | None) -> Path | None:
    """Returns the folder of masks that was given, or None.

    Args:
        folder: of PNG masks.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None:
        return None
    path = user_path(folder)
    if not folder_exists(path):
        raise UserError(f"there is no folder {path}; --masks names a folder of PNG masks")
    return path


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks in a folder.

    Attributes:
        folder: of all of them.
        files: by the name of the photo, without its ending.
    """

    folder: Path
    files: Mapping[str, Sequence[Path]]

    @classmethod
    def find(cls, folder: Path) -> Masks:
        """Finds the masks below a folder.

        Args:
            folder: of all of them.
        """
        files: dict[str, list[Path]] = {}
        for file in sorted(folder.rglob("*.png")):
            files.setdefault(file.stem, []).append(file)
        return cls(folder=folder, files=files)

    def of(self, name: str) -> Path | None:
        """Returns the mask of a photo, None where there is none.

        It lies in a folder of the photo's class, or in none. Where the photos lie in no folders, any folder will do as long as one
        mask alone has the photo's name: another class's `3.png` is not the mask of `dog/3.jpg`.

        Args:
            name: of the photo.
        """
        photo, files = Path(name), self.files.get(Path(name).stem, ())
        own = [file for file in files if file.parent.name == photo.parent.name]
        flat = [file for file in files if file.parent == self.folder]
        only = list(files) if len(files) == 1 and photo.parent == Path(".") else []
        return next(iter([*own, *flat, *only]), None)


def read_mask(file: Path, card: Card) -> Tensor:
    """Reads a mask as the photo is prepared, resized and cut: 1×H×W bool.

    Args:
        file: of the mask.
        card: of the network.

    Raises:
        Unreadable: it is no picture.
    """
    try:
        with Image.open(file) as image:
            return card.prepare(image.convert("RGB")).mean(0, keepdim=True) > 0.5
    except (OSError, ValueError) as error:
        raise Unreadable(f"the mask {file} cannot be read: {error}") from error


def read_masks(masks: Path, photos: Photos, indices: Sequence[int], card: Card) -> Tensor:
    """Reads the masks of photos, N×1×H×W in {0, 1}.

    Args:
        masks: their folder.
        photos: the set.
        indices: of the photos.
        card: of the network.

    Raises:
        UserError: a photo has no mask.
        Unreadable: a mask is no picture.
    """
    found, there = [], Masks.find(masks)
    for index in indices:
        name = photos[index].name
        if (file := there.of(name)) is None:
            raise UserError(f"there is no mask {Path(name).stem}.png in {masks} for the photo {name}")
        found.append(read_mask(file, card))
    return torch.stack(found).float()
