"""Propagation rules: how relevance at the output of one operation is shared among its inputs.

A rule is a function `(step, relevance of each output, eps) -> relevance of each input`. A `Rules` table maps the kind of
an operation to its rule; `ZPLUS`, `EPSILON`, `GRADIENT` and `GUIDED` are four such tables.

Notation: a input, z output, R relevance, w⁺ = max(w, 0), w⁻ = min(w, 0), vjp the transposed Jacobian of the operation.
Sources: Montavon et al. 2017 (z⁺), Bach et al. 2015 (ε), Otsuki et al. 2024 and VITAL (residual sums), Achtibat et al.
2024 (AttnLRP: softmax, products, LayerNorm), Springenberg et al. 2015 (guided backpropagation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from entoptic.errors import UserError, nearest

Message = Tensor | None
"""Relevance (or gradient) of one tensor; None is zero."""


@dataclass(frozen=True, eq=False)
class Step:
    """One recorded operation.

    Attributes:
        name: of the function, without underscores: "conv2d", "add", "getitem".
        function: what computes the outputs; never in place.
        leaves, spec: its arguments, flattened. slots: which leaves depend on the picture.
        inputs: those leaves. sources: the names of the steps that made them ("" for the picture).
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
        """The call's positional and keyword arguments, with other inputs where given."""
        leaves = list(self.leaves)
        for slot, tensor in zip(self.slots, inputs):
            leaves[slot] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return args, kwargs

    def call(self, *inputs: Tensor) -> list[Tensor]:
        """The operation on other inputs; its floating-point results."""
        args, kwargs = self.arguments(*inputs)
        return float_tensors(self.function(*args, **kwargs))


Rule = Callable[[Step, Sequence[Message], float], Sequence[Message]]


def float_tensors(out: Any) -> list[Tensor]:
    """The floating-point tensors in a function's result."""
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() else []
    return [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()]


# --- helpers ----------------------------------------------------------------------------------------------------------


