"""One operation of a forward pass, as a `Tape` records it: its name, its arguments and a form that is not in place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from entoptic.errors import UserError


@dataclass(frozen=True, eq=False)
class Operation:
    """One recorded operation.

    Attributes:
        name: of the function, without underscores: "conv2d", "add", "getitem".
        function: what computes the outputs; never in place.
        leaves, spec: its arguments, flattened.
        slots: which leaves depend on the picture.
        inputs: those leaves.
        sources: the names of the operations that made them ("" for the picture).
        outputs: its floating-point results.
    """

    name: str
    function: Callable[..., Any]
    leaves: tuple[Any, ...]
    spec: TreeSpec
    slots: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    sources: tuple[str, ...]
    outputs: tuple[Tensor, ...]

    def arguments(self, *inputs: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the call's positional and keyword arguments, with other inputs where given."""
        leaves = list(self.leaves)
        for slot, tensor in zip(self.slots, inputs):
            leaves[slot] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return args, kwargs

    @property
    def is_complex(self) -> bool:
        """Whether an input or an output is complex."""
        return any(x.is_complex() for x in (*self.inputs, *self.outputs))

    def as_real(self) -> Operation:
        """Returns the same operation on pairs of real and imaginary parts (a last axis of 2) in place of complex tensors."""
        kinds = [x.is_complex() for x in self.inputs]

        def run(*parts: Tensor) -> list[Tensor]:
            inputs = [torch.view_as_complex(x.contiguous()) if c else x for x, c in zip(parts, kinds)]
            return [real_parts(x) for x in self.call(*inputs)]

        leaves, spec = tree_flatten((tuple(map(real_parts, self.inputs)), {}))
        return Operation(
            self.name, run, tuple(leaves), spec, tuple(range(len(leaves))), tuple(map(real_parts, self.inputs)),
            self.sources, tuple(map(real_parts, self.outputs)),
        )  # fmt: skip

    def call(self, *inputs: Tensor) -> list[Tensor]:
        """Runs the operation on other inputs and returns its floating-point results."""
        args, kwargs = self.arguments(*inputs)
        return float_tensors(self.function(*args, **kwargs))


def real_parts(x: Tensor) -> Tensor:
    """Returns a real tensor as it is, a complex one as pairs of real and imaginary parts along a new last axis."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def float_tensors(out: Any) -> list[Tensor]:
    """Returns the floating-point and complex tensors in a function's result."""
    return [x for x in tree_leaves(out) if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]


# --- names ------------------------------------------------------------------------------------------------------------

_INPLACE = {f"__i{name}__": name for name in ("add", "sub", "mul", "truediv", "matmul", "pow", "and", "or")}
_NAMES = {"radd": "add", "rmul": "mul", "rsub": "sub", "rmatmul": "matmul", "rtruediv": "rdiv"}
CONSTANT = {
    *(f"{how}_like" for how in ("zeros", "ones", "empty", "full", "rand", "randn")),
    *(f"new_{how}" for how in ("zeros", "ones", "empty", "full", "tensor")),
    "detach", "data",
}  # fmt: skip
"""Operations that take a tensor but let no gradient and no relevance through."""


@cache
def operation_name(function: Callable[..., Any]) -> str:
    """Returns the name of an operation without underscores.

    It is "add" for `torch.add`, `Tensor.add`, `add_`, `__add__`, `__iadd__` and `__radd__`; properties have their own name.
    """
    name = function.__name__
    if name == "__get__":
        return function.__self__.__name__  # type: ignore[attr-defined]
    if name in _INPLACE:
        return _INPLACE[name]
    name = name.strip("_")
    return _NAMES.get(name, name)


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature if "inplace" in signature.parameters else None


def out_of_place(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any] | None, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Finds the form of an operation that leaves its operand alone.

    Returns:
        For an operation in place: a function that leaves its first argument alone, and its arguments. Else None and the
        arguments as they are.

    Raises:
        UserError: an operation in place without such a form.
    """
    raw = function.__name__
    if raw == "__setitem__":
        return _set_item, (args, kwargs)
    if raw in _INPLACE:
        return getattr(Tensor, f"__{_INPLACE[raw]}__"), (args, kwargs)
    if raw == "copy_":
        return _copy, (args[:2], {})
    if raw.endswith("_") and not raw.endswith("__") and raw != "requires_grad_":
        pure = getattr(Tensor, raw[:-1], None) or getattr(F, raw[:-1], None)
        if pure is None:
            raise UserError(f"relevance cannot follow {raw}: build the network without this in-place operation")
        return pure, (args, kwargs)
    if (signature := _signature(function)) is not None:
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("inplace"):
            bound.arguments["inplace"] = False
            return function, (bound.args, bound.kwargs)
    return None, (args, kwargs)


def _set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def _copy(tensor: Tensor, value: Tensor) -> Tensor:
    return value.to(tensor).expand_as(tensor).clone()


def overlap(a: Tensor, b: Tensor) -> bool:
    """Returns whether two tensors of one storage share an element."""
    elements = torch.arange(a.untyped_storage().nbytes() // a.element_size())
    mine, other = (elements.as_strided(x.shape, x.stride(), x.storage_offset()) for x in (a, b))
    return bool(torch.isin(mine, other).any())


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True,
    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None, static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Computes `F.multi_head_attention_forward` of L×N×E tensors by operations that have rules.

    The arguments are those of the torch function.

    Raises:
        UserError: padding masks, added keys or dropout.
    """
    odd = (bias_k, bias_v, key_padding_mask, static_k, static_v)
    if any(x is not None for x in odd) or add_zero_attn or query.ndim != 3 or (training and dropout_p > 0):
        raise UserError("relevance follows nn.MultiheadAttention without padding masks, added keys and dropout only")
    if use_separate_proj_weight:
        weights: Sequence[Any] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases: Sequence[Any] = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]
    # L×N×E to N×heads×L×e
    q, k, v = (x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for x in projected)
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.unflatten(0, (-1, num_heads))
    if not need_weights:
        mixed, weights_out = F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal), None
    else:
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        if attn_mask is not None:
            # torch adds its float masks; its boolean masks mark where NOT to look (those of sdpa mark where to look)
            scores = scores.masked_fill(attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        attention = scores.softmax(-1)
        mixed, weights_out = attention @ v, attention.mean(1) if average_attn_weights else attention
    joined = mixed.permute(2, 0, 1, 3).flatten(2)
    return F.linear(joined, out_proj_weight, out_proj_bias), weights_out
