"""Propagation rules: how relevance at the output of one operation is shared among its inputs.

A rule is a function `(operation, relevance of each output, eps) -> relevance of each input`. `rule_tables` maps the
kind of an operation to its rule.

Notation: a input, z output, R relevance, w⁺ = max(w, 0), w⁻ = min(w, 0), vjp the transposed Jacobian of the operation.
Sources: Montavon et al. 2017 (z⁺), Bach et al. 2015 (ε), Otsuki et al. 2024 and VITAL (residual sums), Achtibat et al.
2024 (AttnLRP: softmax, products, LayerNorm), Springenberg et al. 2015 (guided backpropagation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from entoptic.models.operations import Operation

Message = Tensor | None
"""Relevance (or gradient) of one tensor; None is zero."""


Rule = Callable[[Operation, Sequence[Message], float], Sequence[Message]]


# --- helpers ----------------------------------------------------------------------------------------------------------


def pull(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], weigh: Callable) -> list[Message]:
    """Applies the transposed Jacobian of a function to messages.

    Args:
        function: returns tensors from `inputs`.
        inputs: where the Jacobian is taken.
        weigh: returns one message or None per output, from the outputs.

    Returns:
        One message per input.
    """
    leaves = [(x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in inputs]
    with torch.enable_grad():
        outputs = function(*leaves)
    messages = weigh([z.detach() for z in outputs])
    pairs = [(z, m) for z, m in zip(outputs, messages) if m is not None and z.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    return list(torch.autograd.grad([z for z, _ in pairs], leaves, [m for _, m in pairs], allow_unused=True))


def times(x: Tensor, message: Message) -> Message:
    """Multiplies a message by x; None stays None."""
    return None if message is None else x.detach() * message


def stabilised(z: Tensor, eps: float) -> Tensor:
    """Moves z away from 0 by eps, keeping its sign; exact zeros become eps (or 1 where eps is 0: nothing is shared)."""
    if eps == 0:
        return torch.where(z == 0, torch.ones_like(z), z)
    return z + torch.where(z < 0, -eps, eps)


# --- rules that fit several kinds ---------------------------------------------------------------------------------------


def transport(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Computes vjp(R): exact transport where values are only moved, copied or dropped; the gradient elsewhere."""
    return pull(operation.call, operation.inputs, lambda _: relevance)


