"""Targets of inversion and steering: the feature map of a photo, an edit of a map, and one concept of a map."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.base.files import folder_exists, paths_in
from entoptic.base.pixels import centre_square
from entoptic.errors import Unreadable, UserError, nearest
from entoptic.images.decode import decode
from entoptic.images.photos import Photos
from entoptic.inversion.arithmetic import MIXINGS, compose, interpolate, region_mask
from entoptic.inversion.maps import FeatureMaps
from entoptic.models.model import Model, predictions
from entoptic.units.grammar import parse, quoted_layer

MAP_KIND, EDIT_KIND = "map", "edit"


@dataclass(frozen=True)
class PhotoFile:
    """A photo.

    Attributes:
        path: of its file as given, or its name in the set of photos that it comes from.
        sha256: of its bytes.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Edit:
    """An edit of a photo's map with the map of another photo.

    Attributes:
        kind: "mix", "paste", or "" for no edit.
        other: the other photo, or None.
        weight: of the other map in a mixture, in [0, 1].
        mixing: how two maps are mixed, one of `MIXINGS`.
        region: top, left, bottom, right in cells of the map, where the other map is pasted.
    """

    kind: str = ""
    other: PhotoFile | None = None
    weight: float = 0.0
    mixing: str = "linear"
    region: tuple[int, ...] = ()

    def apply(self, a_Chw: Tensor, b_Chw: Tensor) -> Tensor:
        """Returns the edited map.

        Args:
            a_Chw: the photo's map.
            b_Chw: the other photo's map.
        """
        if self.kind == "mix":
            return interpolate(a_Chw, b_Chw, self.weight, self.mixing)
        return compose(a_Chw, b_Chw, region_mask((a_Chw.shape[1], a_Chw.shape[2]), self.region))

    def config(self) -> dict[str, Any]:
        """Returns the edit as JSON, for the sidecar and the key."""
        if self.other is None:
            return {}
        found = {self.kind: self.other.path, f"{self.kind}_sha256": self.other.sha256}
        if self.kind == "mix":
            return found | {"weight": self.weight, "mixing": self.mixing}
        return found | {"region": list(self.region)}

    @classmethod
    def of(cls, config: dict[str, Any]) -> Edit:
        """Returns the edit of what `config` returned."""
        for kind in ("mix", "paste"):
            if kind in config:
                other = PhotoFile(config[kind], config[f"{kind}_sha256"])
                region = tuple(config.get("region") or ())
                return cls(kind, other, config.get("weight", 0.0), config.get("mixing", "linear"), region)
        return cls()


@dataclass(frozen=True, kw_only=True)
class MapTarget:
    """The feature map of a photo, or an edit of it, to be brought back as a picture.

    Attributes:
        layer: of the map.
        photo: whose map it is.
        edit: what is done to the map.
    """

    layer: str
    photo: PhotoFile
    edit: Edit = Edit()
    kind = MAP_KIND
    readout = ""

    @property
    def text(self) -> str:
        """The string of the photo's whole map in the unit grammar."""
        return unit_of(self.layer, self.photo)

    @property
    def label(self) -> str:
        """The photo's name."""
        return Path(self.photo.path).name

    @property
    def identity(self) -> str:
        """The map's string, the photo's bytes and the edit."""
        return f"{self.text} {self.photo.sha256} {self.edit.config()}"


@dataclass(frozen=True, kw_only=True)
class EditTarget:
    """One concept of a photo's feature map, to be scaled.

    Attributes:
        layer: of the map.
        photo: whose map it is.
        source: file or name of the dictionary that the concept is of.
        concept: its number there.
        name: what people call it, or None.
    """

    layer: str
    photo: PhotoFile
    source: str
    concept: int
    name: str | None = None
    kind = EDIT_KIND
    readout = ""

    @property
    def text(self) -> str:
        """The concept's string in the unit grammar."""
        return f"dict({self.source}):{self.concept}"

    @property
    def label(self) -> str | None:
        """The concept's name."""
        return self.name

    @property
    def identity(self) -> str:
        """The concept's string and the photo's bytes."""
        return f"{self.text} {self.photo.sha256}"


