"""Ablate one unit while a network runs, without changing the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap, batch_first


@contextmanager
def ablated(
    model: Model,
    tap: Tap,
    value: float,
    *,
    index: int = 0,
    direction: Tensor | None = None,
    part: Callable[[Tensor], Tensor] | None = None,
    position: int | None = None,
) -> Iterator[None]:
    """Holds one channel of a layer at `value` in every forward pass inside the context; the hooks are removed afterwards.

    Args:
        model: the network.
        tap: the layer, or the input of the activation function that ends it.
        value: what the channel is set to, in activations: its mean over real photos, or 0.
        index: the channel.
        direction: C weights over the channels; then the component along it is set instead of a channel.
        part: returns what a feature contributes to values B×C×D; then the length of that is set, where it has one.
        position: flat position or token where it is set; None for all of them.

    Raises:
        UserError: no such layer, or a layer with nothing behind it.
    """
    if tap.layer == LOGITS:
        raise UserError("a logit cannot be ablated: the network computes nothing from it")
    info = model.layer(tap.layer)
    name, last = (info.activation, info.activation_call) if tap.pre else (tap.layer, info.calls)
    if name is None:
        raise UserError(f'layer "{tap.layer}" does not end in an activation function, so it has no ".pre"')
    channel_axis = -1 if info.layout in ("BTC", "TBC", "BHWC") else 1
    calls = 0

    def begin(_module: Any, _args: Any) -> None:
        nonlocal calls
        calls = 0

    def is_last() -> bool:
        nonlocal calls
        calls += 1
        return calls == last

    def change(values: Tensor) -> Tensor:
        if values.is_quantized:
            changed = change(values.dequantize())
            return torch.quantize_per_tensor(changed, values.q_scale(), values.q_zero_point(), values.dtype)
        copy = values.clone()
        channels = batch_first(copy, info.layout).movedim(channel_axis, 1)  # a view, B×C×…
        where: tuple[Any, ...] = ()
        if position is not None:
            where = tuple(int(i) for i in np.unravel_index(position, channels.shape[2:]))
        if part is not None:
            own = channels[(slice(None), slice(None), *where)]
            part_BCD = part(own.flatten(2) if own.ndim > 2 else own[:, :, None])
            length = torch.linalg.vector_norm(part_BCD, dim=1, keepdim=True)
            moved = part_BCD * (value / length - 1).where(length > 0, torch.zeros_like(length))
            own += moved.reshape(own.shape)
        elif direction is None:
            channels[(slice(None), index, *where)] = value
        else:
            weights = direction.to(copy)
            all_of = channels[(slice(None), slice(None), *where)]
            missing = (value - torch.einsum("bc...,c->b...", all_of, weights)) / weights.square().sum()
            all_of += torch.einsum("b...,c->bc...", missing, weights)
        return copy

    def before(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (change(args[0]), *args[1:]) if is_last() else None

    def after(_module: Any, _args: Any, out: Any) -> Any:
        return with_first(out, change) if is_last() else None

    module = dict(model.module.named_modules())[name]
    handles = [model.module.register_forward_pre_hook(begin)]
    handles.append(module.register_forward_pre_hook(before) if tap.pre else module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_first(out: Any, change: Any) -> Any:
    """Returns a module's output with its first tensor changed.

    Args:
        out: a tensor, a tuple or a list.
        change: returns the new tensor from the old one.

    Raises:
        UserError: another kind of output.
    """
    if isinstance(out, Tensor):
        return change(out)
    if type(out) in (tuple, list):
        first = next(i for i, item in enumerate(out) if isinstance(item, Tensor))
        return type(out)(change(item) if i == first else item for i, item in enumerate(out))
    raise UserError(f"a layer that puts out a {type(out).__name__} cannot be changed; name one of the layers inside it")
