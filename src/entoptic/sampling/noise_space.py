"""Pictures as functions of noise: their scores, and Markov moves that leave a tilt invariant.

The few-step map x = G(z) of `generate`, with z ~ N(0, 1), defines the distribution p of the generator. Its tilt by
exp(β s) can be sampled exactly in the space of the noise: π_β(z) ∝ N(z)·exp(β s(G(z))) is mapped by G to q_β, and
KL(π_β‖N) = KL(q_β‖p), because the density ratio depends on z only through x. A condition is one more coordinate of z.
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

# Share of the walkers that try another condition (where the prior has conditions) before the move in z.
CONDITION_SHARE = 0.25
# Acceptance that the strides are adapted to: about where a move travels furthest per evaluation of the score.
# PCN is without gradients, HMC follows a trajectory with gradients.
PCN_ACCEPTANCE, HMC_ACCEPTANCE = 0.3, 0.5
# Angle of a whole trajectory, as a share of a quarter turn. There the score is nearly independent of its start.
TRAJECTORY_LENGTH = 0.8


class Walkers(NamedTuple):
    """B points of the noise space, sorted by group.

    Attributes:
        z: B×C×H×W noise.
        condition: B int64, or None where the prior has no conditions.
        scores: B float64 on the CPU.
    """

    z: Tensor
    condition: Tensor | None
    scores: Tensor

    def at(self, rows: Tensor) -> Walkers:
        """Returns the walkers of these rows (K int64)."""
        there = rows.to(self.z.device)
        return Walkers(
            self.z[there], None if self.condition is None else self.condition[there], self.scores[rows]
        )  # fmt: skip


class Moved(NamedTuple):
    """The result of one move.

    Attributes:
        walkers: the walkers after the move.
        walked: B bool, whose move in z was accepted.
        condition_changed: B bool, whose change of condition was accepted.
        calls: B int64, how many times each walker was scored.
        nonfinite: B int64, how many of these scores were not finite.
    """

    walkers: Walkers
    walked: Tensor
    condition_changed: Tensor
    calls: Tensor
    nonfinite: Tensor


@dataclass(frozen=True)
class NoiseSpace:
    """The score s(G(z)) of a prior's few-step map, and Metropolis moves in z.

    Attributes:
        prior: the generative model.
        score: the score s, see `Score`.
        steps: steps of `generate`, ≥ 1.
        batch: maximum number of pictures that are made and scored at once.
        leaps: maximum number of leapfrog steps of a Hamiltonian trajectory. Each needs one gradient of the score through
            the generator. 0 is for scores without a gradient: a move is then one step of pCN, which needs none.
            With leaps > 0 the score must have the same value with and without a gradient (`UnitScores` with
            `straight=True`). The gradient may be approximate: that lowers the acceptance but causes no bias.
    """

    prior: Prior
    score: Score
    steps: int
    batch: int
    leaps: int = 0

    def scores(self, z: Tensor, condition: Tensor | None, group: Tensor) -> Tensor:
        """Returns the scores of noise z: B float64 on the CPU, -inf where a score is not finite.

        Args:
            z: B×C×H×W.
            condition: B int64, or None.
            group: B int64 on the prior's device; selects the unit that scores each row.
        """
        return self._scored(z, condition, group, slopes=False)[0]

    def _scored(self, z: Tensor, condition: Tensor | None, group: Tensor, slopes: bool) -> tuple[Tensor, Tensor | None]:
        """Returns the scores as `scores` does, and ∇_z s (B×C×H×W, 0 where not finite) if `slopes`, else None."""
        parts, found = [], []
        batch = max(1, self.batch // 4) if slopes else self.batch  # a gradient stores every step of the generator
        for rows in torch.arange(len(z), device=z.device).split(batch):
            with torch.set_grad_enabled(slopes):
                z_b = z[rows].detach().requires_grad_(slopes)
                x0 = generate(self.prior, z_b, None if condition is None else condition[rows], steps=self.steps)
                s_b = self.score(self.prior.decode(x0), group[rows])
            parts.append(checked_scores(s_b, len(rows)))
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
        """Moves all walkers: first a change of condition for some of them, then a step in z for all.

        Both are Metropolis moves that leave π_β invariant. A new condition is uniform among the others and is accepted
        with probability min(1, exp(β(s' - s))). Which walkers try one is drawn independently of their state.

        Args:
            walkers: G·n points, sorted by group.
            beta: B float64, β of each walker.
            stride: B float64 in (0, 1], maximum angle of a leapfrog step, as a share of a quarter turn. A trajectory is
                divided into equal steps that together turn by `TRAJECTORY_LENGTH`, or as far as `leaps` steps go.
            groups: numbers of the G groups, which have n walkers each.
            generators: one random generator for each group, on the CPU.
        """
        prior, n = self.prior, len(walkers.scores) // len(groups)
        group = torch.tensor(groups, device=walkers.z.device).repeat_interleave(n)
        momentum = torch.cat([torch.randn((n, *prior.shape), generator=g) for g in generators]).to(walkers.z)
        uniform = torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])
        nonfinite = torch.zeros(len(uniform), dtype=torch.int64)
        condition_changed = torch.zeros(len(uniform), dtype=torch.bool)
        calls = torch.zeros(len(uniform), dtype=torch.int64)
        if walkers.condition is not None and prior.conditions > 1:
            coin = torch.cat([torch.rand(n, generator=g) for g in generators]) < CONDITION_SHARE
            ahead = torch.cat([torch.randint(1, prior.conditions, (n,), generator=g) for g in generators])
            luck = torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for g in generators])
            walkers, condition_changed, nonfinite_calls = self._propose_conditions(
                walkers, beta, group, coin.nonzero()[:, 0], ahead, luck
            )
            calls = calls + coin
            nonfinite += nonfinite_calls
        walkers, walked, spent, nonfinite_calls = self._walk(walkers, beta, stride, group, momentum, uniform)
        return Moved(walkers, walked, condition_changed, calls + spent, nonfinite + nonfinite_calls)

    def _propose_conditions(
        self, walkers: Walkers, beta: Tensor, group: Tensor, rows: Tensor, ahead: Tensor, uniform: Tensor
    ) -> tuple[Walkers, Tensor, Tensor]:
        """Proposes other conditions for the walkers `rows`.

        Args:
            group: B int64, see `scores`.
            rows: row numbers of the walkers that try.
            ahead: B int64, how far each condition is advanced (modulo the number of conditions).
            uniform: B float64 in [0, 1), for the acceptance.

        Returns:
            The walkers, whose change was accepted (B bool), and whose new score was not finite (B int64).
        """
        z, condition, scores = walkers
        accepted = torch.zeros(len(scores), dtype=torch.bool)
        nonfinite_calls = torch.zeros(len(scores), dtype=torch.int64)
        if condition is None or not len(rows):
            return walkers, accepted, nonfinite_calls
        there = rows.to(z.device)
        other = condition.clone()
        other[there] = (condition[there] + ahead[rows].to(z.device)) % self.prior.conditions
        s = scores.clone()
        s[rows] = self.scores(z[there], other[there], group[there])
        nonfinite_calls[rows] = (~s[rows].isfinite()).long()
        accepted[rows] = _metropolis(beta[rows] * (s[rows] - scores[rows]), scores[rows], s[rows], uniform[rows])
        condition = torch.where(accepted.to(z.device), other, condition)
        return Walkers(z, condition, torch.where(accepted, s, scores)), accepted, nonfinite_calls

    def _walk(
        self, walkers: Walkers, beta: Tensor, stride: Tensor, group: Tensor, momentum: Tensor, uniform: Tensor
    ) -> tuple[Walkers, Tensor, Tensor, Tensor]:
        """Follows a Hamiltonian trajectory of each walker; accepts its end with probability min(1, exp(-ΔH)).

        H = |z|²/2 - β s(G(z)) + |p|²/2 with a momentum p ~ N(0, 1). A leapfrog step rotates (z, p) by an angle a between
        two kicks p += tan(a/2)·β·∇s. The rotation is exact for the Gaussian in any dimension, and with this kick the step
        is exact for linear scores at any angle (HMC on Hilbert spaces; Beskos et al. 2011). Rotations keep |z|² + |p|², so
        ΔH comes from the kicks and the scores alone. One step without a kick is pCN (Cotter et al. 2013) with δ = sin a.

        Args:
            momentum: B×C×H×W, p at the start.
            uniform: B float64 in [0, 1), for the acceptance.
            (others as in `move` and `scores`)

        Returns:
            The walkers, whose move was accepted (B bool), scores taken for each (B int64), and how many of them were not
            finite (B int64).
        """
        use_gradient = self.leaps > 0
        leaps = (
            (TRAJECTORY_LENGTH / stride - 1e-9).ceil().clamp(1, self.leaps).long()
            if use_gradient
            else torch.ones_like(group.cpu())
        )
        angle = (stride.minimum(TRAJECTORY_LENGTH / leaps) if use_gradient else stride) * (math.pi / 2)
        turn, tilt = _column(angle.cos(), walkers.z), _column(angle.sin(), walkers.z)
        kick = _column((angle / 2).tan() * beta, walkers.z)
        z, p, s = walkers.z.clone(), momentum.clone(), walkers.scores.clone()
        gain = torch.zeros_like(s)  # what the kicks add to |p|²/2
        slope = self._scored(z, walkers.condition, group, slopes=True)[1] if use_gradient else None
        nonfinite_calls = torch.zeros(len(s), dtype=torch.int64)
        for leap in range(int(leaps.max())):
            rows = (leaps > leap).nonzero()[:, 0]
            at = rows.to(z.device)
            condition = None if walkers.condition is None else walkers.condition[at]
            p_r, gain[rows] = _kick(p[at], slope, at, kick, gain[rows])
            z[at], p[at] = turn[at] * z[at] + tilt[at] * p_r, turn[at] * p_r - tilt[at] * z[at]
            s[rows], slope_r = self._scored(z[at], condition, group[at], slopes=use_gradient)
            if slope is not None and slope_r is not None:
                slope[at] = slope_r
            p[at], gain[rows] = _kick(p[at], slope, at, kick, gain[rows])
            nonfinite_calls[rows] += ~s[rows].isfinite()
        accepted = _metropolis(beta * (s - walkers.scores) - gain, walkers.scores, s, uniform)
        there = accepted.to(z.device)[:, None, None, None]
        now = Walkers(torch.where(there, z, walkers.z), walkers.condition, torch.where(accepted, s, walkers.scores))
        return now, accepted, leaps + use_gradient, nonfinite_calls


def _column(values_B: Tensor, like: Tensor) -> Tensor:
    return values_B.to(like.dtype).to(like.device)[:, None, None, None]


def _kick(p: Tensor, slope: Tensor | None, at: Tensor, kick: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Adds kick·slope to the momentum p of the walkers `at`; adds what |p|²/2 gains to `gain` (float64 on the CPU)."""
    if slope is None:
        return p, gain
    force = kick[at] * slope[at]
    return p + force, gain + (force * (p + force / 2)).flatten(1).sum(1).cpu().double()


def _metropolis(log_ratio: Tensor, before: Tensor, after: Tensor, uniform: Tensor) -> Tensor:
    """Returns which proposals are accepted. A score that is not finite is never accepted; any finite one replaces it."""
    log_ratio = torch.where(before.isfinite(), log_ratio, math.inf)
    return after.isfinite() & (uniform.log() < log_ratio)


def checked_scores(scores: Tensor, count: int) -> Tensor:
    """Returns what a score function gave as B float64 on the CPU.

    Raises:
        UserError: not one number per picture.
    """
    if scores.shape != (count,):
        raise UserError(f"a score must give one number per picture, here {count}, but gave {tuple(scores.shape)}")
    return scores.detach().double().cpu()


def next_stride(stride: Tensor, acceptance: Tensor, goal: float = PCN_ACCEPTANCE) -> Tensor:
    """Returns the stride at which the acceptance should be `goal`, from the acceptance at the current stride.

    The acceptance is modelled as 2Φ(-c·stride), as for a random walk on a smooth log density (Roberts et al. 1997), so one
    measurement gives c. The stride changes by at most a factor of 4 and is at most 1.

    Args:
        stride: current strides in (0, 1], any shape, float64.
        acceptance: acceptance at them in [0, 1], same shape.
        goal: the acceptance to reach, in (0, 1).
    """
    wanted = float(torch.special.ndtri(torch.tensor(goal / 2, dtype=torch.float64)))
    factor = wanted / torch.special.ndtri(acceptance.clamp(1e-6, 1 - 1e-6) / 2)
    return (stride * factor.clamp(0.25, 4)).clamp(1e-6, 1)