def edits_of(
    maps: FeatureMaps, mix: Any, weights: Any, mixing: str, paste: Any, region: Any
) -> list[Edit]:  # fmt: skip
    """Returns the edits that a request asks for: none, a mixture for each weight, or a pasted region.

    Args:
        maps: of the layer.
        mix: file of the photo to mix with, or None.
        weights: of that photo, numbers or a string with commas.
        mixing: one of `MIXINGS`.
        paste: file of the photo whose map is pasted, or None.
        region: top, left, bottom, right in cells of the map, numbers or a string with commas.

    Raises:
        UserError: options that do not go together, or a second photo that cannot be read.
    """
    if mix is not None and paste is not None:
        raise UserError("a map is either mixed with another (mix) or has a part of it put in (paste); give one of them")
    if region is not None and paste is None:
        raise UserError("a region was given without the photo to paste there; give --paste PHOTO")
    if mix is not None:
        if mixing not in MIXINGS:
            raise UserError(f'no mixing "{mixing}"; there are {", ".join(MIXINGS)}{nearest(mixing, MIXINGS)}')
        other = readable(mix)
        shares = _numbers(weights, "weights", "0,.25,.5,.75,1")
        return [Edit("mix", other, weight, mixing) for weight in dict.fromkeys(shares)]
    if paste is not None:
        if region is None:
            rows, columns = maps.grid
            raise UserError(f"paste needs a region of the map, top,left,bottom,right in its {rows}×{columns} cells")
        cells = _numbers(region, "region", "0,0,3,3")
        if any(cell != int(cell) for cell in cells):
            raise UserError(f"a region is in whole cells, got {','.join(f'{c:g}' for c in cells)}")
        region_mask(maps.grid, cells)
        return [Edit("paste", readable(paste), region=tuple(int(cell) for cell in cells))]
    return [Edit()]


def _numbers(given: Any, what: str, example: str) -> list[float]:
    try:
        parts = given.split(",") if isinstance(given, str) else list(given)
        found = [float(part) for part in parts]
    except (TypeError, ValueError):
        found = []
    if not found or not all(np.isfinite(found)):
        raise UserError(f"{what} are numbers with commas between them, such as {example}, got {given!r}")
    return found


@dataclass(frozen=True)
class InversionTarget:
    """What an inverted picture is compared with.

    Attributes:
        map_Chw: the map that it was made from.
        target: the class that the network gives the original photo, or the edited map.
        path: for both photos of an edit, the class and the probability that the network's head gives the edited map for it;
            empty without an edit.
        others: verifiers and the class that each gives the original; empty for an edited map, which is of no photo.
        mask_hw: where an edit pasted another map, or None.
        before: the picture of the same noise without the paste, H×W×3 uint8, or None.
        looked_at: what the making of the picture used of the network ("best of 8 by this cosine"), or "".
    """

    map_Chw: Tensor
    target: int
    path: Sequence[tuple[int, float]] = ()
    others: Sequence[tuple[Model, int]] = ()
    mask_hw: Tensor | None = None
    before: np.ndarray | None = None
    looked_at: str = ""


_MAX_KEPT = 16  # photos whose maps are kept at a time


@dataclass
class PhotoReadout:
    """A photo as the network sees it.

    Attributes:
        original: 1×3×S×S in [0, 1], its central square at the network's input size.
        map_Chw: its feature map.
        target: the class that the network gives it.
        others: (network, class) for each verifier.
    """

    original: Tensor
    map_Chw: Tensor
    target: int
    others: list[tuple[Model, int]]


