"""Tensors kept on disk under a hash of everything that went into them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def cache_folder() -> Path:
    """`$ENTOPTIC_CACHE`, else the user's cache folder."""
    base = os.environ.get("ENTOPTIC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "entoptic"


def content_key(parts: dict[str, Any]) -> str:
    """sha256 over the JSON of `parts`, keys sorted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(kind: str, key: str) -> dict[str, Tensor] | None:
    """What was remembered under `key`, or None; a damaged file counts as absent."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = cache_folder() / kind / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return None


def save_cached(kind: str, key: str, tensors: dict[str, Tensor]) -> None:
    """Writes `tensors` atomically; a cache that cannot be written (read-only home, full disk) is only slower."""
    from safetensors.torch import save

    folder = cache_folder() / kind
    try:
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        write_atomically(folder / f"{key}.safetensors", data)
    except OSError:
        return
