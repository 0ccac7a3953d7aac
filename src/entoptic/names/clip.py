"""Models that put pictures and texts into one space: CLIP by the package open_clip, or any object that does the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable, Unreadable, UserError, nearest
from entoptic.images.photos import Photos
from entoptic.images.unread import remember_unread
from entoptic.names.encoders import weights_digest

if TYPE_CHECKING:
    from PIL import Image

_BATCH = 64


@runtime_checkable
class ImageTextModel(Protocol):
    """Turns pictures and texts into vectors of one space.

    Attributes:
        name: for reports.
        identity: changes when the numbers do: a hash of the weights.
        scale: factor of cosines before a softmax, as it was trained with.
    """

    name: str
    identity: str
    scale: float

    def prepare(self, photo: Image.Image) -> Tensor:
        """Returns the input C×H×W of a photo."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Returns a vector of length 1 of each prepared photo, N×m."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns a vector of length 1 of each text, N×m."""
        ...


class OpenClip:
    """A model of the package open_clip.

    Args:
        name: MODEL:PRETRAINED, for instance "ViT-B-32:laion2b_s34b_b79k"; PRETRAINED may be a file of weights.
        device: where it runs.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        if importlib.util.find_spec("open_clip") is None:
            raise NotAvailable('naming by CLIP needs the package open_clip: pip install "entoptic[clip]"')
        import open_clip

        kind, colon, weights = name.partition(":")
        if not (kind and colon and weights):
            raise UserError(f'a CLIP model is MODEL:PRETRAINED, such as ViT-B-32:laion2b_s34b_b79k, got "{name[:80]}"')
        known = list(open_clip.list_models())
        if kind not in known:
            raise UserError(f'open_clip has no model "{kind[:80]}"{nearest(kind, known)}')
        try:
            model, _, prepare = open_clip.create_model_and_transforms(kind, pretrained=weights)
            self._tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(kind)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise NotAvailable(f"the CLIP model {name} cannot be loaded here ({reason[0][:160]})") from None
        self.name = name
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        self._prepare: Callable[[Any], Tensor] = prepare
        self.identity = f"parameters:{weights_digest(self._model.state_dict())}"
        self.scale = float(self._model.logit_scale.exp())

    def prepare(self, photo: Image.Image) -> Tensor:
        """Returns the input C×H×W of a photo."""
        return self._prepare(photo)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Returns a vector of length 1 of each prepared photo, N×m."""
        return torch.nn.functional.normalize(self._model.encode_image(images.to(self._device)).float(), dim=1).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Returns a vector of length 1 of each text, N×m."""
        parts = [self._tokenizer(list(texts[i : i + _BATCH])) for i in range(0, len(texts), _BATCH)]
        rows = [self._model.encode_text(tokens.to(self._device)).float().cpu() for tokens in parts]
        return torch.nn.functional.normalize(torch.cat(rows), dim=1)


def photo_vectors(
    clip: ImageTextModel, photos: Photos, numbers: Sequence[int], progress: Progress = silent
) -> tuple[list[int], Tensor]:
    """Encodes photos; what is in the cache is not encoded again.

    Args:
        clip: the model.
        photos: the photos.
        numbers: which of them.
        progress: called with (what, done, total).

    Returns:
        The numbers of those that could be read, and their vectors N×m.
    """
    key = content_key({"what": "clip", "model": clip.identity, "photos": [photos.sha256(i) for i in numbers]})
    if (held := load_cached("names", key, {"read": 1, "vectors": 2})) is None:
        read: list[int] = []
        parts: list[Tensor] = []
        for some, images in photos.batches(clip.prepare, _BATCH, numbers):
            read += some
            parts.append(clip.encode_images(images))
            progress("reading photos with CLIP", len(read), len(numbers))
        if not read:
            raise Unreadable(f"no photo from {photos.source} could be read")
        held = {"read": torch.tensor(read), "vectors": torch.cat(parts)}
        save_cached("names", key, held)
    else:
        remember_unread(photos, clip.prepare, numbers, held["read"].tolist())
    return held["read"].tolist(), held["vectors"]
