"""Running a network that somebody else wrote: in evaluation mode, given back as it was, its errors as one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from entoptic.errors import UserError
from entoptic.models.outputs import parts_of
from entoptic.models.taps import Reached

_HERE = Path(__file__).parent
_INSIDE = ("taps.py", "relevance.py", "rules.py", "operations.py", "ablate.py")
"""Files whose functions run inside of a network's forward."""


_CHANGING: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()  # buffers that a forward pass changes


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Gives a network's buffers their values back afterwards. What its forward changes is kept by `evaluating` from then on."""
    with _restored(module, None) as changed:
        yield
    if changed:
        _CHANGING[module] = _CHANGING.get(module, frozenset()) | changed


@contextmanager
def _restored(module: nn.Module, names: Collection[str] | None) -> Iterator[set[str]]:
    """Puts buffers back; yields a set that then holds the names of those that had changed. None stands for all of them."""
    changed: set[str] = set()
    kept = {
        name: (buffer, buffer.detach().clone())
        for name, buffer in module.named_buffers()
        if (names is None or name in names) and not (isinstance(buffer, UninitializedBuffer) or buffer.is_meta)
    }
    try:
        yield changed
    finally:
        now = dict(module.named_buffers()) if kept else {}
        for name, (buffer, before) in kept.items():
            if now.get(name) is buffer and torch.equal(buffer, before):
                continue
            if buffer.is_floating_point() and now.get(name) is buffer and _same_with_nan(buffer, before):
                continue
            changed.add(name)
            with suppress(Exception):  # a buffer of a scripted network may have no other place
                with torch.no_grad():
                    buffer.copy_(before)
                owner, _, leaf = name.rpartition(".")
                if now.get(name) is not buffer:
                    setattr(module.get_submodule(owner), leaf, buffer)


def _same_with_nan(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Holds a network in evaluation mode without parameter gradients; restores every flag afterwards.

    So are the buffers that its forward is known to change (`buffers_kept`). Networks with a `train` of their own are given
    back through it: some merge their weights in evaluation mode.
    """
    modules = list(module.modules())
    training = [m for m in modules if getattr(m, "training", False)]
    # A lazy parameter has no flag to set before the first run fills it in.
    gradients = [p for p in module.parameters() if p.requires_grad and not isinstance(p, UninitializedParameter)]
    try:
        with suppress(NotImplementedError):  # an exported program has no modes
            module.eval()
        for m in training:
            m.training = False  # also where `eval` is overridden and leaves it on
        for parameter in gradients:
            parameter.requires_grad_(False)
        with _restored(module, _CHANGING.get(module, ())):
            yield
    finally:
        for parameter in gradients:
            parameter.requires_grad_(True)
        _train_again(modules, training)


def _train_again(modules: Sequence[nn.Module], training: Sequence[nn.Module]) -> None:
    """Puts modules back into training mode, and only them."""
    before = {id(m) for m in training}
    for m in training:
        if type(m).train is not nn.Module.train:
            with suppress(Exception):  # it was asked to do what its owner asks of it; the flags hold in any case
                m.train()
    for m in modules:
        if getattr(m, "training", False) != (id(m) in before):
            m.training = id(m) in before


@contextmanager
def network_errors(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Turns an error inside of a network's forward into one sentence; the error itself is its cause.

    Args:
        name: of the network.
        shape: of what it was given.

    Raises:
        UserError: anything that the network raised but for a lack of memory.
    """
    try:
        yield
    except (UserError, Reached, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if _is_ours(error):
            raise
        raise UserError(
            f"{name} failed on pictures of shape {tuple(shape)} ({first_line(error)}); it must take pictures in any number, "
            "with gradients, by operations of torch alone"
        ) from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error comes from what Entoptic does while a network runs: its hooks, and its way through operations."""
    files = {Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
    return any(file.parent == _HERE and file.name in _INSIDE for file in files)


def first_line(error: BaseException) -> str:
    """Returns the kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def check_is_loaded(name: str, module: nn.Module) -> None:
    """Checks that a network's weights have values.

    Raises:
        UserError: some are on the meta device, as after `torch.device("meta")` or `init_empty_weights`.
    """
    empty = [key for key, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise UserError(
            f"{name} has no weights: {empty[0]}{more} is on the meta device; load them before, with to_empty() and "
            "load_state_dict()"
        )


def check_repeats(name: str, module: nn.Module, pictures: Tensor, output: Any) -> None:
    """Checks that a network says the same of a picture alone as of the picture among others.

    A network that takes no picture alone passes: that is said where it is asked to.

    Args:
        name: of the network.
        module: the network.
        pictures: several, as it takes them.
        output: what it put out for them.

    Raises:
        UserError: it does not: no measurement of it would come out again.
    """
    try:
        alone, again = (parts_of(module(pictures[:1].clone())) for _ in range(2))
    except Exception:
        return
    for key, several in parts_of(output).items():
        one = alone.get(key)
        if one is None or not several.is_floating_point() or not one.numel() or len(one) != 1:
            continue
        if several.ndim < 2 or len(several) != len(pictures) or one.shape[1:] != several.shape[1:]:
            continue
        rows, first, second = (value.detach().double() for value in (several, one[0], again[key][0]))
        if not bool(rows.isfinite().all() and first.isfinite().all() and second.isfinite().all()):
            continue
        spread, size = float(rows.std(0).mean()), float(rows.abs().mean())
        rounding = torch.finfo(several.dtype).eps * size  # an untrained network may say nearly the same of all pictures
        if float((first - second).abs().mean()) > 0.002 * spread + 10 * rounding:
            raise UserError(
                f"{name} gives two answers to one picture (it is random, or keeps a state), so nothing measured on it would come "
                "out again; turn off what is random in it"
            )
        if float((first - rows[0]).abs().mean()) > 0.1 * spread + 1000 * min(rounding, 1e-5 * size):
            raise UserError(
                f"{name} gives another answer to a picture alone than to the same picture among others"
                f"{_mixes_the_batch(module)}, so nothing measured on it would come out again; let its answer depend on the "
                "picture alone"
            )


def _mixes_the_batch(module: nn.Module) -> str:
    for where, m in module.named_modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            return f" ({where} is a {type(m).__name__} without running statistics)"
    return ""


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the network inside a compiled or parallel wrapper: its layers have their own names there."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def not_finite(module: nn.Module) -> str:
    """Returns which weights hold NaN or infinity, in words, "" where none do."""
    names = [
        key
        for key, value in (*module.named_parameters(), *module.named_buffers())
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} holds values that are not finite" if names else ""