def pull(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], weigh: Callable) -> list[Message]:
    """Transposed Jacobian of `function` at `inputs`, applied to `weigh(outputs)` (one message or None per output)."""
    leaves = [(x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in inputs]
    with torch.enable_grad():
        outputs = function(*leaves)
    messages = weigh([z.detach() for z in outputs])
    pairs = [(z, m) for z, m in zip(outputs, messages) if m is not None and z.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    return list(torch.autograd.grad([z for z, _ in pairs], leaves, [m for _, m in pairs], allow_unused=True))


def times(x: Tensor, message: Message) -> Message:
    return None if message is None else x.detach() * message


def stabilised(z: Tensor, eps: float) -> Tensor:
    """z moved away from 0 by eps, its sign kept; exact zeros become eps (or 1 where eps is 0: nothing is shared)."""
    if eps == 0:
        return torch.where(z == 0, torch.ones_like(z), z)
    return z + torch.where(z < 0, -eps, eps)


# --- rules that fit several kinds ---------------------------------------------------------------------------------------


def transport(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """vjp(R): exact transport where values are only moved, copied or dropped; the gradient elsewhere."""
    return pull(step.call, step.inputs, lambda _: relevance)


def identity(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """All relevance passes to the first input: elementwise functions, normalisations."""
    first = relevance[0]
    if first is not None and first.shape != step.inputs[0].shape:
        first = first.sum_to_size(step.inputs[0].shape)
    return [first] + [None] * (len(step.inputs) - 1)


def taylor(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """a · vjp(R / z): the ε rule of any affine operation (z includes the bias, which keeps its share)."""
    return _shared(step.call, step.inputs, relevance, eps)


def proportional(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """|a| · vjp(R / z) with z of |a|: means and sums, whose weights are positive. Keeps sign and sum."""
    return _by_size(step.call, step, relevance, eps)


def _by_size(
    function: Callable[..., Sequence[Tensor]], step: Step, relevance: Sequence[Message], eps: float
) -> list[Message]:
    return _shared(function, [x.detach().abs() for x in step.inputs], relevance, eps)


def _shared(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], relevance: Sequence[Message], eps: float
) -> list[Message]:
    """a · vjp(R / z)."""

    def weigh(outputs: list[Tensor]) -> list[Message]:
        return [None if r is None else r / stabilised(z, eps) for z, r in zip(outputs, relevance)]

    return [times(x, g) for x, g in zip(inputs, pull(function, inputs, weigh))]


# --- convolution and linear layers -------------------------------------------------------------------------------------

_PARTS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _part(weight: Tensor, positive: bool) -> Tensor:
    """w⁺ or w⁻; kept as long as the parameter lives and is not written to."""

    def clamped() -> Tensor:
        return weight.detach().clamp(min=0) if positive else weight.detach().clamp(max=0)

    if not isinstance(weight, nn.Parameter) or weight.is_inference():
        return clamped()
    version = (weight._version, weight.data_ptr())
    kept = _PARTS.get(weight)
    if kept is None or kept[0] != version:
        kept = _PARTS[weight] = (version, {})
    parts: dict[bool, Tensor] = kept[1]
    if positive not in parts:
        parts[positive] = clamped()
    return parts[positive]


def zplus(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """R_in = a⁺ · f(·, w⁺)ᵀ(R/z) + a⁻ · f(·, w⁻)ᵀ(R/z) with z = f(a⁺, w⁺) + f(a⁻, w⁻).

    Only positive contributions count, so relevance of one sign keeps its sign. For a ≥ 0 (after ReLU) this is the
    published z⁺ rule and costs one convolution forward and one transposed. The bias is left out of z: it would keep
    relevance for itself and, where negative, bring z near 0.
    """
    if len(step.inputs) > 1:  # weights that depend on the picture
        return bilinear(step, relevance, eps)
    a = step.inputs[0].detach()
    args, kwargs = step.arguments()
    named = dict(zip(("input", "weight", "bias"), args)) | kwargs
    weight, rest = named["weight"], args[3:]
    options = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}
    outputs = step.outputs[0].shape[-1 if step.name == "linear" else 1]
    stabiliser = weight.new_full((outputs,), eps) if eps else None

    def f(part: Tensor, positive: bool) -> Tensor:
        bias = stabiliser if positive else None  # z + eps without another pass over z
        return step.function(part, _part(weight, positive), bias, *rest, **options)

    return _positive(f, a, relevance[0], eps)


def _positive(f: Callable[[Tensor, bool], Tensor], a: Tensor, r: Message, eps: float) -> list[Message]:
    """z⁺ for z = f(a⁺, True) + f(a⁻, False), where f brings the stabiliser; in place where it can be: this is hot."""
    assert r is not None
    if bool(a.amin() >= 0):
        parts = [a]
    else:
        parts = [a.clamp(min=0), a.clamp(max=0)]

    def z(x: Tensor, *y: Tensor) -> list[Tensor]:
        return [f(x, True).add_(f(y[0], False))] if y else [f(x, True)]

    def weigh(outputs: list[Tensor]) -> list[Message]:
        (z,) = outputs
        if not eps:
            z = torch.where(z == 0, 1.0, z)
        return [torch.div(r, z, out=z) if r.dtype == z.dtype else r / z]

    found = [g.mul_(x) for x, g in zip(parts, pull(z, parts, weigh)) if g is not None]
    return [found[0] if len(found) == 1 else found[0].add_(found[1])]


def product_zplus(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """matmul: z⁺ with the constant operand as weight, or the bilinear rule where both depend on the picture."""
    if len(step.inputs) > 1:
        return bilinear(step, relevance, eps)
    (slot,) = step.slots
    constants = [i for i, leaf in enumerate(step.leaves) if isinstance(leaf, Tensor) and i != slot]

    def f(part: Tensor, positive: bool) -> Tensor:
        leaves = list(step.leaves)
        leaves[slot] = part
        for i in constants:
            leaves[i] = _part(leaves[i], positive)
        args, kwargs = tree_unflatten(leaves, step.spec)
        return step.function(*args, **kwargs) + (eps if positive else 0.0)

    return _positive(f, step.inputs[0].detach(), relevance[0], eps)


# --- sums and products -------------------------------------------------------------------------------------------------


def by_magnitude(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Sum or difference: R_m = R |m| / (|m| + |k|), halves where both are 0. Constants get nothing."""
    (r,) = relevance
    assert r is not None
    if len(step.inputs) == 1:
        return [r.sum_to_size(step.inputs[0].shape)]
    m, k = (x.detach().abs() for x in step.inputs)
    alpha = step.arguments()[1].get("alpha", 1)
    if alpha != 1:
        k = k * abs(alpha)
    total = m + k
    share = torch.where(total == 0, 0.5, m / total)
    first = r * share
    return [first.sum_to_size(m.shape), (r - first).sum_to_size(k.shape)]


GATES = {"sigmoid", "hardsigmoid", "tanh"}


def signal_takes_all(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Product: a gate (broadcast, or the output of a sigmoid) gets nothing; of two equals each takes half."""
    (r,) = relevance
    assert r is not None
    if len(step.inputs) == 1:
        return [r.sum_to_size(step.inputs[0].shape)]
    x, y = step.inputs
    gates = [source in GATES for source in step.sources]
    if x.numel() != y.numel():
        gates = [x.numel() < y.numel(), y.numel() < x.numel()]
    if gates[0] == gates[1]:
        return [(r / 2).sum_to_size(x.shape), (r / 2).sum_to_size(y.shape)]
    return [None if gate else r.sum_to_size(t.shape) for gate, t in zip(gates, step.inputs)]


def numerator(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Quotient: all relevance passes to the dividend."""
    (r,) = relevance
    assert r is not None
    args, _ = step.arguments()
    return [r.sum_to_size(x.shape) if x is args[0] else None for x in step.inputs]


def bilinear(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """AttnLRP eq. 15: each factor takes half, in proportion to its terms; the ε rule where one factor is constant."""
    if len(step.inputs) == 1:
        return taylor(step, relevance, eps)
    return taylor(step, [None if r is None else r / 2 for r in relevance], eps / 2)


def softmax(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """AttnLRP eq. 13: R_i = x_i (R_i - s_i Σ_j R_j)."""
    (r,) = relevance
    assert r is not None
    args, kwargs = step.arguments()
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return [_softmax(step.inputs[0].detach(), step.outputs[0].detach(), r, dim)]


def _softmax(x: Tensor, s: Tensor, r: Tensor, dim: int) -> Tensor:
    shared = r - s * r.sum(dim, keepdim=True)
    return torch.where(torch.isfinite(x), x, 0.0) * shared  # masked entries (-inf) have s = 0 and R = 0


def attention(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """scaled_dot_product_attention taken apart: softmax(q kᵀ · scale + mask) v by the rules above."""
    (r,) = relevance
    assert r is not None
    if len(step.inputs) != 3:
        return taylor(step, relevance, eps)
    heads = _Heads(step)
    q, k, v, p = heads.q, heads.k, heads.v, heads.p
    half = r / stabilised(2 * (p @ v), eps)
    r_p, r_v = p * (half @ v.transpose(-2, -1)), v * (p.transpose(-2, -1) @ half)
    half = heads.scale * _softmax(heads.masked, p, r_p, -1) / stabilised(2 * heads.scores, eps)
    r_q, r_k = q * (half @ k), k * (half.transpose(-2, -1) @ q)
    return [r_q, heads.ungrouped(r_k), heads.ungrouped(r_v)]


def values_only(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Attention with its weights held constant (Ali et al. 2022): a weighted mean of the values, shared like a mean.

    For the kinds "attention" and "matmul" both. Unlike AttnLRP's softmax rule it keeps sign and sum; queries and keys
    get nothing.
    """
    (r,) = relevance
    assert r is not None
    if step.name != "scaled_dot_product_attention":
        if len(step.inputs) < 2 or "softmax" not in step.sources:
            return product_zplus(step, relevance, eps)
        weights = step.sources.index("softmax")
        parts = [x.detach() if i == weights else x.detach().abs() for i, x in enumerate(step.inputs)]
        shares = _shared(step.call, parts, relevance, eps)
        return [None if i == weights else share for i, share in enumerate(shares)]
    if len(step.inputs) != 3:
        return taylor(step, relevance, eps)
    heads = _Heads(step)
    v = heads.v.abs()
    r_v = v * (heads.p.transpose(-2, -1) @ (r / stabilised(heads.p @ v, eps)))
    return [None, None, heads.ungrouped(r_v)]


class _Heads:
    """The parts of one scaled_dot_product_attention: q, k, v, scale, scores, masked scores, p = softmax of those."""

    def __init__(self, step: Step) -> None:
        args, kwargs = step.arguments()
        named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args)) | kwargs
        self.q, self.k, self.v = (named[name].detach() for name in ("query", "key", "value"))
        self._groups = self.q.shape[-3] // self.k.shape[-3] if named.get("enable_gqa") else 1
        if self._groups > 1:
            self.k, self.v = (x.repeat_interleave(self._groups, -3) for x in (self.k, self.v))
        given = named.get("scale")
        self.scale: float = 1 / math.sqrt(self.q.shape[-1]) if given is None else given
        self.scores = self.q @ self.k.transpose(-2, -1) * self.scale
        self.masked = _masked(self.scores, named.get("attn_mask"), bool(named.get("is_causal")))
        self.p = self.masked.softmax(-1)

    def ungrouped(self, x: Tensor) -> Tensor:
        """Keys or values shared by several heads collect from all of them."""
        return x if self._groups == 1 else x.unflatten(-3, (-1, self._groups)).sum(-3)


def _masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


# --- maximum pooling ---------------------------------------------------------------------------------------------------

winner_takes_all = transport


def average(step: Step, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """VITAL's substitute for max-pooling: average-pooling to the same size (2×2 for ResNet's 3×3, stride 2)."""
    size = (step.outputs[0].shape[2], step.outputs[0].shape[3])
    return _by_size(lambda x: [F.adaptive_avg_pool2d(x, size)], step, relevance[:1], eps)


# --- gradients ---------------------------------------------------------------------------------------------------------


def guided(step: Step, gradient: Sequence[Message], eps: float) -> Sequence[Message]:
    """Gradient of an activation function with its negative part dropped above it."""
    (g,) = gradient[:1]
    return transport(step, [None if g is None else g.clamp(min=0)], eps)


# --- tables ------------------------------------------------------------------------------------------------------------

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
    """Which rule applies to which kind of operation.

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
        """A copy with another eps or other rules for some kinds, for instance `ZPLUS.with_(max_pool=average)`.

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

    def of(self, step: Step) -> Rule:
        """The rule of one step."""
        return self.table.get(KIND_OF.get(step.name, ""), self.other)


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