class PhotoReader:
    """Photos with their maps and predictions, the last few of them kept.

    Args:
        maps: the layer.
        verifiers: other networks that are asked for the photo's class.
        image: reads a photo; raises Unreadable where it cannot.
    """

    def __init__(
        self, maps: FeatureMaps, verifiers: Sequence[Model], image: Callable[[PhotoFile], Image.Image]
    ) -> None:
        self._maps, self._verifiers, self._image = maps, verifiers, image
        self._kept: dict[str, PhotoReadout] = {}

    @property
    def maps(self) -> FeatureMaps:
        """The layer whose maps are read."""
        return self._maps

    def image(self, source: PhotoFile) -> Image.Image:
        """Returns the photo itself, upright and in RGB."""
        return self._image(source)

    @torch.no_grad()
    def __call__(self, source: PhotoFile) -> PhotoReadout:
        """Returns a photo as the network sees it.

        Raises:
            Unreadable: the photo cannot be read.
        """
        if source.sha256 not in self._kept:
            original = centre_square(self._image(source), self._maps.model.card.size[0])[None].float() / 255
            others = [(v, int(predictions(v, original).argmax())) for v in self._verifiers]
            target = int(predictions(self._maps.model, original).argmax())
            while len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[source.sha256] = PhotoReadout(original, self._maps.read(original)[0].cpu(), target, others)
        return self._kept[source.sha256]

    @torch.no_grad()
    def target_of(
        self, source: PhotoFile, edit: Edit, looked_at: str, before: np.ndarray | None = None
    ) -> InversionTarget:
        """Returns what pictures of an edit of a photo are compared with.

        Args:
            source: the photo.
            edit: of its map.
            looked_at: what the making of the pictures uses of the network, see `InversionTarget`.
            before: the picture of the same noise without the edit, H×W×3 uint8, or None.
        """
        own = self(source)
        if edit.other is None:
            return InversionTarget(own.map_Chw, own.target, (), own.others, looked_at=looked_at)
        other = self(edit.other)
        edited = edit.apply(own.map_Chw, other.map_Chw)
        logits_L = self._maps.logits(edited[None].to(self._maps.model.device), own.original)[0]
        probabilities_L = logits_L.double().softmax(0).cpu()
        path = [(label, float(probabilities_L[label])) for label in (own.target, other.target)]
        mask = region_mask(self._maps.grid, edit.region) if edit.kind == "paste" else None
        return InversionTarget(edited, int(probabilities_L.argmax()), path, (), mask, before, looked_at)


def unit_of(layer: str, source: PhotoFile) -> str:
    """Returns the string of a photo's whole map in the unit grammar."""
    return f"fmap({quoted_layer(layer)})<{source.path}>"


def sources_of(photos: str | Path | Sequence[str | Path], layer: str) -> tuple[list[PhotoFile], list[str]]:
    """Returns photo files in order, and why some cannot be read.

    Args:
        photos: files or folders. A folder means its photos. Each path is taken once.
        layer: of the maps, to check that the names of the files fit the unit grammar.

    Raises:
        UserError: no photo can be read.
    """
    given = [photos] if isinstance(photos, (str, Path)) else list(photos)
    paths: list[Path] = []
    failures = []
    for one in map(Path, given):
        try:
            paths += _files_in(one) if folder_exists(one) else [one]
        except UserError as error:
            failures.append(f"{one}: {error}")
    found: dict[str, PhotoFile] = {}
    for path in paths:
        try:
            source = source_of(path)
            parse(unit_of(layer, source))
            found.setdefault(source.path, source)
        except UserError as error:
            failures.append(str(error))
    if not found:
        raise UserError(failures[0] if failures else "no photo was named; give image files or a folder of them")
    return list(found.values()), failures


def _files_in(folder: Path) -> list[Path]:
    """The image files of a folder.

    Raises:
        UserError: there are none.
    """
    photos = Photos.open(folder)
    paths = [photos.path(index) for index in range(len(photos))]
    if not all(paths):
        raise UserError(f'"{folder}" holds photos in tables; expected image files or a folder of them')
    return [path for path in paths if path is not None]


def source_of(path: str | Path) -> PhotoFile:
    """Returns the photo file at a path, with its hash.

    Raises:
        Unreadable: it cannot be read; the message suggests the nearest name in its folder.
    """
    try:
        return PhotoFile(str(Path(path)), hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except OSError as error:
        siblings = [p.name for p in paths_in(Path(path).parent)]
        raise Unreadable(f"{path} cannot be read ({error.strerror}){nearest(Path(path).name, siblings)}") from None


def readable(path: str | Path) -> PhotoFile:
    """Returns the photo file at a path, after decoding it once.

    Raises:
        Unreadable: it cannot be read, or is no picture.
    """
    source = source_of(path)
    picture_of(source.path)
    return source


def picture_of(path: str) -> Image.Image:
    """Returns the photo at a path, upright, 8-bit RGB.

    Raises:
        Unreadable: it cannot be read, or is no picture.
    """
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Unreadable(f"{path} cannot be read ({error})") from None
