"""Which propagation rule applies to which kind of operation: `ZPLUS`, `EPSILON`, `GRADIENT`, `GUIDED`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from entoptic.errors import UserError, nearest
from entoptic.models.operations import Operation
from entoptic.models.rules import (
    Rule,
    attention,
    bilinear,
    by_magnitude,
    guided,
    identity,
    numerator,
    product_zplus,
    proportional,
    signal_takes_all,
    softmax,
    taylor,
    transport,
    winner_takes_all,
    zplus,
)

_KINDS = {
    "conv": "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear",
    "matmul": "matmul mm bmm einsum",
    "batch_norm": "batch_norm",
    "norm": "layer_norm group_norm instance_norm rms_norm normalize",
    "activation": "relu relu6 leaky_relu rrelu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh "
    "sigmoid tanh softplus clamp clamp_min clamp_max threshold",
    "avg_pool": "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum",
    "max_pool": "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d max amax",
    "add": "add sub",
    "mul": "mul multiply",
    "div": "div true_divide divide truediv",
    "softmax": "softmax",
    "attention": "scaled_dot_product_attention",
    "structure": "reshape view permute transpose swapaxes movedim moveaxis flatten unflatten squeeze unsqueeze chunk "
    "split unbind tensor_split getitem setitem select narrow index_select gather expand expand_as broadcast_to repeat tile "
    "repeat_interleave pad roll flip rot90 clone contiguous to float double type type_as dropout dropout2d "
    "feature_dropout alpha_dropout cat concat concatenate stack where masked_fill T mT t unfold fold view_as reshape_as "
    "pixel_shuffle pixel_unshuffle channel_shuffle as_strided tril triu copy vsplit hsplit",
}
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
"""Kind of an operation by its name."""


@dataclass(frozen=True, eq=False)
class Rules:
    """A table of the rule for each kind of operation.

    Attributes:
        name: of the table.
        table: one `Rule` per kind ("conv", "linear", "matmul", "batch_norm", "norm", "activation", "avg_pool",
            "max_pool", "add", "mul", "div", "softmax", "attention", "structure").
        other: the rule of operations of no kind.
        eps: added to denominators, away from 0.
        enter: (value, start) -> what is propagated from a layer where relevance starts.
        leave: (value, what was propagated) -> the map of a layer.
    """

    name: str
    table: Mapping[str, Rule]
    other: Rule = taylor
    eps: float = 1e-5
    enter: Callable[[Tensor, Tensor], Tensor] = lambda value, start: start
    leave: Callable[[Tensor, Tensor], Tensor] = lambda value, message: message

    def with_(self, *, eps: float | None = None, **kinds: Rule) -> Rules:
        """Returns a copy with other rules for some kinds, for instance `ZPLUS.with_(max_pool=average)`.

        Args:
            eps: another stabiliser, or None for the same.
            kinds: a rule by kind of operation.

        Raises:
            UserError: no such kind.
        """
        for kind in kinds:
            if kind not in _KINDS:
                raise UserError(
                    f'no kind of operation "{kind}"; expected one of {", ".join(_KINDS)}{nearest(kind, _KINDS)}'
                )
        table = MappingProxyType({**self.table, **kinds})
        name = self.name + "".join(f" {kind}={rule.__name__}" for kind, rule in kinds.items())
        return dataclasses.replace(self, name=name, table=table, eps=self.eps if eps is None else eps)

    def of(self, operation: Operation) -> Rule:
        """Returns the rule of one operation."""
        return self.table.get(KIND_OF.get(operation.name, ""), self.other)


_COMMON: dict[str, Rule] = {
    "norm": identity,
    "activation": identity,
    "max_pool": winner_takes_all,
    "mul": signal_takes_all,
    "div": numerator,
    "softmax": softmax,
    "attention": attention,
    "structure": transport,
}

ZPLUS = Rules(
    "zplus",
    MappingProxyType(
        {
            **_COMMON,
            "conv": zplus,
            "linear": zplus,
            "matmul": product_zplus,
            "batch_norm": identity,
            "avg_pool": proportional,
            "add": by_magnitude,
        }
    ),
)
"""VITAL's rules, made to hold for inputs of any sign; relevance of one sign stays so in networks without attention."""

EPSILON = Rules(
    "epsilon",
    MappingProxyType(
        {
            **_COMMON,
            "conv": taylor,
            "linear": taylor,
            "matmul": bilinear,
            "batch_norm": taylor,
            "avg_pool": taylor,
            "add": taylor,
        }
    ),
    eps=1e-6,
)
"""LRP-ε (LRP-0 with eps=0): contributions in proportion to their signed size; biases and constants keep their share."""


def _per_activation(value: Tensor, start: Tensor) -> Tensor:
    return torch.where(value == 0, 0.0, start / value)


GRADIENT = Rules(
    "gradient",
    MappingProxyType(dict.fromkeys(_KINDS, transport)),
    other=transport,
    enter=_per_activation,
    leave=lambda value, message: value * message,
)
"""Gradient × activation: where R starts as the activation itself, the map is a · ∂(Σ R)/∂a."""

GUIDED = dataclasses.replace(
    GRADIENT,
    name="guided",
    table=MappingProxyType({**GRADIENT.table, "activation": guided}),
    leave=lambda value, message: message.clamp(min=0),
)
"""Guided backpropagation: the gradient's positive part, with negative parts dropped at each activation function."""
