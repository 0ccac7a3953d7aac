"""What networks make of photos: maps and predictions, and what pictures of an edit are to bring back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from entoptic.inversion.arithmetic import region_mask
from entoptic.inversion.maps import FeatureMaps
from entoptic.metrics.inversion import Wanted, predictions
from entoptic.models.model import Model
from entoptic.priors.learn import square
from entoptic.runs.inversions.edits import Edit
from entoptic.runs.inversions.photos import Source

_HELD = 16  # photos whose maps are kept at a time


@dataclass
class Read:
    """A photo as the network sees it: 1×3×S×S in [0, 1], its map C×h×w and its class."""

    original: Tensor
    map_Chw: Tensor
    target: int
    others: list[tuple[Model, int]]


class Reader:
    """Photos with their maps and predictions, the last few of them kept."""

    def __init__(self, maps: FeatureMaps, verifiers: Sequence[Model], image: Callable[[Source], Image.Image]) -> None:
        self._maps, self._verifiers, self._image = maps, verifiers, image
        self._held: dict[str, Read] = {}

    @torch.no_grad()
    def __call__(self, source: Source) -> Read:
        """Raises UserError where the photo cannot be read."""
        if source.sha256 not in self._held:
            original = square(self._image(source), self._maps.model.card.size[0])[None].float() / 255
            others = [(v, int(predictions(v, original).argmax())) for v in self._verifiers]
            target = int(predictions(self._maps.model, original).argmax())
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[source.sha256] = Read(original, self._maps.read(original)[0].cpu(), target, others)
        return self._held[source.sha256]

    @torch.no_grad()
    def wanted(self, source: Source, edit: Edit, looked_at: str, before: np.ndarray | None = None) -> Wanted:
        """What pictures of an edit of a photo are to bring back."""
        own = self(source)
        if edit.other is None:
            return Wanted(own.map_Chw, own.target, (), own.others, looked_at=looked_at)
        other = self(edit.other)
        edited = edit.apply(own.map_Chw, other.map_Chw)
        says = self._maps.logits(edited[None].to(self._maps.model.device), own.original)[0].double().softmax(0).cpu()
        path = [(place, float(says[place])) for place in (own.target, other.target)]
        mask = region_mask(self._maps.grid, edit.region) if edit.kind == "paste" else None
        return Wanted(edited, int(says.argmax()), path, (), mask, before, looked_at)
