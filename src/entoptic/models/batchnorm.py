"""Read the moments of what BatchNorm layers receive, without changing them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


class BatchNormMoments(AbstractContextManager["BatchNormMoments"]):
    """Context manager that takes the moments of every BatchNorm2d input (timm's BatchNormAct2d among them).

    Args:
        module: the network; in evaluation mode its normalisation itself uses the running statistics, unchanged.
        groups: the rows of each forward pass are that many consecutive groups of equal size; moments are taken over the
            pictures and positions of one group (biased variance), so no group depends on another.

    Attributes:
        values: by layer, in the order in which the layers run: mean and variance of the last forward pass, each
            groups×C and differentiable.
        running: by layer, the layer's own running mean and variance, each C.
    """

    def __init__(self, module: nn.Module, groups: int) -> None:
        self.values: dict[str, tuple[Tensor, Tensor]] = {}
        self.running: dict[str, tuple[Tensor, Tensor]] = {}
        self._module, self._groups = module, groups
        self._handles: list[Any] = []

    def __enter__(self) -> BatchNormMoments:
        for name, layer in batch_norms(self._module).items():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            self.running[name] = (layer.running_mean, layer.running_var)
            self._handles.append(layer.register_forward_pre_hook(lambda _m, args, name=name: self._take(name, args[0])))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _take(self, name: str, input_BCHW: Tensor) -> None:
        variance, mean = torch.var_mean(input_BCHW.unflatten(0, (self._groups, -1)), (1, 3, 4), correction=0)
        self.values[name] = (mean, variance)


def batch_norms(module: nn.Module) -> dict[str, nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Lists the BatchNorm layers over maps that keep running statistics, by name, in the order the module lists them."""
    return {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm)) and m.running_mean is not None
    }
