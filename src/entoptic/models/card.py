"""`Card`: the preprocessing, labels and origin of a network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entoptic.errors import Unreadable, UserError, counted
from entoptic.models.card_numbers import checked_preprocessing

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

LARGEST_SIDE = 16384
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_MOST_RESIZED = 2**28
_LARGE = 2**24  # pixels: a resized photo that is larger is never held as a whole
_PART = 2**22


@dataclass(frozen=True, kw_only=True)
class Card:
    """Preprocessing, labels and origin of one network; nothing in it is ever guessed.

    Attributes:
        name: how the network is called, `source:name` where it came from a source.
        size: input height and width in pixels; one whole number stands for both.
        mean: per channel, for pixels in [0, 1]; its length is the number of input channels (1 or 3). One number stands
            for every channel, three where neither `mean` nor `std` says how many.
        std: as `mean`.
        interpolation: how photos are resized (one of `INTERPOLATIONS`).
        crop: the side of the centre crop as a fraction of the resized photo's shorter side.
        squash: resize to the whole input size without keeping the photo's proportions (no crop is cut).
        labels: one name per logit, or None where the network has no named outputs.
        label_ids: one stable identifier per logit (WordNet ids for ImageNet), or None.
        licence: of the weights, as their source states it.
        output: which of several outputs holds the logits: a key or attribute, a position, or a function of the output.
        no_logits: why the network's logits mean nothing (an untrained head, for instance), "" where they do.
        weights_sha256: over every tensor of the state dict, filled in when the network is loaded.
        behaviour_sha256: of what the network is made of and computes, filled in for code that no source names; "" elsewhere.
    """

    name: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop: float = 0.875
    squash: bool = False
    labels: tuple[str, ...] | None = None
    label_ids: tuple[str, ...] | None = None
    licence: str = "unknown"
    output: str | int | Callable[[Any], Tensor] | None = None
    no_logits: str = ""
    weights_sha256: str = ""
    behaviour_sha256: str = ""

    def __post_init__(self) -> None:
        size, mean, std, crop = checked_preprocessing(self.name, self.size, self.mean, self.std, self.crop)
        for field, value in (("size", size), ("mean", mean), ("std", std), ("crop", crop)):
            object.__setattr__(self, field, value)
        for field in ("labels", "label_ids"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise UserError(f'{self.name}: {field} must be one name per logit, got the text "{names}"')
            if isinstance(names, Iterable):
                object.__setattr__(self, field, tuple(names))
        self._check_kinds()
        if self.labels is not None and self.label_ids is not None and len(self.labels) != len(self.label_ids):
            raise UserError(
                f"{self.name}: {counted(len(self.labels), 'label')} but {len(self.label_ids)} label_ids, one each per logit"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"{self.name}: interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )

    def _check_kinds(self) -> None:
        """Checks that every field that holds no numbers is of its kind, as a file may hold anything."""

        def texts(value: object) -> bool:
            return isinstance(value, tuple) and all(isinstance(one, str) for one in value)

        for name, fits, kind in (
            ("name", isinstance(self.name, str), "a text"),
            ("squash", isinstance(self.squash, bool), "true or false"),
            ("interpolation", isinstance(self.interpolation, str), "a text"),
            ("labels", self.labels is None or texts(self.labels), "a list of texts"),
            ("label_ids", self.label_ids is None or texts(self.label_ids), "a list of texts"),
            ("licence", isinstance(self.licence, str), "a text"),
        ):
            if not fits:
                raise UserError(
                    f"{str(self.name)[:80]}: {name} of a card is {kind}, got {str(getattr(self, name))[:80]}"
                )
        if max(self.size) > LARGEST_SIDE or max(abs(x) for x in (*self.mean, *self.std)) > 1e6:
            raise UserError(f"{self.name}: size is at most {LARGEST_SIDE} pixels a side, mean and std at most 1e6")

    @property
    def identity(self) -> str:
        """What tells the network apart from all others, for keys: its weights, and its behaviour where no source names it."""
        if not self.behaviour_sha256:
            return self.weights_sha256
        return hashlib.sha256(f"{self.weights_sha256} {self.behaviour_sha256}".encode()).hexdigest()

    @property
    def provenance(self) -> dict[str, str]:
        """What a file that is made of this network says of it: `model_sha256`, and `model_behaviour` where there is one."""
        behaviour = {"model_behaviour": self.behaviour_sha256} if self.behaviour_sha256 else {}
        return {"model_sha256": self.weights_sha256} | behaviour

    def is_named_by(self, sha256: str) -> bool:
        """Returns whether a file that was made of this network names it by `sha256`.

        Files from before `behaviour_sha256` hold the weights' hash alone.

        Args:
            sha256: of the weights, or of weights and behaviour.
        """
        return sha256 in (self.identity, self.weights_sha256)

    @property
    def channels(self) -> int:
        """Number of input channels of the network: 1 or 3."""
        return len(self.mean)

    def prepare(self, photo: Image.Image) -> Tensor:
        """Converts a photo to what the network's own pipeline shows it.

        The shorter side is resized to `size / crop`, then the centre is cut. A photo that already has the input size is taken
        as it is: it has been prepared before, and resizing it twice would blur it and cut off its border.

        Args:
            photo: a PIL image.

        Returns:
            3×H×W float32 in [0, 1].

        Raises:
            Unreadable: the photo is so long that its resized form would have more than 2²⁸ pixels.
        """
        import numpy as np
        import torch
        from PIL import Image as PIL

        height, width = self.size
        if photo.size != (width, height) and self.squash:
            photo = photo.resize((width, height), PIL.Resampling[self.interpolation.upper()])
        elif photo.size != (width, height):
            scale = max(height, width) / self.crop / min(photo.size)
            resized = (max(width, round(photo.width * scale)), max(height, round(photo.height * scale)))
            if resized[0] * resized[1] > _MOST_RESIZED:
                raise Unreadable(
                    f"{photo.width}x{photo.height} pixels, which would be resized to {resized[0]}x{resized[1]} "
                    f"(at most {_MOST_RESIZED} pixels)"
                )
            resample = PIL.Resampling[self.interpolation.upper()]
            left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
            box = (left, top, left + width, top + height)
            if resized[0] * resized[1] > _LARGE and photo.height <= resized[1]:
                photo = _cut_by_parts(photo, resized, box, resample)
            else:
                photo = photo.resize(resized, resample).crop(box)
        pixels = np.array(photo.convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def preprocessing(self) -> dict[str, Any]:
        """Returns the fields that change what the network sees; part of every cache key."""
        return {name: getattr(self, name) for name in ("size", "mean", "std", "interpolation", "crop", "squash")}

    def preprocessing_json(self) -> dict[str, Any]:
        """Returns `preprocessing` as a JSON file holds it (lists for tuples)."""
        return json.loads(json.dumps(self.preprocessing()))

    def label(self, index: int) -> str | None:
        """Returns the name of logit `index`, or None where the card has no labels.

        Args:
            index: of the logit.
        """
        return self.labels[index] if self.labels is not None and 0 <= index < len(self.labels) else None

    def identifiers(self, index: int) -> list[str]:
        """Lists every name under which photos of class `index` may be filed, most specific first.

        Args:
            index: of the logit.
        """
        names = [self.label_ids[index]] if self.label_ids else []
        return names + ([self.labels[index]] if self.labels else [])

    def places_in(self, other: Card) -> list[int] | None:
        """Finds for each logit the logit of another network that stands for the same class.

        Classes are compared by identifiers where both cards have them (names vary), else by names.

        Args:
            other: card of the other network.

        Returns:
            One logit of `other` per logit of this card; None unless `other` knows every class.
        """
        by_id = self.label_ids is not None and other.label_ids is not None
        mine, theirs = (self.label_ids, other.label_ids) if by_id else (self.labels, other.labels)
        if mine is None or theirs is None:
            return None
        if mine == theirs:  # names may repeat: ImageNet has two cranes
            return list(range(len(mine)))
        logits = {name: logit for logit, name in enumerate(theirs) if theirs.count(name) == 1}
        return [logits[name] for name in mine] if logits.keys() >= set(mine) else None

    def find_label(self, text: str) -> list[int]:
        """Finds the logits called `text`: exact names or identifiers first, else all names that contain the words.

        Args:
            text: a name, an identifier, or words of a name.

        Returns:
            Indices of the logits; empty where none fits.
        """
        wanted = text.strip().lower()
        exact = [
            index for index in range(len(self.labels or ())) if wanted in (n.lower() for n in self.identifiers(index))
        ]
        if exact:
            return exact
        words = re.compile(rf"\b{re.escape(wanted)}\b")
        return [index for index, name in enumerate(self.labels or ()) if words.search(name.lower())]

    def with_(self, **changes: Any) -> Card:
        """Returns a copy with some fields changed.

        Args:
            changes: fields and their new values.
        """
        return dataclasses.replace(self, **changes)


def _cut_by_parts(
    photo: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns `photo.resize(size, resample).crop(box)`, the same to the bit, without the whole resized photo in memory.

    Pillow resizes each row on its own, then each column on its own; in this order at least where columns get longer.
    """
    from PIL import Image as PIL

    photo = photo if photo.mode == "RGB" else photo.convert("RGB")
    left, top, right, bottom = box
    wide = PIL.new("RGB", (right - left, photo.height))
    step = max(1, _PART // max(size[0], photo.width))
    for row in range(0, photo.height, step):
        end = min(row + step, photo.height)
        part = photo.crop((0, row, photo.width, end)).resize((size[0], end - row), resample)
        wide.paste(part.crop((left, 0, right, end - row)), (0, row))
    cut = PIL.new("RGB", (right - left, bottom - top))
    step = max(1, _PART // max(size[1], photo.height))
    for column in range(0, wide.width, step):
        end = min(column + step, wide.width)
        part = wide.crop((column, 0, end, wide.height)).resize((end - column, size[1]), resample)
        cut.paste(part.crop((0, top, end - column, bottom)), (column, 0))
    return cut


def imagenet_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns names and WordNet ids of the 1000 ImageNet-1k classes, in the order of the logits.

    The short names are torchvision's (`cassette player`), the ids timm's; both lists follow the same order.
    """
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"]), tuple(ImageNetInfo("imagenet-1k").label_names())