def identity(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Passes all relevance to the first input: elementwise functions, normalisations."""
    first = relevance[0]
    if first is not None and first.shape != operation.inputs[0].shape:
        first = first.sum_to_size(operation.inputs[0].shape)
    return [first] + [None] * (len(operation.inputs) - 1)


def taylor(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Computes a · vjp(R / z): the ε rule of any affine operation (z includes the bias, which keeps its share)."""
    return _shared(operation.call, operation.inputs, relevance, eps)


def proportional(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Computes |a| · vjp(R / z) with z of |a|: means and sums, whose weights are positive.

    It keeps sign and sum.
    """
    return _by_size(operation.call, operation, relevance, eps)


def _by_size(
    function: Callable[..., Sequence[Tensor]], operation: Operation, relevance: Sequence[Message], eps: float
) -> list[Message]:
    return _shared(function, [x.detach().abs() for x in operation.inputs], relevance, eps)


def _shared(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], relevance: Sequence[Message], eps: float
) -> list[Message]:
    """Computes a · vjp(R / z)."""

    def weigh(outputs: list[Tensor]) -> list[Message]:
        return [None if r is None else r / stabilised(z, eps) for z, r in zip(outputs, relevance)]

    return [times(x, g) for x, g in zip(inputs, pull(function, inputs, weigh))]


# --- convolution and linear layers -------------------------------------------------------------------------------------

_PARTS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _part(weight: Tensor, positive: bool) -> Tensor:
    """Returns w⁺ or w⁻; kept as long as the parameter lives and is not written to."""

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


def zplus(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares relevance by the z⁺ rule, for inputs of any sign.

    R_in = a⁺ · f(·, w⁺)ᵀ(R/z) + a⁻ · f(·, w⁻)ᵀ(R/z) with z = f(a⁺, w⁺) + f(a⁻, w⁻). Only positive contributions count, so
    relevance of one sign keeps its sign. For a ≥ 0 (after ReLU) this is the published rule (Montavon et al. 2017) and costs
    one convolution forward and one transposed. The bias is left out of z: it would keep relevance for itself and, where
    negative, bring z near 0.
    """
    if len(operation.inputs) > 1:  # weights that depend on the picture
        return bilinear(operation, relevance, eps)
    a = operation.inputs[0].detach()
    args, kwargs = operation.arguments()
    named = dict(zip(("input", "weight", "bias"), args)) | kwargs
    weight, rest = named["weight"], args[3:]
    options = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}
    outputs = operation.outputs[0].shape[-1 if operation.name == "linear" else 1]
    stabiliser = weight.new_full((outputs,), eps) if eps else None

    def f(part: Tensor, positive: bool) -> Tensor:
        bias = stabiliser if positive else None  # z + eps without another pass over z
        return operation.function(part, _part(weight, positive), bias, *rest, **options)

    return _positive(f, a, relevance[0], eps)


def _positive(f: Callable[[Tensor, bool], Tensor], a: Tensor, r: Message, eps: float) -> list[Message]:
    """Shares by z⁺ for z = f(a⁺, True) + f(a⁻, False), where f adds the stabiliser; in place where possible, for speed."""
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


def product_zplus(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a matmul by z⁺ with the constant operand as weight, or by the bilinear rule where both depend on the picture."""
    if len(operation.inputs) > 1:
        return bilinear(operation, relevance, eps)
    (slot,) = operation.slots
    constants = [i for i, leaf in enumerate(operation.leaves) if isinstance(leaf, Tensor) and i != slot]

    def f(part: Tensor, positive: bool) -> Tensor:
        leaves = list(operation.leaves)
        leaves[slot] = part
        for i in constants:
            leaves[i] = _part(leaves[i], positive)
        args, kwargs = tree_unflatten(leaves, operation.spec)
        return operation.function(*args, **kwargs) + (eps if positive else 0.0)

    return _positive(f, operation.inputs[0].detach(), relevance[0], eps)


# --- sums and products -------------------------------------------------------------------------------------------------


def by_magnitude(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a sum or difference by size: R_m = R |m| / (|m| + |k|), halves where both are 0.

    Constants get nothing.
    """
    (r,) = relevance
    assert r is not None
    if len(operation.inputs) == 1:
        return [r.sum_to_size(operation.inputs[0].shape)]
    m, k = (x.detach().abs() for x in operation.inputs)
    alpha = operation.arguments()[1].get("alpha", 1)
    if alpha != 1:
        k = k * abs(alpha)
    total = m + k
    share = torch.where(total == 0, 0.5, m / total)
    first = r * share
    return [first.sum_to_size(m.shape), (r - first).sum_to_size(k.shape)]


GATES = {"sigmoid", "hardsigmoid", "tanh"}


def signal_takes_all(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a product: a gate (broadcast, or the output of a sigmoid) gets nothing; of two equals each takes half."""
    (r,) = relevance
    assert r is not None
    if len(operation.inputs) == 1:
        return [r.sum_to_size(operation.inputs[0].shape)]
    x, y = operation.inputs
    gates = [source in GATES for source in operation.sources]
    if x.numel() != y.numel():
        gates = [x.numel() < y.numel(), y.numel() < x.numel()]
    if gates[0] == gates[1]:
        return [(r / 2).sum_to_size(x.shape), (r / 2).sum_to_size(y.shape)]
    return [None if gate else r.sum_to_size(t.shape) for gate, t in zip(gates, operation.inputs)]


def numerator(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Passes all relevance of a quotient to the dividend."""
    (r,) = relevance
    assert r is not None
    args, _ = operation.arguments()
    return [r.sum_to_size(x.shape) if x is args[0] else None for x in operation.inputs]


def bilinear(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a product of two inputs in halves (AttnLRP eq. 15); the ε rule where one factor is constant."""
    if len(operation.inputs) == 1:
        return taylor(operation, relevance, eps)
    return taylor(operation, [None if r is None else r / 2 for r in relevance], eps / 2)


def softmax(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a softmax: R_i = x_i (R_i - s_i Σ_j R_j) (AttnLRP eq. 13)."""
    (r,) = relevance
    assert r is not None
    args, kwargs = operation.arguments()
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return [_softmax(operation.inputs[0].detach(), operation.outputs[0].detach(), r, dim)]


def _softmax(x: Tensor, s: Tensor, r: Tensor, dim: int) -> Tensor:
    shared = r - s * r.sum(dim, keepdim=True)
    return torch.where(torch.isfinite(x), x, 0.0) * shared  # masked entries (-inf) have s = 0 and R = 0


def attention(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares scaled_dot_product_attention, taken apart as softmax(q kᵀ · scale + mask) v, by the rules above."""
    (r,) = relevance
    assert r is not None
    if len(operation.inputs) != 3:
        return taylor(operation, relevance, eps)
    heads = _Heads(operation)
    q, k, v, p = heads.q, heads.k, heads.v, heads.p
    half = r / stabilised(2 * (p @ v), eps)
    r_p, r_v = p * (half @ v.transpose(-2, -1)), v * (p.transpose(-2, -1) @ half)
    half = heads.scale * _softmax(heads.masked, p, r_p, -1) / stabilised(2 * heads.scores, eps)
    r_q, r_k = q * (half @ k), k * (half.transpose(-2, -1) @ q)
    return [r_q, heads.ungrouped(r_k), heads.ungrouped(r_v)]


def values_only(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares attention with its weights held constant (Ali et al. 2022): a weighted mean of the values, shared like a mean.

    It serves the kinds "attention" and "matmul". Unlike AttnLRP's softmax rule it keeps sign and sum; queries and keys get
    nothing.
    """
    (r,) = relevance
    assert r is not None
    if operation.name != "scaled_dot_product_attention":
        if len(operation.inputs) < 2 or "softmax" not in operation.sources:
            return product_zplus(operation, relevance, eps)
        weights = operation.sources.index("softmax")
        parts = [x.detach() if i == weights else x.detach().abs() for i, x in enumerate(operation.inputs)]
        shares = _shared(operation.call, parts, relevance, eps)
        return [None if i == weights else share for i, share in enumerate(shares)]
    if len(operation.inputs) != 3:
        return taylor(operation, relevance, eps)
    heads = _Heads(operation)
    v = heads.v.abs()
    r_v = v * (heads.p.transpose(-2, -1) @ (r / stabilised(heads.p @ v, eps)))
    return [None, None, heads.ungrouped(r_v)]


class _Heads:
    """The parts of one scaled_dot_product_attention: q, k, v, scale, scores, masked scores, p = softmax of those."""

    def __init__(self, operation: Operation) -> None:
        args, kwargs = operation.arguments()
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
        """Sums keys or values that several heads share over these heads."""
        return x if self._groups == 1 else x.unflatten(-3, (-1, self._groups)).sum(-3)


def _masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


# --- maximum pooling ---------------------------------------------------------------------------------------------------

winner_takes_all = transport


def average(operation: Operation, relevance: Sequence[Message], eps: float) -> Sequence[Message]:
    """Shares a max-pooling as average-pooling to the same size, as VITAL does (2×2 for ResNet's 3×3, stride 2)."""
    size = (operation.outputs[0].shape[2], operation.outputs[0].shape[3])
    return _by_size(lambda x: [F.adaptive_avg_pool2d(x, size)], operation, relevance[:1], eps)


# --- gradients ---------------------------------------------------------------------------------------------------------


def guided(operation: Operation, gradient: Sequence[Message], eps: float) -> Sequence[Message]:
    """Computes the gradient of an activation function with its negative part dropped above it."""
    (g,) = gradient[:1]
    return transport(operation, [None if g is None else g.clamp(min=0)], eps)
