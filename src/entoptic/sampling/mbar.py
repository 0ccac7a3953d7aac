"""Scores along a ladder of tilts, and MBAR, which turns them into one weighted sample of the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from entoptic.errors import UserError

MIN_ESS = 20.0  # fewer scores than this carry no estimate


@dataclass(frozen=True, eq=False)
class Ladder:
    """Scores of draws from the tilts q_β ∝ p·exp(β s) at rungs β_0 = 0 < β_1 < …, all of one independent run.

    Attributes:
        betas: K+1 rungs, the first 0. scores: for each rung its N_k scores, kept as float64 on the CPU.

    Raises:
        UserError: rungs that do not start at 0 and ascend, or scores that are missing or not finite.
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

    def joined(self) -> Tensor:
        """The scores of all rungs, N float64, in the order of `log_weights`."""
        return torch.cat(tuple(self.scores))

    def with_bank(self, bank: Tensor) -> Ladder:
        """The ladder with further draws from the prior at its lowest rung."""
        lowest = torch.cat([self.scores[0], finite_scores(bank)])
        return Ladder(self.betas, (lowest, *self.scores[1:]))

    def log_weights(self) -> Tensor:
        """log c_n, N float64: Σ_n c_n·h(s_n) estimates E_p[h(s)] from the scores of all rungs, and Σ_n c_n = 1.

        L(β) = log Σ_n c_n·exp(β s_n) is then the multistate Bennett acceptance ratio at any β (MBAR; Shirts and
        Chodera 2008; the same estimate as Geyer's reverse logistic regression). With f_k = -L(β_k),
        log c_n = -log Σ_k N_k exp(f_k + β_k s_n), and f minimises the convex Σ_n -log c_n - Σ_k N_k f_k.

        Raises:
            UserError: two neighbouring rungs that share fewer than 20 scores, so that nothing tells their log Z apart.
            ArithmeticError: f does not settle although the rungs overlap, which has not been seen.
        """
        betas = torch.tensor(self.betas, dtype=torch.float64)
        counts = torch.tensor([len(s) for s in self.scores], dtype=torch.float64)
        s = self.joined()
        centre = float(s.mean())  # c_n does not depend on it; sums of small numbers keep their digits
        energy_NK = (s - centre)[:, None] * betas
        f = betas * centre - self._stepwise()
        log_norm, share_NK = _spread(energy_NK, f, counts)
        for _ in range(200):
            gradient = share_NK.sum(0) - counts
            settled = bool((gradient.abs() <= 1e-9 * counts).all())
            if settled:
                break
            f = _better(energy_NK, f, counts, log_norm, share_NK)
            log_norm, share_NK = _spread(energy_NK, f, counts)
        # How many scores could as well come from below a gap between rungs as from above it.
        below = share_NK.cumsum(1)[:, :-1]
        bridge = 4 * (below * (1 - below)).sum(0)
        if len(bridge) and float(bridge.min()) < MIN_ESS:
            k = int(bridge.argmin())
            raise UserError(
                f"rungs β = {self.betas[k]:.4g} and β = {self.betas[k + 1]:.4g} have only {float(bridge[k]):.2g} scores "
                f"in common and need {MIN_ESS:.0f}; put a rung between them or use more particles"
            )
        if not settled:
            raise ArithmeticError(f"MBAR did not settle on the rungs {list(self.betas)}")
        return -log_norm

    def thermodynamic(self) -> Tensor:
        """L at the rungs, K+1 float64, as ∫ E[s] dβ from the mean and variance of each rung alone.

        A cross-check of MBAR: it shares no step with it. Between rungs E[s] is taken as the cubic through the means
        whose slopes are the variances (E' = Var), so ∫ = h·(E_0 + E_1)/2 + h²·(V_0 - V_1)/12.
        """
        h = torch.tensor(self.betas, dtype=torch.float64).diff()
        mean = torch.stack([s.mean() for s in self.scores])
        variance = torch.stack([s.var(correction=0) for s in self.scores])
        steps = h * (mean[1:] + mean[:-1]) / 2 - h.square() * variance.diff() / 12
        return torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])

    def _stepwise(self) -> Tensor:
        """First guess of L at the rungs: from each to the next by the mean of exp((β_{k+1} - β_k)·s)."""
        steps = [
            float(((high - low) * s).logsumexp(0)) - math.log(len(s))
            for low, high, s in zip(self.betas, self.betas[1:], self.scores)
        ]
        return torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)


def finite_scores(scores: Tensor) -> Tensor:
    """N float64 on the CPU.

    Raises:
        UserError: no scores, or some that are not finite.
    """
    s = scores.detach().double().flatten().cpu()
    if not len(s) or not bool(s.isfinite().all()):
        bad = int((~s.isfinite()).sum())
        raise UserError(f"a frontier needs scores, and finite ones; got {len(s)}, of which {bad} are not finite")
    return s


def _spread(energy_NK: Tensor, f: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_k N_k exp(f_k + β_k s_n), N, and the posterior share of every rung in each score, N×K."""
    log_joint = energy_NK + (f + counts.log())
    log_norm = log_joint.logsumexp(1)
    return log_norm, (log_joint - log_norm[:, None]).exp()


def _better(energy_NK: Tensor, f: Tensor, counts: Tensor, log_norm: Tensor, share_NK: Tensor) -> Tensor:
    """Newton's step where it lowers the objective, else the self-consistent step, which always does. f_0 stays 0."""
    occupied = share_NK.sum(0)
    hessian = (occupied.diag() - share_NK.T @ share_NK)[1:, 1:]
    step, info = torch.linalg.solve_ex(hessian, (counts - occupied)[1:])
    newton = torch.cat([f[:1], f[1:] + step])
    objective = log_norm.sum() - counts @ f
    if int(info) == 0 and bool(newton.isfinite().all()):
        reached = _spread(energy_NK, newton, counts)[0].sum() - counts @ newton
        if bool(reached <= objective + 1e-13 * objective.abs()):
            return newton
    f = -(energy_NK - log_norm[:, None]).logsumexp(0)
    return f - f[0]
