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

# This share of the walkers tries another condition (where the prior has any) before it walks.
REDRAW = 0.25
# What strides aim at: where moves go furthest for an evaluation. Flat around it; blind moves and trajectories differ.
BLIND, GUIDED = 0.3, 0.5
TURN = 0.8  # of a quarter turn, how far trajectories go: there the score has all but forgotten where it was


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
    """walkers: where they are now. walked, recast: B bool, who moved in z, and who has another condition.
    calls: B int64, scores taken for each. nonfinite: B int64, those of them that were not finite.
    """

    walkers: Walkers
    walked: Tensor
    recast: Tensor
    calls: Tensor
    nonfinite: Tensor


@dataclass(frozen=True)
class NoiseSpace:
    """s(G(z)) and moves in it.

    Attributes:
        steps: of the generator. batch: the most pictures that are made and scored at once.
        leaps: the most of a Hamiltonian trajectory, which a move follows; each takes one gradient of the score through
            the generator. 0 where the score is a black box: the move is then blind, one step of pCN.
            The score has to be one function of the picture with and without a gradient (`UnitScores` with `straight`);
            the gradient itself may be off, which costs acceptance and nothing else.
    """

    prior: Prior
    score: Score
    steps: int
    batch: int
    leaps: int = 0

    def scores(self, z: Tensor, condition: Tensor | None, group: Tensor) -> Tensor:
        """B scores as float64 on the CPU, -inf where they are not finite. group: B int64 on the prior's device."""
        return self._scored(z, condition, group, slopes=False)[0]

    def _scored(self, z: Tensor, condition: Tensor | None, group: Tensor, slopes: bool) -> tuple[Tensor, Tensor | None]:
        """Scores as above, and ∇_z s where asked for (0 where it is not finite)."""
        parts, found = [], []
        batch = max(1, self.batch // 4) if slopes else self.batch  # a gradient keeps every step of the generator
        for rows in torch.arange(len(z), device=z.device).split(batch):
            with torch.set_grad_enabled(slopes):
                z_b = z[rows].detach().requires_grad_(slopes)
                x0 = generate(self.prior, z_b, None if condition is None else condition[rows], steps=self.steps)
                s_b = self.score(self.prior.decode(x0), group[rows])
            parts.append(checked(s_b, len(rows)))
            if slopes:
                if not s_b.requires_grad:
                    raise UserError(
                        "trajectories need a score that is differentiable in the pictures, and this one has no gradient; "
                        "with leaps=0 the moves need none"
                    )
                (slope,) = torch.autograd.grad(s_b.sum(), z_b)
                found.append(slope.nan_to_num(0.0, 0.0, 0.0))
        s = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
        return torch.where(s.isfinite(), s, -math.inf), torch.cat(found) if found else None

    def move(
        self, walkers: Walkers, beta: Tensor, stride: Tensor, groups: Sequence[int], generators: Sequence[torch.Generator]
    ) -> Moved:  # fmt: skip
        """Another condition for some walkers, then a walk of all; both are Metropolis moves that leave π_β invariant.

        Another condition, uniform among the others, is accepted with probability min(1, exp(β(s' - s))). Who tries it
        is decided by a coin that knows nothing of the state.

        Args:
            beta, stride: B float64, β and the longest leap of each walker, in (0, 1] of a quarter turn. Trajectories make as
                many equal leaps as take them `TURN` far, or as far as `leaps` allows.
            groups, generators: of the equally large groups that the walkers belong to, in order.
        """
        prior, n = self.prior, len(walkers.scores) // len(groups)
        group = torch.tensor(groups, device=walkers.z.device).repeat_interleave(n)
        momentum = torch.cat([torch.randn((n, *prior.shape), generator=g) for g in generators]).to(walkers.z)
        uniform = torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])
        nonfinite = torch.zeros(len(uniform), dtype=torch.int64)
        recast = torch.zeros(len(uniform), dtype=torch.bool)
        calls = torch.zeros(len(uniform), dtype=torch.int64)
        if walkers.condition is not None and prior.conditions > 1:
            coin = torch.cat([torch.rand(n, generator=g) for g in generators]) < REDRAW
            ahead = torch.cat([torch.randint(1, prior.conditions, (n,), generator=g) for g in generators])
            luck = torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])
            walkers, recast, lost = self._recast(walkers, beta, group, coin.nonzero()[:, 0], ahead, luck)
            calls = calls + coin
            nonfinite += lost
        walkers, walked, spent, lost = self._walk(walkers, beta, stride, group, momentum, uniform)
        return Moved(walkers, walked, recast, calls + spent, nonfinite + lost)

    def _recast(
        self, walkers: Walkers, beta: Tensor, group: Tensor, rows: Tensor, ahead: Tensor, uniform: Tensor
    ) -> tuple[Walkers, Tensor, Tensor]:
        z, condition, scores = walkers
        accepted = torch.zeros(len(scores), dtype=torch.bool)
        lost = torch.zeros(len(scores), dtype=torch.int64)
        if condition is None or not len(rows):
            return walkers, accepted, lost
        there = rows.to(z.device)
        other = condition.clone()
        other[there] = (condition[there] + ahead[rows].to(z.device)) % self.prior.conditions
        s = scores.clone()
        s[rows] = self.scores(z[there], other[there], group[there])
        lost[rows] = (~s[rows].isfinite()).long()
        accepted[rows] = _metropolis(beta[rows] * (s[rows] - scores[rows]), scores[rows], s[rows], uniform[rows])
        condition = torch.where(accepted.to(z.device), other, condition)
        return Walkers(z, condition, torch.where(accepted, s, scores)), accepted, lost

    def _walk(
        self, walkers: Walkers, beta: Tensor, stride: Tensor, group: Tensor, momentum: Tensor, uniform: Tensor
    ) -> tuple[Walkers, Tensor, Tensor, Tensor]:
        """Along a trajectory of H = |z|²/2 - β s + |p|²/2, accepted with probability min(1, exp(-ΔH)).

        Each leap turns (z, p) by an angle a, between two kicks p += tan(a/2)·β·∇s. The turn is exact for the normal
        law in any dimension, and this kick makes the leap exact for linear scores at any angle (Hilbert-space HMC;
        Beskos et al. 2011). ΔH comes from the kicks alone, since turns preserve |z|² + |p|². With one leap and no kick
        this is pCN (Cotter et al. 2013), δ = sin a.
        """
        guided = self.leaps > 0
        leaps = (TURN / stride - 1e-9).ceil().clamp(1, self.leaps).long() if guided else torch.ones_like(group.cpu())
        angle = (stride.minimum(TURN / leaps) if guided else stride) * (math.pi / 2)
        turn, tilt = _column(angle.cos(), walkers.z), _column(angle.sin(), walkers.z)
        kick = _column((angle / 2).tan() * beta, walkers.z)
        z, p, s = walkers.z.clone(), momentum.clone(), walkers.scores.clone()
        gain = torch.zeros_like(s)  # of |p|²/2 by kicks
        slope = self._scored(z, walkers.condition, group, slopes=True)[1] if guided else None
        lost = torch.zeros(len(s), dtype=torch.int64)
        for leap in range(int(leaps.max())):
            rows = (leaps > leap).nonzero()[:, 0]
            at = rows.to(z.device)
            condition = None if walkers.condition is None else walkers.condition[at]
            p_r, gain[rows] = _kicked(p[at], slope, at, kick, gain[rows])
            z[at], p[at] = turn[at] * z[at] + tilt[at] * p_r, turn[at] * p_r - tilt[at] * z[at]
            s[rows], slope_r = self._scored(z[at], condition, group[at], slopes=guided)
            if slope is not None and slope_r is not None:
                slope[at] = slope_r
            p[at], gain[rows] = _kicked(p[at], slope, at, kick, gain[rows])
            lost[rows] += ~s[rows].isfinite()
        accepted = _metropolis(beta * (s - walkers.scores) - gain, walkers.scores, s, uniform)
        there = accepted.to(z.device)[:, None, None, None]
        now = Walkers(torch.where(there, z, walkers.z), walkers.condition, torch.where(accepted, s, walkers.scores))
        return now, accepted, leaps + guided, lost


