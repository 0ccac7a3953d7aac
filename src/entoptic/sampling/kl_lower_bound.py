"""A lower bound on the KL divergence of samples from a prior, from many statistics at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entoptic.base.estimates import Estimate
from entoptic.errors import UserError

_FOLDS = 4
_FIT_ESS = 50.0  # effective number of prior samples that a fitted tilt must keep


def dv_bound_features(q_features: Tensor, p_features: Tensor) -> Estimate:
    """Estimates a lower bound on KL(q‖p) in nats from samples of q and p, on which F statistics f have been measured.

    A direction θ is fitted on three quarters of the samples, and the bound is evaluated on the remaining quarter, for each
    quarter in turn. The bound is
        KL(q‖p) ≥ E_q[θ·f] - E_p[exp(θ·f)]/c + 1 - log c   for any θ and c > 0  (Nguyen, Wainwright & Jordan 2010).
    At c = E_p[exp(θ·f)] it is the bound of Donsker & Varadhan, max_θ {θ·E_q[f] - log E_p[exp θ·f]}.

    With a sample mean inside that logarithm the estimate would be too high by about (1/ESS - 1/M)/2 on average, where ESS is
    the effective number of prior samples under the tilt by θ. With c from the fitted part, the estimate is a difference of
    sample means, so its expectation is at most KL(q‖p). An error of c lowers it by half the squared relative error.

    The estimate covers only what f measures. The fitted tilt keeps 50 effective prior samples, so the estimate is at most
    about log(M/70) nats. θ is shrunk towards 0 (James & Stein) by the ratio of noise to signal in the difference of means;
    without a signal the bound is 0. Fitting F statistics from N_q samples costs up to about F/N_q nats, so a few statistics
    (principal components) give a higher bound than many.

    Args:
        q_features: N_q×F, of independent samples from q.
        p_features: M×F, of independent samples from p.

    Returns:
        The bound for the fitted θ, with a large-sample 95 % interval. A value below 0 is no information.

    Raises:
        UserError: shapes that do not match, values that are not finite, fewer than 8 samples from q, fewer than 200 or
            10·F samples from p.
    """
    q, p = q_features.detach().double().cpu(), p_features.detach().double().cpu()
    if q.ndim != 2 or p.ndim != 2 or q.shape[1] != p.shape[1] or not q.shape[1]:
        raise UserError(f"features must be N_q×F and M×F of the same F, got {tuple(q.shape)} and {tuple(p.shape)}")
    if not bool(q.isfinite().all() and p.isfinite().all()):
        raise UserError("features must be finite")
    if len(q) < 8 or len(p) < max(200, 10 * p.shape[1]):
        raise UserError(
            f"a bound from {p.shape[1]} features needs at least 8 draws from q and {max(200, 10 * p.shape[1])} from "
            f"the prior, got {len(q)} and {len(p)}"
        )
    q_fold, p_fold = _folds(len(q)), _folds(len(p))
    in_q, in_p = torch.empty(len(q)).double(), torch.empty(len(p)).double()
    for fold in range(_FOLDS):
        theta, log_c = _fit(q[q_fold != fold], p[p_fold != fold])
        in_q[q_fold == fold] = q[q_fold == fold] @ theta - log_c
        in_p[p_fold == fold] = (p[p_fold == fold] @ theta - log_c).exp()
    q_means = torch.stack([in_q[q_fold == fold].mean() for fold in range(_FOLDS)])
    p_means = torch.stack([in_p[p_fold == fold].mean() for fold in range(_FOLDS)])
    value = float((q_means - p_means).mean()) + 1
    # Each fold has its own θ, so the variance is that within folds.
    q_var = torch.stack([in_q[q_fold == fold].var() for fold in range(_FOLDS)]).mean()
    p_var = torch.stack([in_p[p_fold == fold].var() for fold in range(_FOLDS)]).mean()
    se = math.sqrt(float(q_var) / len(q) + float(p_var) / len(p))
    return Estimate(value, se, (value - 1.96 * se, value + 1.96 * se))


def _folds(items: int) -> Tensor:
    """Assigns each item to one of 4 folds, at random with a fixed seed (the samples may be in a meaningful order)."""
    fold = torch.empty(items, dtype=torch.int64)
    fold[torch.randperm(items, generator=torch.Generator().manual_seed(0))] = torch.arange(items) % _FOLDS
    return fold


def _fit(q: Tensor, p: Tensor) -> tuple[Tensor, float]:
    """Fits θ (F) and log c: maximises θ·E_q[f] - log E_p[exp θ·f] - λ‖θ‖²/2 in coordinates in which p is white."""
    centre = p.mean(0)
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(p.T, correction=0).reshape(p.shape[1], -1))
    if not float(eigenvalues[-1]) > 0:
        return torch.zeros_like(centre), 0.0
    kept = eigenvalues > 1e-10 * eigenvalues[-1]  # drops constant and repeated statistics
    whiten_FR = vectors[:, kept] / eigenvalues[kept].sqrt()
    q_R, p_R = (q - centre) @ whiten_FR, (p - centre) @ whiten_FR
    shift = q_R.mean(0)
    noise = float(q_R.var(0).sum()) / len(q) + shift.numel() / len(p)
    signal = float(shift.square().sum()) - noise
    theta_R = torch.zeros_like(shift)
    if signal > 0:
        theta_R = _maximise(p_R, shift, noise / signal)
        theta_R = theta_R * _largest_scale(p_R @ theta_R)
    theta = whiten_FR @ theta_R
    return theta, float((p @ theta).logsumexp(0)) - math.log(len(p))


def _maximise(p_R: Tensor, shift: Tensor, ridge: float) -> Tensor:
    """Maximises the concave objective by Newton's method with step halving."""

    def objective(theta: Tensor) -> Tensor:
        return theta @ shift - (p_R @ theta).logsumexp(0) - ridge / 2 * theta.square().sum()

    theta = torch.zeros_like(shift)
    for _ in range(100):
        w = (p_R @ theta).softmax(0)
        mean = w @ p_R
        gradient = shift - mean - ridge * theta
        hessian = (p_R * w[:, None]).T @ p_R - mean.outer(mean) + ridge * torch.eye(len(theta)).double()
        step = torch.linalg.solve(hessian + 1e-12 * torch.eye(len(theta)).double(), gradient)
        if float(gradient @ step) < 1e-10:
            break
        scale, here = 1.0, objective(theta)
        while scale > 1e-6 and not bool(objective(theta + scale * step) > here):
            scale /= 2
        theta = theta + scale * step
    return theta


def _largest_scale(log_w: Tensor) -> float:
    """Returns the largest t in [0, 1] at which the weights exp(t·log_w) have an effective sample size of at least 50."""

    def ess(scale: float) -> float:
        w = (scale * log_w).softmax(0)
        return 1 / float(w.square().sum())

    if ess(1.0) >= _FIT_ESS:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if ess(middle) >= _FIT_ESS else (low, middle)
    return low
