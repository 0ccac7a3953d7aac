"""What a network computes, as a hash: the same weights in another network are another model.

A state dict does not say which activation stands between two layers, how a convolution strides, or what `forward` does
with a layer's output. So code that no source names is told by what it is made of, and by what it puts out on a fixed
batch of noise. Both parts are free of rounding: the structure is text, and of the values only what a small error cannot
change is kept (which channel is the largest, and where it leads clearly).
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

PICTURES = 8
LAYERS = 8
LEAD = 0.02
"""By how much of the channels' spread the largest one must lead, to count."""

_LIBRARIES = ("torch.", "torchvision.", "timm.", "transformers.", "diffusers.")
_PLAIN = (bool, int, float, str, bytes, type(None))


def structure(module: nn.Module) -> Iterator[str]:
    """Yields lines that tell networks of the same state dict apart: classes, options, plain attributes, code."""
    for name, part in module.named_modules():
        kind = type(part)
        yield f"{name} {kind.__module__}.{kind.__qualname__} {_extra(part)}"
        if isinstance(part, torch.jit.ScriptModule):
            yield f"{name} script {part.original_name} {part.code if hasattr(part, 'code') else ''}"
            continue
        for key, value in sorted(vars(part).items()):
            if not key.startswith("_") and key != "training":
                yield from (f"{name}.{key} = {line}" for line in _attribute(value))
        if not f"{kind.__module__}.".startswith(_LIBRARIES):
            for function in _functions_of(kind):
                yield f"{name} {function.__qualname__} {_code(function.__code__)}"
        if "forward" in vars(part) and isinstance(part.__dict__["forward"], types.FunctionType | types.MethodType):
            yield f"{name} own forward {_code(part.__dict__['forward'].__code__)}"


def _extra(part: nn.Module) -> str:
    try:
        return part.extra_repr()
    except Exception:
        return ""


def _attribute(value: Any) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (tuple, list)):
        for i, one in enumerate(value):
            yield from (f"[{i}] {line}" for line in _attribute(one))
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from (f"[{key}] {line}" for line in _attribute(value[key]))
    elif isinstance(value, types.FunctionType):
        yield f"function {value.__qualname__} {_code(value.__code__)}"
    elif isinstance(value, types.BuiltinFunctionType):
        yield f"function {value.__qualname__}"
    elif isinstance(value, Tensor):
        yield f"tensor {value.dtype} {hashlib.sha256(value.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()}"


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for base in kind.__mro__:
        if not f"{base.__module__}.".startswith((*_LIBRARIES, "builtins.")):
            yield from (f for _, f in sorted(vars(base).items()) if isinstance(f, types.FunctionType))


def _code(code: types.CodeType) -> str:
    """The names and constants of a function, which do not change with the version of Python as its bytes do."""
    constants = [
        _code(one) if isinstance(one, types.CodeType) else repr(one)
        for one in code.co_consts[1 if code.co_consts and isinstance(code.co_consts[0], str) else 0 :]
    ]
    return f"{code.co_names} {code.co_varnames[: code.co_argcount]} {constants}"


def values(read: Callable[[Tensor], dict[str, Tensor]], shape: tuple[int, ...]) -> Iterator[str]:
    """Yields what a fixed batch of noise gives at some layers, as far as rounding cannot change it.

    Args:
        read: returns the values B×… of the output and of some layers for a batch of pictures in [0, 1].
        shape: of one picture, C×H×W.
    """
    noise = torch.rand(PICTURES, *shape, generator=torch.Generator().manual_seed(20260525), dtype=torch.float32)
    blocks = torch.nn.functional.interpolate(noise[:, :, ::16, ::16], shape[1:], mode="nearest")
    for name, found in read((0.3 * noise + 0.7 * blocks).clamp(0, 1)).items():
        if not found.is_floating_point() or found.ndim < 2 or len(found) != PICTURES:
            continue
        rows = found.detach().double().flatten(2).mean(2).cpu() if found.ndim > 2 else found.detach().double().cpu()
        # Over the batch as well: what all pictures share would hide what they do not.
        for which, table in (("each", rows), ("apart", rows - rows.mean(0))):
            yield f"{name} {which} {[_leader(row) for row in table]}"


def _leader(row: Tensor) -> int | None:
    """The largest entry of a row where it leads clearly, else None."""
    if len(row) < 2 or not bool(row.isfinite().all()):
        return None
    top = row.topk(2)
    spread = float(row.std())
    clear = spread > 0 and float(top.values[0] - top.values[1]) > LEAD * spread
    return int(top.indices[0]) if clear else None


def fingerprint(lines: Iterator[str]) -> str:
    """Returns the sha256 of some lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()
