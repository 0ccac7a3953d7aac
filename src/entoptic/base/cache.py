"""A cache of tensors on disk, by a hash of everything that they depend on."""

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
    """Returns the folder of the cache: `$ENTOPTIC_CACHE`, or `entoptic` in the user's cache folder."""
    base = os.environ.get("ENTOPTIC_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "entoptic"


def content_key(parts: dict[str, Any]) -> str:
    """Returns the sha256, in hex, of the JSON of `parts` with sorted keys.

    Args:
        parts: everything that the cached tensors depend on.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load_cached(kind: str, key: str) -> dict[str, Tensor] | None:
    """Returns the tensors that are cached under a key, or None. A damaged file counts as absent.

    Args:
        kind: of the tensors, a subfolder of the cache.
        key: of `content_key`.
    """
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
    """Caches tensors under a key. Where the cache cannot be written (read-only home, full disk), nothing happens.

    Args:
        kind: of the tensors, a subfolder of the cache.
        key: of `content_key`.
        tensors: by name.
    """
    from safetensors.torch import save

    folder = cache_folder() / kind
    try:
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        write_atomically(folder / f"{key}.safetensors", data)
    except OSError:
        return
