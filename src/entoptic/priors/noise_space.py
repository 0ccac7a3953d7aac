"""Pictures as functions of noise: scores there, and moves that leave a tilt exactly as it is.

x = G(z), z ~ N(0, 1), G the few-step `generate`, defines a prior whose tilt by exp(β s) is exact in noise space:
π_β(z) ∝ N(z)·exp(β s(G(z))) pushes forward to q_β, and KL(π_β‖N) = KL(q_β‖p). A condition is one more coordinate of z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Prior, Score, generate

# This share of the moves tries another condition (where the prior has any) and keeps z, the rest moves z.
REDRAW = 0.25
ACCEPTANCE = 0.3


class Walkers(NamedTuple):
    """B points of noise space, group-major. z: B×C×H×W. condition: B int64 or None. scores: B float64 on the CPU."""

    z: Tensor
    condition: Tensor | None
    scores: Tensor

    def at(self, rows: Tensor) -> Walkers:
        there = rows.to(self.z.device)
        return Walkers(
            self.z[there], None if self.condition is None else self.condition[there], self.scores[rows]
        )  # fmt: skip


class Moved(NamedTuple):
    """walkers: where they are now. accepted, redrawn, nonfinite: B bool each; redrawn had another condition proposed."""

    walkers: Walkers
    accepted: Tensor
    redrawn: Tensor
    nonfinite: Tensor


@dataclass(frozen=True)
class NoiseSpace:
    """s(G(z)). steps: of the generator. batch: the most pictures that are made and scored at once."""

    prior: Prior
    score: Score
    steps: int
    batch: int

    def scores(self, z: Tensor, condition: Tensor | None, group: Tensor) -> Tensor:
        """B scores as float64 on the CPU, -inf where they are not finite. group: B int64 on the prior's device."""
        parts = []
        with torch.no_grad():
            for rows in torch.arange(len(z), device=z.device).split(self.batch):
                x0 = generate(self.prior, z[rows], None if condition is None else condition[rows], steps=self.steps)
                parts.append(checked(self.score(self.prior.decode(x0), group[rows]), len(rows)))
        s = torch.cat(parts)
        return torch.where(s.isfinite(), s, -math.inf)

    def move(
        self, walkers: Walkers, beta: Tensor, stride: Tensor, groups: Sequence[int], generators: Sequence[torch.Generator]
    ) -> Moved:  # fmt: skip
        """One Metropolis move of every walker that leaves π_β invariant.

        The proposal z' = √(1-δ²)·z + δ·ε (pCN; Cotter et al. 2013) is reversible with respect to N(0, 1), and another
        condition, uniform among the others, with respect to the uniform law, so both are accepted with probability
        min(1, exp(β(s' - s))). Which of the two is tried is decided by a coin that knows nothing of the state.

        Args:
            beta, stride: B float64, β and δ in (0, 1] of each walker.
            groups, generators: of the equally large groups that the walkers belong to, in order.
        """
        prior, n = self.prior, len(walkers.scores) // len(groups)
        noise = torch.cat([torch.randn((n, *prior.shape), generator=g) for g in generators]).to(walkers.z)
        uniform = torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])
        delta = stride.to(walkers.z)[:, None, None, None]
        z, condition = (1 - delta.square()).sqrt() * walkers.z + delta * noise, walkers.condition
        redrawn = torch.zeros(len(uniform), dtype=torch.bool)
        if condition is not None and prior.conditions > 1:
            redrawn = torch.cat([torch.rand(n, generator=g) for g in generators]) < REDRAW
            ahead = torch.cat([torch.randint(1, prior.conditions, (n,), generator=g) for g in generators])
            there = redrawn.to(z.device)
            condition = torch.where(there, (condition + ahead.to(z.device)) % prior.conditions, condition)
            z = torch.where(there[:, None, None, None], walkers.z, z)
        group = torch.tensor(groups, device=z.device).repeat_interleave(n)
        s = self.scores(z, condition, group)
        # A proposal whose score is not finite is never accepted; away from such a point every finite one is.
        ratio = torch.where(walkers.scores.isfinite(), beta * (s - walkers.scores), math.inf)
        accepted = s.isfinite() & (uniform.log() < ratio)
        there = accepted.to(z.device)
        now = Walkers(
            torch.where(there[:, None, None, None], z, walkers.z),
            None
            if condition is None or walkers.condition is None
            else torch.where(there, condition, walkers.condition),
            torch.where(accepted, s, walkers.scores),
        )
        return Moved(now, accepted, redrawn, ~s.isfinite())


def checked(scores: Tensor, count: int) -> Tensor:
    """What a score gave, as float64 on the CPU."""
    if scores.shape != (count,):
        raise UserError(f"a score must give one number per picture, here {count}, but gave {tuple(scores.shape)}")
    return scores.detach().double().cpu()


def next_stride(stride: Tensor, acceptance: Tensor) -> Tensor:
    """The δ that should be accepted 30 % of the time, from the acceptance at the δ there was; any shape, float64.

    Acceptance falls with δ like 2Φ(-c·δ), as it does for a random walk on a smooth log density (Roberts et al. 1997),
    so one measurement gives c. Never more than a factor of 4 at a time, nor above 1.
    """
    goal = float(torch.special.ndtri(torch.tensor(ACCEPTANCE / 2, dtype=torch.float64)))
    factor = goal / torch.special.ndtri(acceptance.clamp(1e-6, 1 - 1e-6) / 2)
    return (stride * factor.clamp(0.25, 4)).clamp(1e-6, 1)
