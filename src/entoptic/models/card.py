"""`Card`: the preprocessing, labels and origin of a network."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entoptic.base.records import is_a
from entoptic.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

LARGEST_SIDE = 16384
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Preprocessing, labels and origin of one network; nothing in it is ever guessed.

    Attributes:
        name: how the network is called, `source:name` where it came from a source.
        size: input height and width in pixels.
        mean, std: per channel, for pixels in [0, 1]; their length is the number of input channels (1 or 3).
        interpolation: how photos are resized (one of `INTERPOLATIONS`).
        crop: the side of the centre crop as a fraction of the resized photo's shorter side.
        squash: resize to the whole input size without keeping the photo's proportions (no crop is cut).
        labels: one name per logit, or None where the network has no named outputs.
        label_ids: one stable identifier per logit (WordNet ids for ImageNet), or None.
        licence: of the weights, as their source states it.
        weights_sha256: over every tensor of the state dict, filled in when the network is loaded.
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
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        self._check_kinds()
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise UserError(
                f"{self.name}: a card needs 1 or 3 means and as many standard deviations, "
                f"got {len(self.mean)} and {len(self.std)}; networks with other inputs than grey or RGB pictures "
                "cannot be shown as pictures"
            )
        if min(self.std) <= 0:
            raise UserError(f"{self.name}: std must be positive, got {self.std}")
        if len(self.size) != 2 or min(self.size) < 8:
            raise UserError(f"{self.name}: size must be (height, width) of at least 8 pixels, got {self.size}")
        if not 0 < self.crop <= 1:
            raise UserError(f"{self.name}: crop must be in (0, 1], got {self.crop}")
        if self.labels is not None and self.label_ids is not None and len(self.labels) != len(self.label_ids):
            raise UserError(
                f"{self.name}: {len(self.labels)} labels but {len(self.label_ids)} label_ids, one each per logit"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"{self.name}: interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )

    def _check_kinds(self) -> None:
        """Check that every field is of its kind, as a file may hold anything."""

        def numbers(value: object, kind: type) -> bool:
            return isinstance(value, (tuple, list)) and all(is_a(one, kind) for one in value)

        for name, fits, kind in (
            ("name", isinstance(self.name, str), "a text"),
            ("size", numbers(self.size, int), "two whole numbers"),
            ("mean", numbers(self.mean, float), "one number for each channel"),
            ("std", numbers(self.std, float), "one number for each channel"),
            ("crop", is_a(self.crop, float), "a number"),
            ("squash", isinstance(self.squash, bool), "true or false"),
            ("interpolation", isinstance(self.interpolation, str), "a text"),
            ("labels", self.labels is None or numbers(self.labels, str), "a list of texts"),
            ("label_ids", self.label_ids is None or numbers(self.label_ids, str), "a list of texts"),
            ("licence", isinstance(self.licence, str), "a text"),
        ):
            if not fits:
                raise UserError(
                    f"{str(self.name)[:80]}: {name} of a card is {kind}, got {str(getattr(self, name))[:80]}"
                )
        if max((*self.size, 0)) > LARGEST_SIDE or max((abs(x) for x in (*self.mean, *self.std)), default=0) > 1e6:
            raise UserError(f"{self.name}: size is at most {LARGEST_SIDE} pixels a side, mean and std at most 1e6")

    @property
    def channels(self) -> int:
        """Number of input channels of the network: 1 or 3."""
        return len(self.mean)

    def prepare(self, photo: Image.Image) -> Tensor:
        """Convert a photo to what the network's own pipeline shows it.

        The shorter side is resized to `size / crop`, then the centre is cut. A photo that already has the input size is taken
        as it is: it has been prepared before, and resizing it twice would blur it and cut off its border.

        Args:
            photo: a PIL image.

        Returns:
            3×H×W float32 in [0, 1].
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
            photo = photo.resize(resized, PIL.Resampling[self.interpolation.upper()])
            left, top = (photo.width - width) // 2, (photo.height - height) // 2
            photo = photo.crop((left, top, left + width, top + height))
        pixels = np.array(photo.convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def preprocessing(self) -> dict[str, Any]:
        """Return the fields that change what the network sees; part of every cache key."""
        return {name: getattr(self, name) for name in ("size", "mean", "std", "interpolation", "crop", "squash")}

    def preprocessing_json(self) -> dict[str, Any]:
        """Return `preprocessing` as a JSON file holds it (lists for tuples)."""
        return json.loads(json.dumps(self.preprocessing()))

    def label(self, index: int) -> str | None:
        """Return the name of logit `index`, or None where the card has no labels."""
        return self.labels[index] if self.labels is not None and 0 <= index < len(self.labels) else None

    def identifiers(self, index: int) -> list[str]:
        """List every name under which photos of class `index` may be filed, most specific first."""
        names = [self.label_ids[index]] if self.label_ids else []
        return names + ([self.labels[index]] if self.labels else [])

    def places_in(self, other: Card) -> list[int] | None:
        """Find for each logit the logit of another network that stands for the same class.

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
        """Find the logits called `text`: exact names or identifiers first, else all names that contain the words.

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
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def imagenet_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and WordNet ids of the 1000 ImageNet-1k classes, in the order of the logits.

    The short names are torchvision's (`cassette player`), the ids timm's; both lists follow the same order.
    """
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"]), tuple(ImageNetInfo("imagenet-1k").label_names())
