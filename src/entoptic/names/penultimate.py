"""What a network's last layer reads: the penultimate features, found by running the network, not by its names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from entoptic.errors import NotAvailable
from entoptic.models.model import LOGITS, Model
from entoptic.models.taps import Tap


@dataclass(frozen=True, kw_only=True)
class Penultimate:
    """Where a network's features are read.

    Attributes:
        layer: the module whose input they are, or whose output where `named`.
        width: numbers of each picture.
        named: whether a person named the layer.
        linear: whether the logits are this layer's own output, so that a mean of features has the mean of the logits.
    """

    layer: str
    width: int
    named: bool = False
    linear: bool = False


def find_penultimate(model: Model, layer: str = "") -> Penultimate:
    """Finds the last linear layer (or convolution of 1×1) that gives one number a class.

    Args:
        model: the network.
        layer: whose output, averaged over positions, the features are; "" looks for the last linear layer.

    Raises:
        UserError: no such layer.
        NotAvailable: the network has no logits, or none of its layers gives them.
    """
    if layer:
        return Penultimate(layer=layer, width=model.layer(layer).channels, named=True)
    count = model.outputs
    names = {module: name for name, module in model.module.named_modules()}
    seen: list[tuple[str, Tensor, Tensor]] = []

    def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[1 if isinstance(module, nn.Conv2d) else -1] == count:
            seen.append((names[module], given[0].detach(), output.detach()))

    last = [m for m in names if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))]
    handles = [module.register_forward_hook(hook) for module in last]
    noise = torch.rand(2, 3, *model.card.size, generator=torch.Generator().manual_seed(0)).to(model.device)
    try:
        with torch.no_grad():
            logits = model(noise)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise NotAvailable(
            f"no linear layer of {model.card.name} gives its {count} logits, so its features are not known; "
            "name a layer whose mean over positions they are with --features LAYER"
        )
    name, given, output = seen[-1]
    linear = output.shape == logits.shape and torch.allclose(output.float(), logits, atol=1e-4)
    return Penultimate(layer=name, width=_pooled(given).shape[1], linear=bool(linear))


@contextmanager
def reading(model: Model, where: Penultimate) -> Iterator[list[Tensor]]:
    """Collects the features of every whole forward pass inside the context, each B×C on the CPU.

    Args:
        model: the network.
        where: the features are.
    """
    collected: list[Tensor] = []
    if where.named:
        yield collected
        return
    module = dict(model.module.named_modules())[where.layer]
    handle = module.register_forward_pre_hook(lambda _m, given: collected.append(_pooled(given[0].detach())))
    try:
        yield collected
    finally:
        handle.remove()


def read_once(model: Model, images: Tensor, where: Penultimate, taps: set[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
    """Reads features and other values of pictures in one forward pass.

    Args:
        model: the network.
        images: B×3×H×W in [0, 1] of the input size.
        where: the features are.
        taps: other values to read; the logits are always read.

    Returns:
        Features B×C and the values by tap.
    """
    own = {Tap(where.layer)} if where.named else set()
    with torch.no_grad(), reading(model, where) as collected:
        values = model.read(images, taps | own | {Tap(LOGITS)})
    features = values[Tap(where.layer)].mean(2).cpu() if where.named else collected[-1]
    return features.float(), values


def _pooled(values: Tensor) -> Tensor:
    """B×C of B×C, of a map B×C×H×W, or of tokens B×T×C whose last token's row a head does not say."""
    if values.ndim == 4:
        values = values.mean((2, 3))
    elif values.ndim == 3:
        values = values.mean(1)
    return values.float().cpu()
