"""Exponential tilts of a prior, and the law of top-K selection, as pure functions.

The tilt q_β(x) ∝ p(x)·exp(β s(x)) is the law of mean score m = E_q[s] that is nearest to p in KL divergence. Here p is
uniform over N stored photos, so every quantity is a softmax. Everything is float64; nats throughout.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.errors import UserError

# --- top-K selection ------------------------------------------------------------------------------------------------


def selection_kl(n: int, k: int) -> float:
    """KL(q‖p) in nats of "draw n from p, keep the k of highest score, show one of them at random".

    The law has density w(F(s(x))) with respect to p, w(u) = (n/k)·P[Bin(n-1, 1-u) ≤ k-1] and F the distribution
    function of s, so KL = ∫₀¹ w log w du depends on neither p nor s, as long as s has no ties; with ties broken at
    random it is an upper bound. k = 1 gives log n - (n-1)/n. Accurate to 1e-8 up to n = 10⁷.

    Raises:
        UserError: not 1 ≤ k ≤ n.
    """
    if not 1 <= k <= n:
        raise UserError(f"top-K selection needs 1 ≤ K ≤ N, got K = {k} and N = {n}")
    if k == n:
        return 0.0
    if k == 1:
        return math.log(n) - (n - 1) / n
    # With v = 1-u, Q(v) = P[Bin(n-1, v) ≤ k-1] is the upper tail of Beta(k, n-k). Integrating ∫ Q log Q dv by parts,
    #   KL = log(n/k) + 1 + E[log Q(V)],  V ~ Beta(k+1, n-k).
    # y = log(v/(1-v)) makes both densities bell-shaped with tails that fall at least like exp(-|y|).
    a, b = k, n - k
    mode, sd = math.log(a / b), math.sqrt(1 / a + 1 / b)
    y = torch.linspace(mode - 12 * sd - 60 / a, mode + 12 * sd + 60 / b, 40001, dtype=torch.float64)
    v = torch.sigmoid(y)
    log_density = a * torch.nn.functional.logsigmoid(y) + b * torch.nn.functional.logsigmoid(-y)
    density = (log_density - log_density.max()).exp()  # of Beta(k, n-k) over y, up to a factor
    # Simpson's rule over pairs of intervals, summed from the right, keeps small tails exact.
    panels = density[:-2:2] + 4 * density[1:-1:2] + density[2::2]
    tail = panels.flip(0).cumsum(0).flip(0)  # ∝ Q(v) at the left end of each panel
    log_tail = (tail / tail[0]).clamp_min(1e-300).log()  # where it underflows, so does the weight
    weight = (density * v)[:-2:2]  # ∝ density of Beta(k+1, n-k) over y; both ends vanish
    return max(math.log(n / k) + 1 + float((weight * log_tail).sum() / weight.sum()), 0.0)


def rank_kl(n: int, rank: int) -> float:
    """KL(q‖p) in nats of "draw n from p, show that of rank `rank`" (1 is the highest score, n the lowest).

    1 - F(s) of that picture is Beta(rank, n-rank+1), whatever p and s are (no ties). The mean of these laws over the
    ranks 1 … K is the law of `selection_kl`.

    Raises:
        UserError: not 1 ≤ rank ≤ n.
    """
    if not 1 <= rank <= n:
        raise UserError(f"ranks of {n} photos are 1 to {n}, got {rank}")
    a, b = rank, n - rank + 1
    digamma = torch.digamma(torch.tensor([a, b, a + b], dtype=torch.float64)).tolist()
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return -log_beta + (a - 1) * (digamma[0] - digamma[2]) + (b - 1) * (digamma[1] - digamma[2])


# --- tilts of the uniform law over stored photos ---------------------------------------------------------------------


@dataclass(frozen=True)
class Tilt:
    """q_β over N items whose prior is uniform.

    Attributes:
        beta: ≥ 0; infinity is the uniform law over the items of highest score.
        weights: q_β, N float64 that sum to 1.
        log_z: log E_p[exp(β s)] (infinite at β = ∞). mean, variance: of s under q_β.
        kl: KL(q_β‖p) in nats. ess: effective sample size 1/Σw², between 1 and N.
    """

    beta: float
    weights: Tensor
    log_z: float
    mean: float
    variance: float
    kl: float
    ess: float


def tilt(scores: Tensor, beta: float) -> Tilt:
    """The tilt of the uniform law over items by their scores (N).

    Raises:
        UserError: no scores, scores that are not finite, or β < 0.
    """
    s, best = _checked(scores)
    if not beta >= 0:
        raise UserError(f"β must be at least 0, got {beta}; tilt by minus the score for its low end")
    gap = s - best  # ≤ 0: exponentials neither overflow nor all vanish
    if math.isinf(beta):
        weights = (gap == 0).double()
        log_z = math.copysign(math.inf, best) if best else -math.log(len(s) / float(weights.sum()))
    else:
        weights = (beta * gap).exp()
        log_z = beta * best + float(weights.mean().log())
    weights = weights / weights.sum()
    mean_gap = float(weights @ gap)
    kl = float((weights * len(s)).xlogy(weights * len(s)).mean())  # E_p[w log w] with w = q/p
    return Tilt(
        beta, weights, log_z, best + mean_gap, float(weights @ (gap - mean_gap).square()), max(kl, 0.0),
        1 / float(weights.square().sum()),
    )  # fmt: skip


def beta_for_mean(scores: Tensor, mean: float) -> float:
    """The β at which E_q[s] = `mean`: the KL-minimal law that reaches it. 0 where E_p[s] reaches it already.

    Raises:
        UserError: a mean above the highest score, which no law over these items reaches.
    """
    s, best = _checked(scores)
    if mean <= float(s.mean()):
        return 0.0
    if not mean <= best:
        raise UserError(
            f"no mean score of {mean:.6g} can be reached with these {len(s)} photos; "
            f"the maximum is {best:.6g}, at {_most_nats(s):.4g} nats"
        )
    return math.inf if mean == best else _root(s, lambda t: t.mean - mean)


def beta_for_kl(scores: Tensor, nats: float) -> float:
    """The β at which KL(q_β‖p) = `nats`: the highest mean score that this budget buys.

    Raises:
        UserError: a negative budget, or one above log(N / number of items that share the highest score).
    """
    s, best = _checked(scores)
    if not nats >= 0:
        raise UserError(f"a KL budget in nats must be at least 0, got {nats}")
    most = _most_nats(s)
    if nats > most:
        raise UserError(
            f"no tilt of these {len(s)} photos is {nats:.6g} nats away from them; the maximum is "
            f"{most:.4g} nats, where only the highest score of {best:.6g} is left"
        )
    if nats == 0:
        return 0.0
    return math.inf if nats == most else _root(s, lambda t: t.kl - nats)


def top_share_mean(scores: Tensor, share: float = 0.001) -> float:
    """Mean score of the highest `share` of the items: a target for `beta_for_mean` that means the same for every unit.

    Items are counted to the nearest whole number; β from a target of its own photos' scores is that of a natural
    quantile, neither tuned by hand nor dependent on the score's scale.

    Raises:
        UserError: a share outside (0, 1], or of less than half an item.
    """
    s, _ = _checked(scores)
    if not 0 < share <= 1:
        raise UserError(f"a share of the photos must be above 0 and at most 1, got {share}")
    count = math.floor(share * len(s) + 0.5)
    if not count:
        raise UserError(
            f"the top {100 * share:.4g} % of {len(s)} photos is less than one photo; "
            f"the smallest share is {1 / len(s):.4g}"
        )
    return float(s.topk(count).values.mean())


def standardise(scores: Tensor) -> tuple[Tensor, float, float]:
    """(s - mean)/sd over the items as float64, with mean and sd; all zeros where the score is constant.

    Tilting by a·s + c with β/a is tilting by s with β, so only standardised scores make β comparable between units.
    """
    s, _ = _checked(scores)
    mean, sd = float(s.mean()), float(s.std(correction=0))
    if s.min() == s.max():
        return torch.zeros_like(s), mean, 0.0
    return (s - mean) / sd, mean, sd


def _checked(scores: Tensor) -> tuple[Tensor, float]:
    s = scores.detach().double().flatten().cpu()
    if not len(s) or not bool(s.isfinite().all()):
        raise UserError("a tilt needs at least one score, and finite ones")
    return s, float(s.max())


def _most_nats(s: Tensor) -> float:
    """KL of the limit β = ∞: log(N / number of items that share the highest score)."""
    return math.log(len(s) / int((s == s.max()).sum()))


def _root(s: Tensor, excess: Callable[[Tilt], float]) -> float:
    """The β at which a quantity that grows with β turns from negative to positive, by bisection."""
    high = 1 / max(float(s.std(correction=0)), 1e-300)
    while excess(tilt(s, high)) < 0:
        high *= 2
        if math.isinf(high):  # reached only in the limit, up to rounding
            return math.inf
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if excess(tilt(s, middle)) < 0 else (low, middle)
    return high


# --- drawing without replacement --------------------------------------------------------------------------------------


def gumbel_noise(key: str, names: Sequence[str]) -> Tensor:
    """Standard Gumbel noise, one float64 per item, from a hash of (key, name).

    An item's noise depends on its name alone, not on the others or their order. Items of one name (copies of a photo)
    are numbered, so that they get noise of their own.
    """
    seen: Counter[str] = Counter()
    uniform = []
    for name in names:
        digest = hashlib.blake2b(f"{key}|{name}|{seen[name]}".encode(), digest_size=8).digest()
        uniform.append(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52)  # in (0, 1), neither end
        seen[name] += 1
    return -(-torch.tensor(uniform, dtype=torch.float64).log()).log()


def draw_order(scores: Tensor, beta: float, noise: Tensor) -> Tensor:
    """Positions of the items in the order in which they are drawn from q_β without replacement (Gumbel top-k).

    The first is an exact draw from q_β; each later one is a draw from q_β restricted to the items that are left. The
    order is that of β·s + Gumbel noise, so the first k are the same however many are taken. β = ∞ sorts by score, and
    the noise decides between equal scores.
    """
    s, _ = _checked(scores)
    by_noise = noise.argsort(descending=True, stable=True)
    if math.isinf(beta):
        return by_noise[s[by_noise].argsort(descending=True, stable=True)]
    return (beta * s + noise).argsort(descending=True, stable=True)
