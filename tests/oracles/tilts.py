"""Closed forms of tilts q_β ∝ p·exp(β s) of one-dimensional Gaussian mixtures, and the same by quadrature.

Each closed form is a product of Gaussian integrals per component; nothing here uses the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats


class Mixture(NamedTuple):
    """Σ_k w_k N(mu_k, sd_k²)."""

    w: np.ndarray
    mu: np.ndarray
    sd: np.ndarray


GMM3 = Mixture(np.array([0.55, 0.35, 0.10]), np.array([-2.0, 0.5, 3.0]), np.array([0.6, 0.4, 0.5]))


class Law(NamedTuple):
    """A tilt: log Z, mean and variance of the score, KL(q‖p) in nats."""

    log_z: float
    mean: float
    variance: float
    kl: float


# --- s(x) = x ---------------------------------------------------------------------------------------------------------


def linear(beta: float, p: Mixture = GMM3) -> Law:
    """exp(βx) turns component k into w_k·exp(β μ_k + β² sd_k²/2)·N(μ_k + β sd_k², sd_k²)."""
    q, log_z = linear_mixture(beta, p)
    mean = float(q.w @ q.mu)
    variance = float(q.w @ (q.sd**2 + q.mu**2)) - mean**2
    return Law(log_z, mean, variance, beta * mean - log_z)


def linear_mixture(beta: float, p: Mixture = GMM3) -> tuple[Mixture, float]:
    """The tilt, itself a mixture, and log Z."""
    log_w = np.log(p.w) + beta * p.mu + beta**2 * p.sd**2 / 2
    return Mixture(special.softmax(log_w), p.mu + beta * p.sd**2, p.sd), float(special.logsumexp(log_w))


def beta_of_mean(mean: float, p: Mixture = GMM3) -> float:
    """The multiplier of "min KL with E[s] ≥ mean": argmax over β ≥ 0 of β·mean - log Z(β), a concave function."""
    if mean <= linear(0.0, p).mean:
        return 0.0
    top = 1.0
    while linear(top, p).mean < mean:
        top *= 2
    return float(optimize.brentq(lambda b: linear(b, p).mean - mean, 0.0, top, xtol=1e-13, rtol=1e-14))


# --- s(x) = min(x, c) -------------------------------------------------------------------------------------------------


def capped_log_z(beta: float, cap: float, p: Mixture = GMM3) -> float:
    """Below the cap the linear tilt cut off at c; above it, exp(βc) times the prior's mass."""
    below, above = _capped_parts(beta, cap, p)
    return float(special.logsumexp(np.concatenate([below, above])))


def capped_mass_below(beta: float, cap: float, p: Mixture = GMM3) -> float:
    """q(s < c): the total variation between the tilt and the hard posterior p(x | s ≥ c)."""
    below, above = _capped_parts(beta, cap, p)
    return float(np.exp(special.logsumexp(below) - special.logsumexp(np.concatenate([below, above]))))


def _capped_parts(beta: float, cap: float, p: Mixture) -> tuple[np.ndarray, np.ndarray]:
    v = p.sd**2
    below = np.log(p.w) + beta * p.mu + beta**2 * v / 2 + stats.norm.logcdf((cap - p.mu - beta * v) / p.sd)
    above = np.log(p.w) + beta * cap + stats.norm.logsf((cap - p.mu) / p.sd)
    return below, above


# --- s(x) = -(x - c)²/2 -----------------------------------------------------------------------------------------------


def quadratic(beta: float, centre: float, p: Mixture = GMM3) -> tuple[Mixture, float, float]:
    """The tilt, log Z and E[s]: each component is multiplied by a Gaussian of precision β at the centre."""
    shrink = 1 / (1 + beta * p.sd**2)
    log_w = np.log(p.w) + np.log(shrink) / 2 - beta * shrink * (p.mu - centre) ** 2 / 2
    q = Mixture(special.softmax(log_w), shrink * (p.mu + beta * p.sd**2 * centre), p.sd * np.sqrt(shrink))
    return q, float(special.logsumexp(log_w)), float(-q.w @ ((q.mu - centre) ** 2 + q.sd**2) / 2)


# --- any score, slowly ------------------------------------------------------------------------------------------------


def grid(p: Mixture, beta: float = 0.0, points: int = 8001) -> np.ndarray:
    """Points that hold all of p and of its tilt by exp(βx) but about 1e-30."""
    ends = np.concatenate([p.mu, p.mu + beta * p.sd**2])
    reach = 12 * p.sd.max()
    return np.linspace(ends.min() - reach, ends.max() + reach, points)


def log_density(x: np.ndarray, p: Mixture = GMM3) -> np.ndarray:
    return special.logsumexp(np.log(p.w) + stats.norm.logpdf(x[:, None], p.mu, p.sd), axis=1)


def integral(values: np.ndarray, x: np.ndarray) -> float:
    """The trapezium rule, which converges faster than any power where all derivatives vanish at the ends."""
    return float(np.trapezoid(values, x))


def by_quadrature(score: Callable[[np.ndarray], np.ndarray], beta: float, p: Mixture, x: np.ndarray) -> Law:
    """The tilt by any score; its KL as ∫ q log(q/p)."""
    log_p, s = log_density(x, p), score(x)
    log_q = log_p + beta * s
    highest = log_q.max()
    log_z = float(np.log(integral(np.exp(log_q - highest), x)) + highest)
    q = np.exp(log_q - log_z)
    mean = integral(q * s, x)
    return Law(log_z, mean, integral(q * (s - mean) ** 2, x), integral(q * (log_q - log_z - log_p), x))


def kl(log_q: np.ndarray, log_p: np.ndarray, x: np.ndarray) -> float:
    """∫ q log(q/p)."""
    return integral(np.exp(log_q) * (log_q - log_p), x)


# --- guided chains of a Gaussian --------------------------------------------------------------------------------------


def propagated_shift(
    variance: float, levels: list[tuple[float, float]], pushes: list[float], *, stochastic: bool, first: float = 0.0
) -> float:
    """The shift of the final mean for a prior N(0, variance) and s(x) = x, when x_T is shifted by `first`.

    levels: (α, σ) from noisy to clean. The step's mean is E[x_s | x_t, x0hat] of ancestral sampling, or DDIM's
    α_s·x0hat + σ_s·(x_t - α_t·x0hat)/σ_t; each step adds push·∂x0hat/∂x_t.
    """
    shift = first
    for (a_t, s_t), (a_s, s_s), push in zip(levels, levels[1:], pushes):
        slope = a_t * variance / (a_t**2 * variance + s_t**2)  # of x0hat in x_t
        if stochastic:
            # x_s is N(α_s·x0hat, σ_s²) before x_t is seen, and x_t is (α_t/α_s)·x_s with noise of variance `left`.
            ratio, left = a_t / a_s, s_t**2 - (a_t / a_s) ** 2 * s_s**2
            gain = (ratio * s_s**2 + slope * a_s * left) / s_t**2
        else:
            gain = s_s / s_t + slope * (a_s - a_t * s_s / s_t)
        shift = gain * shift + push * slope
    return shift
