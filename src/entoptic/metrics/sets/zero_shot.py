"""CLIP from a folder: features for distances, and zero-shot answers about classes in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from entoptic.base.files import folder_exists, user_path
from entoptic.errors import NotAvailable, Unreadable, UserError
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets.answers import Counted, within_top
from entoptic.metrics.sets.contract import SHARE, SetCard
from entoptic.metrics.sets.embedders import Embedder
from entoptic.models.model import pick_device, weights_sha256
from entoptic.names.clip import ImageTextModel, OpenClip

CLIP = SetCard(name="clip_zero_shot", title="CLIP, first guess", direction="higher", bounds=SHARE)
PROMPT = "a photo of a {}"


class PicturesAndTexts(Protocol):
    """A CLIP of any package: it puts pictures and texts into one space.

    Attributes:
        name: for tables.
        identity: hash of its weights.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def images(self, pictures: Tensor, batch: int = 25) -> Tensor:
        """Returns features of length 1 for pictures N×3×H×W in [0, 1], N×C float32."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Returns features of length 1 for texts, K×C float32."""
        ...


def embedder_of(clip: PicturesAndTexts) -> Embedder:
    """Returns a CLIP's picture features, for distances between sets.

    Args:
        clip: the CLIP.
    """
    return Embedder(name=clip.name, identity=clip.identity, embed=clip.images)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A CLIP of transformers.

    Attributes:
        name: of its folder.
        identity: hash of its weights.
        network: the loaded `CLIPModel`.
        tokenizer: of its folder.
        size: of the pictures that it takes, in pixels.
        mean: of its preprocessing.
        std: of its preprocessing.
    """

    name: str
    identity: str
    network: Any
    tokenizer: Any
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @torch.no_grad()
    def images(self, pictures: Tensor, batch: int = 25) -> Tensor:
        """Returns features of length 1 for pictures N×3×H×W in [0, 1], which are resized to the whole input: N×C float32."""
        device = next(self.network.parameters()).device
        mean, std = (torch.tensor(v)[:, None, None].to(device) for v in (self.mean, self.std))
        rows = []
        for part in pictures.split(batch):
            x = part.to(device)
            if x.shape[2:] != (self.size, self.size):
                x = interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
            seen = self.network.vision_model(pixel_values=(x - mean) / std).pooler_output
            rows.append(normalize(self.network.visual_projection(seen).float(), dim=1).cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Returns features of length 1 for texts, K×C float32."""
        device = next(self.network.parameters()).device
        words = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
        read = self.network.text_model(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).pooler_output
        return normalize(self.network.text_projection(read).float(), dim=1).cpu()

    def embedder(self) -> Embedder:
        """Returns its picture features, for distances between sets."""
        return embedder_of(self)


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """A model of pictures and texts that prepares photos itself, such as one of open_clip.

    Attributes:
        model: the model.
    """

    model: ImageTextModel

    @property
    def name(self) -> str:
        """Of the model."""
        return f"clip:{self.model.name}"

    @property
    def identity(self) -> str:
        """Hash of its weights."""
        return self.model.identity

    def images(self, pictures: Tensor, batch: int = 25) -> Tensor:
        """Returns features of length 1 for pictures N×3×H×W in [0, 1], as 8-bit files hold them: N×C float32."""
        rows = []
        for part in pictures.split(batch):
            eight = (part * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
            prepared = torch.stack([self.model.prepare(Image.fromarray(one)) for one in eight])
            rows.append(normalize(self.model.encode_images(prepared).float(), dim=1).cpu())
        return torch.cat(rows)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Returns features of length 1 for texts, K×C float32."""
        return normalize(self.model.encode_texts(texts).float(), dim=1).cpu()


def find_clip(name: str, *, device: str = "auto") -> PicturesAndTexts:
    """Loads a CLIP by what a person gives: a folder in the format of transformers, or MODEL:PRETRAINED of open_clip.

    Args:
        name: the folder or the name.
        device: where it runs.

    Raises:
        UserError: neither.
        NotAvailable: its package is not installed, or its weights cannot be had.
    """
    if not folder_exists(user_path(name)) and ":" in name and "/" not in name.partition(":")[0]:
        return PreparedClip(OpenClip(name, pick_device(device)))
    return load_clip(name, device=device)


def load_clip(folder: str | Path, *, device: str = "auto") -> Clip:
    """Loads a CLIP from a folder in the format of transformers. Nothing is ever downloaded.

    Args:
        folder: holds the network (safetensors), its tokenizer and its image processor.
        device: where it runs.

    Raises:
        NotAvailable: transformers is not installed.
        UserError: there is no such folder.
        Unreadable: it holds no CLIP.
    """
    path = user_path(folder)
    if not folder_exists(path):
        raise UserError(f"there is no folder {path}; a CLIP is loaded from a folder and never downloaded")
    try:
        from transformers import AutoTokenizer, CLIPConfig, CLIPModel
        from transformers.models.clip.image_processing_clip import CLIPImageProcessor
    except ImportError:
        raise NotAvailable("CLIP needs transformers: pip install entoptic[hf]") from None
    try:
        config = CLIPConfig.get_config_dict(path, local_files_only=True)[0]
        if config.get("model_type") != "clip":
            raise Unreadable(f"{path} holds a network of the kind {config.get('model_type')}, not a CLIP")
        network = (
            CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True).eval().requires_grad_(False)
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        processor = CLIPImageProcessor.get_image_processor_dict(path, local_files_only=True)[0]
        mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    except UserError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise
        lines = str(error).strip().splitlines()
        raise Unreadable(f"{path} holds no CLIP that can be read ({lines[0][:200] if lines else error!r})") from error
    network = network.to(pick_device(device))
    return Clip(
        name=f"clip:{path.name}", identity=weights_sha256(network), network=network, tokenizer=tokenizer,
        size=int(network.config.vision_config.image_size), mean=mean, std=std,
    )  # fmt: skip


class ZeroShot:
    """How often CLIP picks the class of a picture among the names of all classes.

    Args:
        clip: answers.
        labels: names of all classes, of which it picks.
        prompts: templates with one `{}` for the name; several are averaged.
        top: how many answers count.

    Raises:
        UserError: a template without `{}`, or fewer than 2 classes.
    """

    def __init__(
        self, clip: PicturesAndTexts, labels: Sequence[str], prompts: Sequence[str] = (PROMPT,), *, top: int = 1
    ) -> None:
        if isinstance(prompts, str):
            prompts = (prompts,)
        if not prompts or (bad := [one for one in prompts if one.count("{}") != 1]):
            raise UserError(
                f'a prompt holds one {{}} for the name of the class, such as "{PROMPT}", got {bad if prompts else "none"}'
            )
        if len(labels) < 2:
            raise UserError(f"CLIP picks among at least 2 classes, got {len(labels)}")
        self.clip, self.labels, self.top = clip, tuple(labels), top
        rows = torch.stack([clip.texts([one.replace("{}", label) for label in labels]) for one in prompts])
        self._classes_KC = normalize(rows.mean(0), dim=1)
        self.counted = Counted(
            card=CLIP, embedder=clip.name, chance=top / len(labels),
            about={"weights": clip.identity[:12], "prompts": list(prompts), "classes": len(labels), "top": top},
        )  # fmt: skip

    def update(self, pictures: Tensor, classes: Sequence[int]) -> None:
        """Takes the next pictures, N×3×H×W in [0, 1], and their classes by position in `labels`."""
        right = self.answers(pictures, classes)
        if len(right):
            self.counted.update(right)

    def answers(self, pictures: Tensor, classes: Sequence[int] | Tensor) -> Tensor:
        """Returns for each picture whether its class is among the first answers, N booleans; they are not counted.

        Args:
            pictures: N×3×H×W in [0, 1].
            classes: of each, by position in `labels`.

        Raises:
            UserError: not one class for each picture, or one that is not in `labels`.
        """
        want = torch.as_tensor(classes)
        if want.shape != (len(pictures),) or (
            len(want) and not 0 <= int(want.min()) <= int(want.max()) < len(self.labels)
        ):
            raise UserError(f"expected one class from 0 to {len(self.labels) - 1} for each of {len(pictures)} pictures")
        if not len(want):
            return torch.zeros(0, dtype=torch.bool)
        return within_top(self.clip.images(pictures) @ self._classes_KC.T, want, self.top)

    def merge(self, other: ZeroShot) -> None:
        """Takes what another of the same settings has counted."""
        self.counted.merge(other.counted)

    def compute(self) -> Evidence:
        """Returns the share with Wilson's interval; the network, its weights and the prompts are in its detail."""
        return self.counted.compute()
