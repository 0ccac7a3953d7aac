"""`Taps`: read layers of a network without changing it.

A `Taps` context registers forward hooks, copies what the wanted layers put out, ends the forward pass as soon as the
last wanted value is there, and takes every hook off again, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.models.layouts import Layouts

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip


def is_activation(module: nn.Module) -> bool:
    """Returns whether `module` is an elementwise non-linearity (of torch, timm or transformers)."""
    if isinstance(module, ACTIVATIONS):
        return True
    return type(module).__module__.startswith(("timm.layers.activations", "transformers.activations"))


def is_scripted(module: nn.Module) -> bool:
    """Returns whether a module is TorchScript, which no hook can look into."""
    return isinstance(module, torch.jit.ScriptModule)


class Reached(Exception):
    """Raised inside a hook to end the forward pass: every wanted layer has fired."""


@dataclass(frozen=True)
class Tap:
    """One value to read in a forward pass.

    Attributes:
        layer: name of a module, as `named_modules` prints it.
        pre: read the input of the activation function that ends the layer, instead of the layer's output.
    """

    layer: str
    pre: bool = False

    def __str__(self) -> str:
        return f"{self.layer}.pre" if self.pre else self.layer

    @property
    def sources(self) -> tuple[Tap, ...]:
        """The taps that are read in a forward pass for this one: itself, or those that its values are computed from."""
        return (self,)

    def derive(self, values: Mapping[Tap, Tensor]) -> Tensor:
        """Returns the tap's values, B×C×D.

        Args:
            values: those of its sources.
        """
        return values[self]


@dataclass(frozen=True)
class LayerInfo:
    """The shape of a layer's output and the layer's place in the forward pass.

    Attributes:
        name: module name.
        kind: class of the module.
        shape: of the output for one picture, without the batch axis.
        layout: how to read that shape: "BC", "BCHW", "BHWC", "BTC", "BCT", "TBC" (of transformers without `batch_first`:
            the output is T×B×C, `shape` is T×C), "BMTC" (M heads of C channels for each token: unit head·C + channel)
            or "BMTT" (attention of M heads from token to token: unit head).
        channels: number of units.
        grid: (height, width) of a spatial layer, (tokens, 1) of a token layer, (1, 1) of a vector, (tokens, tokens) of
            attention.
        calls: how often the module runs in one forward pass; taps read the last call.
        order: rank of its last call among all layers' (0 = first to finish).
        activation: name of the activation module whose output is this layer's output, or None.
        activation_call: which of that module's calls it was (1 = first); blocks may share one activation module.
        composite: whether it contains other modules and is no normalisation or activation.
        patches: (prefix, rows, columns) where positions lie on the picture, else None: after `prefix` tokens that lie
            nowhere (class token, registers) come rows·columns patches, row by row. Maps have no prefix. Found from the
            number of tokens and the maps of the network (its patch embedding's); tokens appended at the end, or
            regrouped without a map that shows it, are not recognised.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    layout: str
    channels: int
    grid: tuple[int, int]
    calls: int
    order: int
    activation: str | None
    composite: bool
    activation_call: int = 0
    patches: tuple[int, int, int] | None = None


class Taps(AbstractContextManager["Taps"]):
    """Context manager that collects the values of `taps` during forward passes of `module`.

    Args:
        module: the network.
        taps: what to read.
        infos: `LayerInfo` of every layer named (from `probe`).
        stop: end the forward pass (by `Reached`) when all values are there.
        keep: what to keep of a layer's output; called as soon as it is there.

    Attributes:
        values: per tap what `keep` gave, else the layer's output in its own shape. That is a copy: a later in-place
            operation of the network (`relu(inplace=True)`, `out += skip`) cannot change what was read.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Iterable[Tap],
        infos: dict[str, LayerInfo],
        *,
        stop: bool = True,
        keep: Callable[[Tap, Tensor], Any] = lambda tap, output: output.clone(),
    ) -> None:
        self.values: dict[Tap, Any] = {}
        self._keep = keep
        self._module, self._taps, self._infos, self._stop = module, tuple(dict.fromkeys(taps)), infos, stop
        self._remaining: dict[Tap, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Taps:
        modules = dict(self._module.named_modules())
        for tap in self._taps:
            info = self._infos[tap.layer]
            if tap.pre:
                assert info.activation is not None
                self._remaining[tap] = info.activation_call
                hook = modules[info.activation].register_forward_pre_hook
                self._handles.append(hook(lambda _m, args, tap=tap: self._take(tap, args[0])))
            else:
                self._remaining[tap] = info.calls
                register = modules[tap.layer].register_forward_hook
                self._handles.append(register(lambda _m, _a, out, tap=tap: self._take(tap, out)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return kind is Reached

    def _take(self, tap: Tap, out: Any) -> None:
        self._remaining[tap] -= 1
        if self._remaining[tap] == 0:
            self.values[tap] = self._keep(tap, first_tensor(out))
            if self._stop and len(self.values) == len(self._taps):
                raise Reached


def first_tensor(out: Any) -> Tensor:
    """Returns the tensor in a module's output.

    Args:
        out: a tensor, an object with `.logits` or `.last_hidden_state`, or a tuple, list or dict (its first tensor
            counts).

    Raises:
        TypeError: there is no tensor.
    """
    if isinstance(out, Tensor):
        return out
    for name in ("logits", "last_hidden_state"):
        found = out.get(name) if isinstance(out, dict) else getattr(out, name, None)
        if isinstance(found, Tensor):
            return found
    items = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise TypeError(f"no tensor in a {type(out).__name__}")


@dataclass(frozen=True)
class _LastCall:
    """What `probe` saw of a module's last call.

    Attributes:
        module: the module.
        calls: number of its calls so far.
        order: rank of the call among all.
        shape: of the output, with the batch axis first.
        ends_in: name and call of the activation module that put out the same tensor, or (None, 0).
        batch_axis: see `_batch_axis`.
    """

    module: nn.Module
    calls: int
    order: int
    shape: tuple[int, ...]
    ends_in: tuple[str | None, int]
    batch_axis: int | None


def probe(module: nn.Module, images: Tensor) -> tuple[dict[str, LayerInfo], Any]:
    """Runs a network once and describes each layer and the output.

    Layers whose output has no batch axis (window-wise attention, for instance) are left out: a unit there would not be one
    score per picture. Which axis that is, a second run with one picture more confirms.

    Args:
        module: the network.
        images: B×C×H×W, already normalised, B = 2.

    Returns:
        `LayerInfo` by name, and the output.
    """
    names = {id(m): name for name, m in module.named_modules() if name}
    seen: dict[str, _LastCall] = {}
    # (id, version) of an activation's output -> its name and call: after `out += skip` it is another version.
    activation_of: dict[tuple[int, int], tuple[str, int]] = {}
    keep: list[Tensor] = []  # outputs stay alive so that ids are not reused
    layouts = Layouts()
    order = 0

    def hook(m: nn.Module, args: Any, out: Any) -> None:
        nonlocal order
        name = names[id(m)]
        try:
            tensor = first_tensor(out)
        except TypeError:
            return
        keep.append(tensor)
        calls = 1 + (seen[name].calls if name in seen else 0)
        version = (id(tensor), 0 if tensor.is_inference() else tensor._version)
        if is_activation(m):
            activation_of[version] = (name, calls)
        ends_in: tuple[str | None, int] = activation_of.get(version, (None, 0))
        axis = _batch_axis(tensor, len(images))
        if axis:
            tensor = tensor.movedim(axis, 0)
            keep.append(tensor)
        if axis is not None:
            layouts.add(name, m, args, tensor)
        seen[name] = _LastCall(m, calls, order, tuple(tensor.shape), ends_in, axis)
        order += 1

    handles = [m.register_forward_hook(hook) for m in module.modules() if id(m) in names and not is_scripted(m)]
    try:
        with torch.no_grad():
            output = module(images)
    finally:
        for handle in handles:
            handle.remove()
    axes = {name: last.batch_axis for name, last in seen.items() if last.batch_axis is not None}
    fixed = _without_batch(module, images, axes)
    infos = {}
    for name, last in seen.items():
        if name not in axes or name in fixed:
            continue
        layout = layouts.of(name)
        if axes[name] == 1:
            if layout != "BTC":
                continue
            layout = "TBC"
        channels, grid = _read_shape(layout, last.shape)
        composite = any(True for _ in last.module.children()) and not _is_norm(last.module)
        activation, activation_call = last.ends_in
        infos[name] = LayerInfo(
            name, type(last.module).__name__, last.shape[1:], layout, channels, grid, last.calls, last.order, activation,
            composite, activation_call, layouts.patches(name),
        )  # fmt: skip
    return infos, output


def _batch_axis(tensor: Tensor, count: int) -> int | None:
    """Returns the axis of the pictures: the first, or the second of time × batch × channels; None where there is none.

    Windows of a map, for instance, are no outputs per picture.
    """
    if 2 <= tensor.ndim <= 4 and len(tensor) == count:
        return 0
    return 1 if tensor.ndim == 3 and tensor.shape[1] == count else None


def _without_batch(module: nn.Module, images: Tensor, axes: dict[str, int]) -> set[str]:
    """The layers whose axis has the length of the batch by chance, as a table of positions may: it does not grow with it."""
    fixed: set[str] = set()
    parts = {id(m): name for name, m in module.named_modules() if name in axes}

    def hook(m: nn.Module, args: Any, out: Any) -> None:
        try:
            tensor = first_tensor(out)
        except TypeError:
            return
        name = parts[id(m)]
        grows = tensor.shape[axes[name] : axes[name] + 1] == (len(images) + 1,)
        (fixed.discard if grows else fixed.add)(name)

    handles = [m.register_forward_hook(hook) for m in module.modules() if id(m) in parts and not is_scripted(m)]
    try:
        with torch.no_grad():
            module(torch.cat([images, images[:1]]))
    finally:
        for handle in handles:
            handle.remove()
    return fixed


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _read_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    if layout == "BC":
        return shape[1], (1, 1)
    if layout in ("BTC", "TBC"):
        return shape[2], (shape[1], 1)
    if layout == "BCT":
        return shape[1], (shape[2], 1)
    if layout == "BMTC":
        return shape[1] * shape[3], (shape[2], 1)
    return (shape[3], (shape[1], shape[2])) if layout == "BHWC" else (shape[1], (shape[2], shape[3]))


def batch_first(values: Tensor, layout: str) -> Tensor:
    """Returns a layer's output with the batch axis first: itself, or a view of it."""
    return values.movedim(1, 0) if layout == "TBC" else values


def channels_first(values: Tensor, layout: str) -> Tensor:
    """Converts a layer's output to B×C×D, D being positions (row by row) or tokens.

    Args:
        values: the output.
        layout: as in `LayerInfo`.
    """
    if layout == "BC":
        return values[:, :, None]
    values = batch_first(values, layout)
    if layout in ("BTC", "TBC"):
        return values.transpose(1, 2)
    if layout == "BHWC":
        return values.flatten(1, 2).transpose(1, 2)
    if layout == "BMTC":
        return values.transpose(2, 3).flatten(1, 2)
    return values.flatten(2)


def as_laid_out(values_BCD: Tensor, info: LayerInfo) -> Tensor:
    """Converts values B×C×D back to the layer's own shape, (B, *info.shape) or T×B×C: the inverse of `channels_first`."""
    shape = (len(values_BCD), *info.shape)
    if info.layout == "TBC":
        return values_BCD.permute(2, 0, 1)
    if info.layout in ("BTC", "BHWC"):
        return values_BCD.transpose(1, 2).reshape(shape)
    if info.layout == "BMTC":
        heads, tokens, width = info.shape
        return values_BCD.reshape(-1, heads, width, tokens).transpose(2, 3)
    return values_BCD.reshape(shape)
