"""Exponential tilts of a uniform prior over N items, and the distribution of top-K selection, as pure functions.

The tilt q_β(x) ∝ p(x)·exp(β s(x)) has the smallest KL divergence from p among all distributions with the mean score
E_q[s] that it has. Here p is uniform over N stored photos, so every quantity is a softmax. All numbers are float64 and
all KL divergences are in nats.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.estimates import Estimate, t_quantile
from entoptic.errors import UserError, counted
from entoptic.sampling.mbar import finite_scores

_BLOCKS = 32  # number of parts of a bank for the jackknife

# --- top-K selection ------------------------------------------------------------------------------------------------


def selection_kl(n: int, k: int) -> float:
    """Returns KL(q‖p) in nats of "draw n from p, keep the k of highest score, show one of them at random".

    The density of q relative to p is w(F(s(x))) with w(u) = (n/k)·P[Bin(n-1, 1-u) ≤ k-1] and F the cumulative distribution
    function of s under p. So KL = ∫₀¹ w log w du depends on neither p nor s if s has no ties. With ties, broken at random,
    it is an upper bound. For k = 1 it is log n - (n-1)/n. Accurate to 1e-8 up to n = 10⁷.

    Args:
        n: number of draws, ≥ 1.
        k: number kept, 1 ≤ k ≤ n.

    Raises:
        UserError: not 1 ≤ k ≤ n.
    """
    _check_selection(n, k)
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
    """Returns KL(q‖p) in nats of "draw n from p, show the one of rank `rank`".

    1 - F(s) of that picture is Beta(rank, n-rank+1)-distributed for every p and s without ties. The average of these
    distributions over the ranks 1 … K is the distribution of `selection_kl`.

    Args:
        n: number of draws, ≥ 1.
        rank: 1 is the highest score, n the lowest.

    Raises:
        UserError: not 1 ≤ rank ≤ n.
    """
    if not 1 <= rank <= n:
        raise UserError(f"ranks of {counted(n, 'photo')} are 1 to {n}, got {rank}")
    a, b = rank, n - rank + 1
    digamma = torch.digamma(torch.tensor([a, b, a + b], dtype=torch.float64)).tolist()
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return -log_beta + (a - 1) * (digamma[0] - digamma[2]) + (b - 1) * (digamma[1] - digamma[2])


def selection_mean(bank: Tensor, n: int, k: int) -> Estimate:
    """Estimates the mean score of "draw n from p, keep the k of highest score, show one of them at random".

    The KL divergence of this distribution is `selection_kl(n, k)`. The estimate is the average over all subsets of n scores
    of the bank, so it is unbiased; the error is the jackknife's over 32 parts. The score of rank r among M has the weight
    n/(kM) times the probability that, of the n - 1 others, fewer than k rank above it.

    Args:
        bank: M independent scores under p.
        n: number of draws.
        k: number kept.

    Raises:
        UserError: not 1 ≤ k ≤ n, or a bank of fewer than 2n or 64 scores.
    """
    s = finite_scores(bank)
    _check_selection(n, k)
    if len(s) < max(2 * n, 2 * _BLOCKS):
        raise UserError(
            f"a selection from {n} needs at least {max(2 * n, 2 * _BLOCKS)} scores of the prior, "
            f"got {len(s)}; the largest selection they serve is from {len(s) // 2}"
        )
    value = float(_rank_weights(len(s), n, k) @ s.sort(descending=True).values)
    # Parts of equal size, so that one set of weights serves all replicates. Left-over scores stay in every replicate.
    size = len(s) // _BLOCKS
    part = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))[: size * _BLOCKS].reshape(_BLOCKS, size)
    weights = _rank_weights(len(s) - size, n, k)
    keep = torch.ones(len(s), dtype=torch.bool)
    without = torch.stack([weights @ s[keep.index_fill(0, p, False)].sort(descending=True).values for p in part])
    se = float(((without - without.mean()).square().sum() * (_BLOCKS - 1) / _BLOCKS).sqrt())
    width = t_quantile(_BLOCKS - 1) * se
    return Estimate(value, se, (value - width, value + width))


def _rank_weights(m: int, n: int, k: int) -> Tensor:
    """Returns the weight of each rank (highest score first) among m in the top k of n of them drawn at random; sums to 1."""
    if k == n:
        return torch.full((m,), 1 / m, dtype=torch.float64)

    def log_choose(a: Tensor, b: int) -> Tensor:
        log_count = (a + 1).lgamma() - math.lgamma(b + 1) - (a - b + 1).clamp_min(1).lgamma()
        return torch.where(a >= b, log_count, -math.inf)

    # The k-th best of the n - 1 others has rank t among the m - 1 others; the item is shown if its rank r ≤ t.
    t = torch.arange(1, m, dtype=torch.float64)
    log_place = log_choose(t - 1, k - 1) + log_choose(m - 1 - t, n - 1 - k)
    place = log_place.softmax(0)
    shown = torch.cat([place.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    return shown / shown.sum()


# --- tilts of the uniform distribution over stored photos -------------------------------------------------------------


@dataclass(frozen=True)
class Tilt:
    """The tilt q_β over N items with a uniform prior.

    Attributes:
        beta: β ≥ 0; infinity is the uniform distribution over the items of highest score.
        weights: N float64, q_β; they sum to 1.
        log_z: log E_p[exp(β s)]; infinite at β = ∞.
        mean: mean score E_q[s].
        variance: Var_q[s].
        kl: KL(q_β‖p) in nats.
        ess: effective sample size 1/Σw², in [1, N].
    """

    beta: float
    weights: Tensor
    log_z: float
    mean: float
    variance: float
    kl: float
    ess: float


def tilt(scores: Tensor, beta: float) -> Tilt:
    """Returns the tilt of the uniform distribution over items.

    Args:
        scores: N, finite.
        beta: β ≥ 0, may be infinite.

    Raises:
        UserError: no scores, scores that are not finite, or β < 0.
    """
    s, best = _checked_scores(scores)
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
    """Returns the β at which E_q[s] = `mean`, 0 where E_p[s] is at least `mean` already.

    Args:
        scores: N, finite.
        mean: mean score to reach, in units of the scores.

    Raises:
        UserError: a mean above the highest score.
    """
    s, best = _checked_scores(scores)
    if mean <= float(s.mean()):
        return 0.0
    if not mean <= best:
        raise UserError(
            f"no mean score of {mean:.6g} can be reached with these {counted(len(s), 'photo')}; "
            f"the maximum is {best:.6g}, at {_max_kl(s):.4g} nats"
        )
    return math.inf if mean == best else _root(s, lambda t: t.mean - mean)


def beta_for_kl(scores: Tensor, nats: float) -> float:
    """Returns the β at which KL(q_β‖p) = `nats`. Its tilt has the highest mean score within this KL budget.

    Args:
        scores: N, finite.
        nats: KL budget in nats, ≥ 0.

    Raises:
        UserError: a negative budget, or one above log(N / number of items that share the highest score).
    """
    s, best = _checked_scores(scores)
    if not nats >= 0:
        raise UserError(f"a KL budget in nats must be at least 0, got {nats}")
    most = _max_kl(s)
    if nats > most:
        raise UserError(
            f"no tilt of these {counted(len(s), 'photo')} is {nats:.6g} nats away from them; the maximum is "
            f"{most:.4g} nats, where only the highest score of {best:.6g} is left"
        )
    if nats == 0:
        return 0.0
    return math.inf if nats == most else _root(s, lambda t: t.kl - nats)


def top_share_mean(scores: Tensor, share: float = 0.001) -> float:
    """Returns the mean score of the highest `share` of the items.

    It is a target for `beta_for_mean` that is comparable between units: a quantile of natural scores, independent of the
    scale of the score. The number of items is rounded to the nearest integer.

    Args:
        scores: N, finite.
        share: in (0, 1].

    Raises:
        UserError: a share outside (0, 1], or of less than half an item.
    """
    s, _ = _checked_scores(scores)
    if not 0 < share <= 1:
        raise UserError(f"a share of the photos must be above 0 and at most 1, got {share}")
    count = math.floor(share * len(s) + 0.5)
    if not count:
        raise UserError(
            f"the top {100 * share:.4g} % of {counted(len(s), 'photo')} is less than one photo; "
            f"the smallest share is {1 / len(s):.4g}"
        )
    return float(s.topk(count).values.mean())


def standardise_scores(scores: Tensor) -> tuple[Tensor, float, float]:
    """Returns (s - mean)/sd over the items (N float64), the mean and the sd; all zeros where the score is constant.

    The tilt by a·s + c with β/a is the tilt by s with β. So β is comparable between units only for standardised scores.

    Args:
        scores: N, finite.
    """
    s, _ = _checked_scores(scores)
    mean, sd = float(s.mean()), float(s.std(correction=0))
    if s.min() == s.max():
        return torch.zeros_like(s), mean, 0.0
    return (s - mean) / sd, mean, sd


def _checked_scores(scores: Tensor) -> tuple[Tensor, float]:
    s = scores.detach().double().flatten().cpu()
    if not len(s) or not bool(s.isfinite().all()):
        raise UserError("a tilt needs at least one score, and finite ones")
    return s, float(s.max())


def _max_kl(s: Tensor) -> float:
    """Returns the KL of the limit β = ∞ in nats: log(N / number of items that share the highest score)."""
    return math.log(len(s) / int((s == s.max()).sum()))


def _root(s: Tensor, excess: Callable[[Tilt], float]) -> float:
    """Returns the β at which a quantity that grows with β turns from negative to positive, by bisection."""
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
    """Returns standard Gumbel noise, N float64, by a hash of (key, name) for each item.

    An item's noise depends on its name and not on the other items or their order. Items with equal names (copies of a
    photo) are numbered, so that each gets noise of its own.

    Args:
        key: seed of the noise.
        names: N names.
    """
    seen: Counter[str] = Counter()
    uniform = []
    for name in names:
        digest = hashlib.blake2b(f"{key}|{name}|{seen[name]}".encode(), digest_size=8).digest()
        uniform.append(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52)  # in (0, 1), neither end
        seen[name] += 1
    return -(-torch.tensor(uniform, dtype=torch.float64).log()).log()


def draw_order(scores: Tensor, beta: float, noise: Tensor) -> Tensor:
    """Returns the order in which items are drawn from q_β without replacement (Gumbel top-k; Kool et al. 2019).

    The first is an exact draw from q_β. Each later one is a draw from q_β restricted to the items left. The order is that
    of β·s + noise, so the first k draws do not depend on how many are taken.

    Args:
        scores: N, finite.
        beta: β ≥ 0; infinity sorts by score, and the noise decides between equal scores.
        noise: N, see `gumbel_noise`.

    Returns:
        N int64 positions.
    """
    s, _ = _checked_scores(scores)
    by_noise = noise.argsort(descending=True, stable=True)
    if math.isinf(beta):
        return by_noise[s[by_noise].argsort(descending=True, stable=True)]
    return (beta * s + noise).argsort(descending=True, stable=True)


def _check_selection(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise UserError(f"top-K selection needs 1 ≤ K ≤ N, got K = {k} and N = {n}")
