"""Loading image priors by name: `SOURCE:NAME[@REVISION]`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from entoptic.errors import UserError, nearest
from entoptic.models.card import Card
from entoptic.models.model import pick_device
from entoptic.priors.prior import Prior

SOURCES = ("builtin", "file", "hf", "photos")
SHIPPED = "builtin:small-32"
"""The prior of methods that sample one where none is named."""

_MOST_BYTES = 4 * 2**30
"""Stored photos are held as float32 states; above this they are refused rather than swapped."""


def load_prior(
    source: str | Prior,
    *,
    device: str | torch.device = "auto",
    guidance: float | None = None,
    prompt: str | None = None,
    size: int | None = None,
    trust: bool = False,
) -> Prior:
    """A prior, ready to be sampled.

    Args:
        source: one of

            - `builtin:NAME`: a small flow-matching prior that is shipped, needs no network;
            - `file:FOLDER`: one that `entoptic.priors.saved.save_prior` wrote;
            - `hf:REPO[@REVISION]` or `hf:FOLDER`: a saved pipeline of diffusers (see `pipelines.PIPELINES`) or one of
              its networks with `scheduler_config.json` beside it;
            - `photos:PATH`: the uniform law over stored photos, squares of `size` pixels;
            - a `Prior`, which is returned as it is.
        device: "auto", "cpu", "cuda:1", ….
        guidance: weight of classifier-free guidance where there are classes or text. None is the card's weight for
            `builtin:` and `file:`, and 1 (the law that was learned) for `hf:`.
        prompt: text of a text-to-image prior; None is the empty text.
        size: side in pixels of stored photos (default 64).
        trust: read pickled weights of `hf:` where there are no safetensors. Code of a repository is never run.

    Raises:
        UserError: unknown source or name (with the nearest), a pipeline of another kind, options that do not apply.
    """
    if not isinstance(source, str):
        if not hasattr(source, "denoise"):
            raise UserError(f"expected a name such as hf:REPO or photos:PATH, or a Prior, got {type(source).__name__}")
        return source
    prefix, colon, name = source.partition(":")
    if colon and prefix not in SOURCES:
        raise UserError(f'no prior source "{prefix}"; expected one of {", ".join(SOURCES)}{nearest(prefix, SOURCES)}')
    if not colon or not name:
        guess = f"; try builtin:{source}" if source in builtin_priors() else ""
        raise UserError(f'expected SOURCE:NAME with SOURCE one of {", ".join(SOURCES)}, got "{source}"{guess}')
    for option, given, takes in (
        ("guidance", guidance, ("builtin", "file", "hf")),
        ("prompt", prompt, ("hf",)),
        ("size", size, ("photos",)),
    ):
        if given is not None and prefix not in takes:
            raise UserError(f"{option}={given!r} is for {' and '.join(f'{t}:' for t in takes)}, got {source}")
    where = pick_device(device)
    if prefix == "photos":
        return _stored(source, name, 64 if size is None else size, where)
    if prefix == "hf":
        from entoptic.priors.diffusers_folder import from_folder

        files = _Files(name)
        return from_folder(source, files.fetch, where, guidance=guidance, prompt=prompt, trust=trust)
    from entoptic.priors.saved import load_saved

    folder = _builtin(name) if prefix == "builtin" else Path(name).expanduser()
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"{source}: there is no folder {folder}{nearest(folder.name, near)}")
    return load_saved(source, folder, where, guidance=guidance)


def builtin_priors() -> list[str]:
    """Names behind `builtin:`."""
    return sorted(folder.name for folder in _shipped().iterdir() if folder.is_dir()) if _shipped().is_dir() else []


def is_folder(source: str) -> bool:
    """Whether a prior's name is a place on this machine, not a name that means the same elsewhere."""
    prefix, _, name = source.partition(":")
    return prefix == "file" or (prefix == "hf" and bool(name) and _Files.is_local(name))


def name_of(prior: Prior) -> str:
    """The name to write down: of a folder that holds what a builtin prior is (by its identity), the builtin's."""
    if is_folder(prior.name):
        for name in builtin_priors():
            if load_prior(f"builtin:{name}", device="cpu").identity == prior.identity:
                return f"builtin:{name}"
    return prior.name


def _shipped() -> Path:
    return Path(str(resources.files("entoptic"))) / "priors" / "shipped"


def _builtin(name: str) -> Path:
    known = builtin_priors()
    if name not in known:
        raise UserError(
            f'no builtin prior "{name}"; expected one of {", ".join(known) or "none"}{nearest(name, known)}'
        )
    return _shipped() / name


def _stored(source: str, path: str, size: int, device: torch.device) -> Prior:
    from entoptic.images.photos import Photos
    from entoptic.priors.toy import StoredPictures

    if size < 1:
        raise UserError(f"the size of stored photos must be at least 1 pixel, got {size}")
    photos = Photos.open(path)
    if (needed := len(photos) * 3 * size**2 * 4) > _MOST_BYTES:
        fits = int((_MOST_BYTES / (12 * len(photos))) ** 0.5)
        raise UserError(
            f"{source}: {len(photos)} photos of {size} pixels take {needed / 2**30:.1f} GiB; give fewer, or size={fits}"
        )
    square = Card(name=source, size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0, interpolation="bicubic")
    prior = StoredPictures(torch.cat([images for _, images in photos.batches(square.prepare, 64)]).to(device))
    prior.name = source
    return prior


class _Files:
    """Files of a local folder, or of a repository on the hub, fetched as they are asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.local = Path(name).expanduser()
        self.repo, _, revision = name.partition("@")
        self.revision: str | None = revision or None
        if not self.local.is_dir() and self.is_local(name):
            near = [p.name for p in self.local.parent.iterdir()] if self.local.parent.is_dir() else []
            raise UserError(f"hf:{name}: there is no folder {self.local}{nearest(self.local.name, near)}")

    @staticmethod
    def is_local(name: str) -> bool:
        """A folder that is there, or a name that could be no repository's."""
        return Path(name).expanduser().is_dir() or name[0] in "./~" or name.partition("@")[0].count("/") > 1

    def fetch(self, patterns: Sequence[str]) -> Path:
        """The folder that holds the files of these patterns."""
        if self.local.is_dir():
            return self.local
        try:
            from huggingface_hub import snapshot_download
        except ImportError:
            from entoptic.priors.diffusers_folder import NEEDS_DIFFUSERS

            raise UserError(NEEDS_DIFFUSERS) from None
        try:
            return Path(snapshot_download(self.repo, revision=self.revision, allow_patterns=list(patterns)))
        except Exception as error:
            first = str(error).strip().splitlines()
            raise UserError(
                f"could not fetch hf:{self.name} ({type(error).__name__}: {first[0][:160] if first else ''}); is the name "
                "right and the hub reachable? A folder with the same files serves as well: hf:FOLDER"
            ) from error
