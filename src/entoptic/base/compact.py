"""Weights in a quarter of their size: 8-bit integers with one scale a row, in files of bounded size.

Each weight of two or more dimensions is stored as round(w / s) in int8 with s = max|w| / 127 of its row (first dimension),
so no value moves by more than s / 2. Vectors and small weights stay as they are, in float32. `unpack` gives back float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from entoptic.base.files import check_inside, write_atomically, writing_to
from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable

SMALL = 4096
"""Weights of fewer values are not rounded."""
SCALE = "scale/"
"""What the names of scales begin with."""


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict in 8 bits a weight.

    Args:
        state: names to weights.

    Returns:
        int8 weights under their names and their scales, R float32, under "scale/NAME"; other weights in float32.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        weight = value.detach().float().cpu().contiguous()
        if weight.ndim < 2 or weight.numel() < SMALL:
            packed[name] = weight
            continue
        scale_R = weight.flatten(1).abs().amax(1) / 127
        rows = weight.flatten(1) / scale_R.clamp_min(1e-30)[:, None]
        packed[name] = rows.round().clamp(-127, 127).to(torch.int8).reshape(weight.shape)
        packed[SCALE + name] = scale_R
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the float32 state dict that `pack` stored.

    Raises:
        KeyError: a weight without its scale.
    """
    state = {}
    for name, value in packed.items():
        if name.startswith(SCALE):
            continue
        if value.dtype == torch.int8:
            scale_R = packed[SCALE + name]
            value = (value.flatten(1).float() * scale_R[:, None]).reshape(value.shape)
        state[name] = value.float()
    return state


def write_parts(tensors: Mapping[str, Tensor], folder: Path, stem: str, *, megabytes: float = 15) -> list[Path]:
    """Writes tensors as STEM-00.safetensors, STEM-01.safetensors …, each of at most so many megabytes.

    A tensor is never divided, so a part that holds one larger tensor is larger.

    Args:
        tensors: names to tensors.
        folder: where to write; it exists.
        stem: what the names begin with.
        megabytes: of each file.

    Returns:
        The files.
    """
    from safetensors.torch import save

    parts: list[dict[str, Tensor]] = [{}]
    taken = 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if parts[-1] and taken + size > megabytes * 1e6:
            parts.append({})
            taken = 0
        parts[-1][name] = value.contiguous()
        taken += size
    files = []
    for i, part in enumerate(parts):
        file = check_inside(folder / f"{stem}-{i:02}.safetensors", folder)
        with writing_to(folder):
            write_atomically(file, save(part))
        files.append(file)
    return files


def read_parts(files: Iterable[Path]) -> dict[str, Tensor]:
    """Reads what `write_parts` wrote.

    Raises:
        Unreadable: no file, or one that is damaged.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        part = read_tensors(file)
        found |= {name: part.get(name) for name in part.tensors}
    if not found:
        raise Unreadable("there are no parts of weights")
    return found
