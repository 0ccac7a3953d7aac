"""Scores along a ladder of tilts, and MBAR, which combines them into one weighted sample of the prior.

MBAR is the multistate Bennett acceptance ratio (Shirts & Chodera 2008). A state is here a tilt at one β, called a rung.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from entoptic.errors import UserError

MIN_ESS = 20.0  # effective sample size below which no estimate is given


@dataclass(frozen=True, eq=False)
class Ladder:
    """Scores of samples from the tilts q_β ∝ p·exp(β s) at the rungs β_0 = 0 < β_1 < …, all from one independent run.

    Attributes:
        betas: K+1 rungs, ascending from 0.
        scores: for each rung k its N_k scores, kept as float64 on the CPU.

    Raises:
        UserError: rungs that do not ascend from 0, or scores that are missing or not finite.
    """

    betas: Sequence[float]
    scores: Sequence[Tensor]

    def __post_init__(self) -> None:
        betas = tuple(float(b) for b in self.betas)
        scores = tuple(finite_scores(s) for s in self.scores)
        if len(betas) != len(scores) or not betas or betas[0] != 0:
            raise UserError(
                f"a ladder needs scores for each of its rungs, of which the first is β = 0; got rungs {list(betas)} "
                f"and {len(scores)} sets of scores"
            )
        if not all(low < high < math.inf for low, high in pairwise(betas)):
            raise UserError(f"the rungs of a ladder must ascend and be finite, got {list(betas)}")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "scores", scores)

    def all_scores(self) -> Tensor:
        """Returns the scores of all rungs, N float64, in the order of `log_weights`."""
        return torch.cat(tuple(self.scores))

    def with_bank(self, bank: Tensor) -> Ladder:
        """Returns the ladder with further samples of the prior at its lowest rung.

        Args:
            bank: M scores of independent samples of the prior.
        """
        lowest = torch.cat([self.scores[0], finite_scores(bank)])
        return Ladder(self.betas, (lowest, *self.scores[1:]))

    def log_weights(self) -> Tensor:
        """Returns log c_n, N float64, the weights that make all scores one sample of the prior (MBAR).

        Σ_n c_n = 1, and Σ_n c_n·h(s_n) estimates E_p[h(s)]. So L(β) = log Σ_n c_n·exp(β s_n) estimates log Z at any β. It is
        the estimate of Shirts & Chodera 2008 and of Geyer's reverse logistic regression. With f_k = -L(β_k),
        log c_n = -log Σ_k N_k exp(f_k + β_k s_n), and f minimises the convex function Σ_n -log c_n - Σ_k N_k f_k.

        Raises:
            UserError: two neighbouring rungs whose scores overlap too little (fewer than 20 effective scores in common).
            ArithmeticError: the iteration does not converge although the rungs overlap. No such case is known.
        """
        betas = torch.tensor(self.betas, dtype=torch.float64)
        counts = torch.tensor([len(s) for s in self.scores], dtype=torch.float64)
        s = self.all_scores()
        centre = float(s.mean())  # c_n does not depend on it; centred scores lose fewer digits
        energy_NK = (s - centre)[:, None] * betas
        f = betas * centre - self._initial_log_z()
        log_norm, share_NK = _rung_posterior(energy_NK, f, counts)
        for _ in range(200):
            gradient = share_NK.sum(0) - counts
            settled = bool((gradient.abs() <= 1e-9 * counts).all())
            if settled:
                break
            f = _next_f(energy_NK, f, counts, log_norm, share_NK)
            log_norm, share_NK = _rung_posterior(energy_NK, f, counts)
        # Overlap: the effective number of scores that may come from below as well as from above a gap between rungs.
        below = share_NK.cumsum(1)[:, :-1]
        bridge = 4 * (below * (1 - below)).sum(0)
        if len(bridge) and float(bridge.min()) < MIN_ESS:
            k = int(bridge.argmin())
            raise UserError(
                f"rungs β = {self.betas[k]:.4g} and β = {self.betas[k + 1]:.4g} have only {float(bridge[k]):.2g} scores "
                f"in common and need {MIN_ESS:.0f}; use more particles or moves"
            )
        if not settled:
            raise ArithmeticError(f"MBAR did not settle on the rungs {list(self.betas)}")
        return -log_norm

    def thermodynamic_log_z(self) -> Tensor:
        """Returns log Z at the rungs, K+1 float64, by thermodynamic integration: ∫ E[s] dβ from each rung's mean and variance.

        It is a cross-check of MBAR, with which it shares no step. Between rungs E[s] is interpolated by the cubic with slopes
        dE/dβ = Var[s], so ∫ = h·(E_0 + E_1)/2 + h²·(V_0 - V_1)/12.
        """
        h = torch.tensor(self.betas, dtype=torch.float64).diff()
        mean = torch.stack([s.mean() for s in self.scores])
        variance = torch.stack([s.var(correction=0) for s in self.scores])
        steps = h * (mean[1:] + mean[:-1]) / 2 - h.square() * variance.diff() / 12
        return torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])

    def _initial_log_z(self) -> Tensor:
        """Returns a first guess of log Z at the rungs: from each rung to the next, log mean exp((β_{k+1} - β_k)·s)."""
        steps = [
            float(((high - low) * s).logsumexp(0)) - math.log(len(s))
            for low, high, s in zip(self.betas, self.betas[1:], self.scores)
        ]
        return torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)


def finite_scores(scores: Tensor) -> Tensor:
    """Returns the scores as N float64 on the CPU.

    Raises:
        UserError: no scores, or some that are not finite.
    """
    s = scores.detach().double().flatten().cpu()
    if not len(s) or not bool(s.isfinite().all()):
        bad = int((~s.isfinite()).sum())
        raise UserError(f"a frontier needs scores, and finite ones; got {len(s)}, of which {bad} are not finite")
    return s


def _rung_posterior(energy_NK: Tensor, f: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log Σ_k N_k exp(f_k + β_k s_n) (N), and the posterior probability of every rung given each score (N×K)."""
    log_joint = energy_NK + (f + counts.log())
    log_norm = log_joint.logsumexp(1)
    return log_norm, (log_joint - log_norm[:, None]).exp()


def _next_f(energy_NK: Tensor, f: Tensor, counts: Tensor, log_norm: Tensor, share_NK: Tensor) -> Tensor:
    """Returns the next iterate of f, with f_0 = 0.

    It is Newton's step if that lowers the objective, else the self-consistent step, which always does.
    """
    occupied = share_NK.sum(0)
    hessian = (occupied.diag() - share_NK.T @ share_NK)[1:, 1:]
    step, info = torch.linalg.solve_ex(hessian, (counts - occupied)[1:])
    newton = torch.cat([f[:1], f[1:] + step])
    objective = log_norm.sum() - counts @ f
    if int(info) == 0 and bool(newton.isfinite().all()):
        reached = _rung_posterior(energy_NK, newton, counts)[0].sum() - counts @ newton
        if bool(reached <= objective + 1e-13 * objective.abs()):
            return newton
    f = -(energy_NK - log_norm[:, None]).logsumexp(0)
    return f - f[0]