def _column(values_B: Tensor, like: Tensor) -> Tensor:
    return values_B.to(like.dtype).to(like.device)[:, None, None, None]


def _kicked(p: Tensor, slope: Tensor | None, at: Tensor, kick: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """p of some walkers after a kick, and what |p|²/2 has gained, float64 on the CPU."""
    if slope is None:
        return p, gain
    force = kick[at] * slope[at]
    return p + force, gain + (force * (p + force / 2)).flatten(1).sum(1).cpu().double()


def _metropolis(log_ratio: Tensor, before: Tensor, after: Tensor, uniform: Tensor) -> Tensor:
    """Who accepts. A score that is not finite is never accepted; away from one every finite score is."""
    log_ratio = torch.where(before.isfinite(), log_ratio, math.inf)
    return after.isfinite() & (uniform.log() < log_ratio)


def checked(scores: Tensor, count: int) -> Tensor:
    """What a score gave, as float64 on the CPU."""
    if scores.shape != (count,):
        raise UserError(f"a score must give one number per picture, here {count}, but gave {tuple(scores.shape)}")
    return scores.detach().double().cpu()


def next_stride(stride: Tensor, acceptance: Tensor, goal: float = BLIND) -> Tensor:
    """The stride that should be accepted a share `goal` of the time, from the acceptance at the one there was; any
    shape, float64.

    Acceptance falls with the stride like 2Φ(-c·stride), as it does for a random walk on a smooth log density (Roberts
    et al. 1997), so one measurement gives c. Never more than a factor of 4 at a time, nor above 1.
    """
    wanted = float(torch.special.ndtri(torch.tensor(goal / 2, dtype=torch.float64)))
    factor = wanted / torch.special.ndtri(acceptance.clamp(1e-6, 1 - 1e-6) / 2)
    return (stride * factor.clamp(0.25, 4)).clamp(1e-6, 1)
