"""A cache of tensors on disk, by a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import UNFINISHED, write_atomically
from entoptic.base.records import parse_json, read_tensors
from entoptic.errors import Unreadable

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "digest"
_ABANDONED = 24 * 3600.0
"""Seconds after which a file that is being written belongs to nobody any more."""


def cache_folder() -> Path:
    """Returns the folder of the cache: `$ENTOPTIC_CACHE`, or `entoptic` in the user's cache folder."""
    base = os.environ.get("ENTOPTIC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "entoptic"


def content_key(parts: dict[str, Any]) -> str:
    """Returns the sha256, in hex, of the JSON of `parts` with sorted keys.

    Args:
        parts: everything that the cached tensors depend on.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(kind: str, key: str, needs: Mapping[str, int | None]) -> dict[str, Tensor] | None:
    """What was remembered under `key`, or None; a file that is damaged, or not as it was written, counts as absent.

    Args:
        kind: of what is remembered.
        key: hash of everything that it depends on.
        needs: tensors that it must have, each with its number of axes (None for any); "record" must be packed JSON.
    """
    path = cache_folder() / kind / f"{key}.safetensors"
    try:
        found = read_tensors(path)
        for name, axes in needs.items():
            if axes not in (None, found.get(name, finite=False).ndim):
                return None
        if "record" in needs:
            unpack(found.tensors["record"])
    except (Unreadable, TypeError, ValueError):
        return None
    # Entries of version 0.1.0 have no digest.
    return found.tensors if found.metadata.get(_DIGEST, digest := _digest(found.tensors)) == digest else None


def pack(record: Mapping[str, Any]) -> Tensor:
    """Returns a record as a tensor of the bytes of its JSON, for `save_cached`."""
    import torch

    return torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)


def unpack(record: Tensor) -> dict[str, Any]:
    """Reads the JSON that a tensor of bytes holds.

    Raises:
        Unreadable: it holds none.
    """
    return parse_json(bytes(record.tolist()), "the cache", finite=False)


def save_cached(kind: str, key: str, tensors: dict[str, Tensor]) -> None:
    """Caches tensors under a key. Where the cache cannot be written (read-only home, full disk), nothing happens.

    Args:
        kind: of the tensors, a subfolder of the cache.
        key: of `content_key`.
        tensors: by name.
    """
    from safetensors.torch import save

    folder = cache_folder() / kind
    try:
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(folder / f"{key}.safetensors", save(held, {_DIGEST: _digest(held)}))
        for left in folder.glob(
            f".*{UNFINISHED}"
        ):  # nothing locks the cache, so only age tells what a killed process left
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink(missing_ok=True)
    except OSError:
        return


def _digest(tensors: dict[str, Tensor]) -> str:
    """Hash of all that an entry holds."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        total.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        total.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
