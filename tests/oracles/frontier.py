"""Closed forms of Gaussian mixtures with score s(x) = x, the law of top-K selection, and MBAR by its plain iteration."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from scipy import optimize, special, stats

Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights, means, standard deviations

GMM3 = (np.array([0.55, 0.35, 0.10]), np.array([-2, 0.5, 3]), np.array([0.6, 0.4, 0.5]))


def log_z(beta: float, mixture: Mixture = GMM3) -> float:
    w, mu, sd = mixture
    return float(special.logsumexp(np.log(w) + beta * mu + beta**2 * sd**2 / 2))


def mean(beta: float, mixture: Mixture = GMM3) -> float:
    w, mu, sd = mixture
    return float(special.softmax(np.log(w) + beta * mu + beta**2 * sd**2 / 2) @ (mu + beta * sd**2))


def nats(beta: float, mixture: Mixture = GMM3) -> float:
    return beta * mean(beta, mixture) - log_z(beta, mixture)


def beta_of(target: float, mixture: Mixture = GMM3) -> float:
    return float(optimize.brentq(lambda b: mean(b, mixture) - target, 0, 40))


def pdf(x: np.ndarray, mixture: Mixture = GMM3) -> np.ndarray:
    w, mu, sd = mixture
    return stats.norm.pdf(x[:, None], mu, sd) @ w


def cdf(x: np.ndarray, mixture: Mixture = GMM3) -> np.ndarray:
    w, mu, sd = mixture
    return stats.norm.cdf(x[:, None], mu, sd) @ w


def draws(beta: float, size: tuple[int, ...], rng: np.random.Generator, mixture: Mixture = GMM3) -> np.ndarray:
    """Exact draws of x under the tilt by β."""
    w, mu, sd = mixture
    tilted = special.softmax(np.log(w) + beta * mu + beta**2 * sd**2 / 2)
    k = rng.choice(len(w), size, p=tilted)
    return rng.normal((mu + beta * sd**2)[k], sd[k])


def top_weight(u: np.ndarray, n: int, k: int) -> np.ndarray:
    """Density of the law of top-K selection with respect to p, at u = F(s)."""
    return n / k * stats.binom.cdf(k - 1, n - 1, 1 - u)


def subset_mean(scores: np.ndarray, n: int, k: int) -> float:
    """Mean of the k highest of n, over every subset of n."""
    return float(np.mean([np.sort(subset)[-k:].mean() for subset in combinations(scores, n)]))


def mbar(betas: list[float], scores: list[np.ndarray], rounds: int = 3000) -> list[float]:
    """log Z at each rung: f_j = -log Σ_n exp(β_j s_n) / Σ_k N_k exp(f_k + β_k s_n), repeated until nothing moves."""
    pooled = [float(s) for rung in scores for s in rung]
    f = [0.0] * len(betas)
    for _ in range(rounds):
        below = [sum(len(s) * math.exp(g + b * x) for b, s, g in zip(betas, scores, f)) for x in pooled]
        new = [-math.log(sum(math.exp(b * x) / d for x, d in zip(pooled, below))) for b in betas]
        new = [g - new[0] for g in new]
        moved = max(abs(a - b) for a, b in zip(new, f))
        f = new
        if moved < 1e-13:
            break
    return [-g for g in f]
