"""Loading image priors by name: `SOURCE:NAME[@REVISION]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from entoptic.base.files import file_exists, folder_exists, paths_in, user_path
from entoptic.base.shipped import shipped_folder, shipped_names
from entoptic.base.unread import names_unread
from entoptic.errors import UserError, closest_slip, nearest
from entoptic.models.card import Card
from entoptic.models.model import pick_device
from entoptic.priors.prior import Prior

SOURCES = ("builtin", "file", "hf", "photos")
SHIPPED = "builtin:small-128"
"""The prior that methods use if none is named."""

_MOST_BYTES = 4 * 2**30
"""Maximum size of stored photos, which are kept in memory as float32 states."""


@names_unread
def load_prior(
    source: str | Prior,
    *,
    device: str | torch.device = "auto",
    guidance: float | None = None,
    prompt: str | None = None,
    size: int | None = None,
    trust: bool = False,
) -> Prior:
    """Loads a prior.

    Args:
        source: one of

            - `builtin:NAME`: a small flow-matching prior that is part of the package;
            - `file:FOLDER`: one that `entoptic.priors.saved.save_prior` wrote;
            - `hf:REPO[@REVISION]` or `hf:FOLDER`: a saved pipeline of diffusers (see `diffusers_folder.PIPELINES`) or one
              of its networks with `scheduler_config.json` beside it;
            - `photos:PATH`: the uniform distribution over stored photos, squares of `size` pixels;
            - a `Prior`, which is returned as it is.
        device: "auto", "cpu", "cuda:1", ….
        guidance: weight of classifier-free guidance where there are classes or text. None is the card's weight for
            `builtin:` and `file:`, and 1 (no guidance) for `hf:`, except 8.5 where the guidance is distilled (LCM).
        prompt: text of a text-to-image prior; None for no text (the empty one, or zeros where Stable Diffusion XL was
            trained so).
        size: side in pixels of stored photos; None for 64.
        trust: whether pickled weights of `hf:` are read where there are no safetensors. Code of a repository is never run.

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
        meant = closest_slip(source, builtin_priors())
        guess = f"; try builtin:{meant}" if meant and not colon else ""
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

    folder = builtin_folder(name) if prefix == "builtin" else user_path(name)
    if not folder_exists(folder):
        near = [p.name for p in paths_in(folder.parent) if folder_exists(p)]
        raise UserError(f"{source}: there is no folder {folder}{nearest(folder.name, near)}")
    return load_saved(source, folder, where, guidance=guidance)


def builtin_priors() -> list[str]:
    """Returns the names of the priors behind `builtin:`."""
    return shipped_names("priors")


def is_folder(source: str) -> bool:
    """Returns whether a prior's name is a folder on this machine, not a name that is valid elsewhere too."""
    prefix, _, name = source.partition(":")
    return prefix == "file" or (prefix == "hf" and bool(name) and _Files.is_local(name))


def name_of(prior: Prior) -> str:
    """Returns the name to record for a prior.

    A folder that holds a builtin prior (by its identity) gets the name of the builtin.
    """
    if is_folder(prior.name):
        for name in builtin_priors():
            if load_prior(f"builtin:{name}", device="cpu").identity == prior.identity:
                return f"builtin:{name}"
    return prior.name


def builtin_folder(name: str) -> Path:
    """Returns the folder of one builtin prior.

    Raises:
        UserError: an unknown name.
    """
    known = builtin_priors()
    if name not in known:
        raise UserError(
            f'no builtin prior "{name}"; expected one of {", ".join(known) or "none"}{nearest(name, known)}'
        )
    return shipped_folder("priors") / name


def _stored(source: str, path: str, size: int, device: torch.device) -> Prior:
    """Loads stored photos as a prior.

    Raises:
        UserError: a size below 1, or more photos than fit into memory.
    """
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
        self.local = user_path(name)
        self.repo, _, revision = name.partition("@")
        self.revision: str | None = revision or None
        if file_exists(self.local):
            raise UserError(
                f"hf:{name} is a file; a prior is the folder of a pipeline, and from_single_file and save_pretrained of its "
                "class in diffusers make one of a checkpoint in one file"
            )
        if not folder_exists(self.local) and self.is_local(name):
            near = [p.name for p in paths_in(self.local.parent)]
            raise UserError(f"hf:{name}: there is no folder {self.local}{nearest(self.local.name, near)}")

    @staticmethod
    def is_local(name: str) -> bool:
        """Returns whether the name is an existing folder, or cannot be the name of a repository."""
        return folder_exists(user_path(name)) or name[0] in "./~" or name.partition("@")[0].count("/") > 1

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Returns the folder that holds the files of these patterns.

        Raises:
            UserError: the files cannot be downloaded.
        """
        if folder_exists(self.local):
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
