"""Tensors kept on disk under a hash of everything that went into them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import write_atomically
from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "digest"


def cache_folder() -> Path:
    """`$ENTOPTIC_CACHE`, else the user's cache folder."""
    base = os.environ.get("ENTOPTIC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "entoptic"


def content_key(parts: dict[str, Any]) -> str:
    """sha256 over the JSON of `parts`, keys sorted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(kind: str, key: str) -> dict[str, Tensor] | None:
    """What was remembered under `key`, or None; a file that is damaged, or not as it was written, counts as absent."""
    path = cache_folder() / kind / f"{key}.safetensors"
    try:
        found = read_tensors(path)
    except Unreadable:
        return None
    return found.tensors if found.metadata.get(_DIGEST) == _digest(found.tensors) else None


def save_cached(kind: str, key: str, tensors: dict[str, Tensor]) -> None:
    """Writes `tensors` atomically; a cache that cannot be written (read-only home, full disk) is only slower."""
    from safetensors.torch import save

    folder = cache_folder() / kind
    try:
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(folder / f"{key}.safetensors", save(held, {_DIGEST: _digest(held)}))
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
