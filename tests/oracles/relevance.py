"""Relevance propagation layer by layer, in loops over single contributions.

Every layer here is a list of terms: output o receives a_i · w_oi. A rule says how the relevance of o is shared among
its terms. One picture at a time, float64, nothing shared with `entoptic.models`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Array = np.ndarray
Terms = Iterator[tuple[tuple[int, ...], list[tuple[tuple[int, ...], float]]]]


def zplus(contributions: list[float], bias: float, eps: float) -> list[float]:
    """Shares in proportion to the positive contributions; the bias is ignored."""
    positive = [max(c, 0.0) for c in contributions]
    total = sum(positive) + eps
    return [c / total if total else 0.0 for c in positive]


def epsilon(contributions: list[float], bias: float, eps: float) -> list[float]:
    """Shares in proportion to the signed contributions; the bias keeps its own."""
    total = sum(contributions) + bias
    total += -eps if total < 0 else eps
    return [c / total if total else 0.0 for c in contributions]


def by_size(contributions: list[float], bias: float, eps: float) -> list[float]:
    """Shares in proportion to the size of the contributions."""
    return zplus([abs(c) for c in contributions], bias, eps)


def spread(a: Array, terms: Terms, relevance: Array, rule, eps: float, bias: Array | None = None) -> Array:
    """Relevance of the input `a`; `bias` holds one number per output."""
    found = np.zeros(a.shape)
    for out, row in terms:
        b = 0.0 if bias is None else float(bias[out])
        for (index, _), share in zip(row, rule([a[i] * w for i, w in row], b, eps)):
            found[index] += share * relevance[out]
    return found


# --- forward passes, as lists of terms ----------------------------------------------------------------------------------


def conv_terms(a: Array, w: Array, stride: int, padding: int, groups: int = 1, dilation: int = 1) -> Terms:
    """a: C×H×W, w: K×(C/groups)×h×w."""
    outputs, per_group, height, width = w.shape
    rows = (a.shape[1] + 2 * padding - dilation * (height - 1) - 1) // stride + 1
    columns = (a.shape[2] + 2 * padding - dilation * (width - 1) - 1) // stride + 1
    for k in range(outputs):
        first = (k // (outputs // groups)) * per_group
        for y in range(rows):
            for x in range(columns):
                row = []
                for c in range(per_group):
                    for i in range(height):
                        for j in range(width):
                            v, u = y * stride - padding + i * dilation, x * stride - padding + j * dilation
                            if 0 <= v < a.shape[1] and 0 <= u < a.shape[2]:
                                row.append(((first + c, v, u), float(w[k, c, i, j])))
                yield (k, y, x), row


def linear_terms(a: Array, w: Array) -> Terms:
    """a: …×I, w: O×I."""
    for place in np.ndindex(a.shape[:-1]):
        for o in range(w.shape[0]):
            yield (*place, o), [((*place, i), float(w[o, i])) for i in range(w.shape[1])]


def mean_terms(a: Array) -> Terms:
    """Mean over all axes but the first."""
    n = a[0].size
    for c in range(a.shape[0]):
        yield (c,), [((c, *place), 1 / n) for place in np.ndindex(a.shape[1:])]


def pool_terms(a: Array, size: int) -> Terms:
    """size×size average-pooling with that stride."""
    for c in range(a.shape[0]):
        for y in range(a.shape[1] // size):
            for x in range(a.shape[2] // size):
                window = [(c, y * size + i, x * size + j) for i in range(size) for j in range(size)]
                yield (c, y, x), [(place, 1 / size**2) for place in window]


def apply(terms: Terms, a: Array, shape: tuple[int, ...]) -> Array:
    """The outputs of a list of terms."""
    out = np.zeros(shape)
    for o, row in terms:
        out[o] = sum(a[i] * w for i, w in row)
    return out


def max_pool(a: Array, size: int, stride: int, padding: int) -> tuple[Array, dict[tuple[int, ...], tuple[int, ...]]]:
    """Maxima, and where each was found (the first of equals)."""
    rows, columns = ((n + 2 * padding - size) // stride + 1 for n in a.shape[1:])
    out, winner = np.zeros((a.shape[0], rows, columns)), {}
    for c, y, x in np.ndindex(out.shape):
        best, at = -np.inf, (c, 0, 0)
        for i in range(size):
            for j in range(size):
                v, u = y * stride - padding + i, x * stride - padding + j
                if 0 <= v < a.shape[1] and 0 <= u < a.shape[2] and a[c, v, u] > best:
                    best, at = a[c, v, u], (c, v, u)
        out[c, y, x], winner[c, y, x] = best, at
    return out, winner


def sum_by_size(m: Array, k: Array, relevance: Array) -> tuple[Array, Array]:
    """|m| / (|m| + |k|) of the relevance to m, the rest to k; halves where both are 0."""
    first = np.zeros(relevance.shape)
    for i in np.ndindex(relevance.shape):
        total = abs(m[i]) + abs(k[i])
        first[i] = relevance[i] * (abs(m[i]) / total if total else 0.5)
    return first, relevance - first


def sum_epsilon(m: Array, k: Array, relevance: Array, eps: float) -> tuple[Array, Array]:
    total = m + k
    total = total + np.where(total < 0, -eps, eps)
    return m * relevance / total, k * relevance / total


# --- attention ----------------------------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_relevance(x: Array, relevance: Array) -> Array:
    """R_i = x_i (R_i - s_i Σ_j R_j), along the last axis."""
    s, found = softmax(x), np.zeros(x.shape)
    for place in np.ndindex(x.shape[:-1]):
        total = sum(relevance[place])
        for i in range(x.shape[-1]):
            found[(*place, i)] = x[(*place, i)] * (relevance[(*place, i)] - s[(*place, i)] * total)
    return found


def product_relevance(a: Array, b: Array, relevance: Array, eps: float) -> tuple[Array, Array]:
    """z = a b (I×J times J×K): R_ij gets Σ_k a_ij b_jk R_ik / (2 z_ik + ε), b_jk likewise."""
    r_a, r_b = np.zeros(a.shape), np.zeros(b.shape)
    z = a @ b
    for i in range(a.shape[0]):
        for k in range(b.shape[1]):
            share = relevance[i, k] / (2 * z[i, k] + (-eps if z[i, k] < 0 else eps))
            for j in range(a.shape[1]):
                r_a[i, j] += a[i, j] * b[j, k] * share
                r_b[j, k] += a[i, j] * b[j, k] * share
    return r_a, r_b


def attention_relevance(q: Array, k: Array, v: Array, relevance: Array, eps: float) -> tuple[Array, Array, Array]:
    """One head: softmax(q kᵀ / √e) v, all T×e."""
    scale = 1 / np.sqrt(q.shape[1])
    scores = q @ k.T * scale
    r_p, r_v = product_relevance(softmax(scores), v, relevance, eps)
    r_scores = softmax_relevance(scores, r_p)
    # The scale is part of the product here, so that eps means the same on both sides.
    r_q, r_k = product_relevance(q * scale, k.T, r_scores, eps)
    return r_q, r_k.T, r_v
