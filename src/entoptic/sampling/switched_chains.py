"""Chains whose guidance is switched on, or off, at one step: from which step on does guidance matter?

A chain that is switched at step k takes its first k steps on one side (guided or not) and the rest on the other. Chains of one
seed share their condition and all noise, whatever the switch. So what the first side does is computed once for each seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import torch
from torch import Tensor

from entoptic.errors import UserError, nearest
from entoptic.priors.prior import Kernel, Level, Prior, Score, deterministic, draw_conditions, noise_like
from entoptic.sampling.guidance import StepRule, ancestral_at_rest, inside

SAMPLERS: Mapping[str, StepRule] = {"ancestral": ancestral_at_rest, "deterministic": deterministic}
"""Steps by name: those of the methods that sample chains, and DDIM's, which have the closed form of the literature."""


class Side(StrEnum):
    """What happens at the switch."""

    ON = "on"
    """guidance is off before the switch and on after it"""
    OFF = "off"
    """guidance is on before the switch and off after it"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Switched:
    """Chains of one prior towards one score, see the module.

    Attributes:
        prior: the generative model.
        score: s, differentiable in the pictures.
        beta: β ≥ 0 of the guidance.
        steps: number of steps T, ≥ 1.
        sampler: a name in `SAMPLERS`.
    """

    prior: Prior
    score: Score
    beta: float
    steps: int
    sampler: str = "ancestral"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(
                f'no sampler "{self.sampler[:80]}"; there are {", ".join(SAMPLERS)}{nearest(self.sampler, SAMPLERS)}'
            )

    @property
    def levels(self) -> list[Level]:
        """The T + 1 noise levels."""
        return self.prior.levels(self.steps)

    def trunk(self, generators: Sequence[torch.Generator], side: Side, places: Iterable[int]) -> dict[int, Tensor]:
        """Returns the states of unswitched chains before some steps.

        Args:
            generators: one for each chain, on the CPU.
            side: which side comes first.
            places: numbers of steps k that were taken, 0 … T.

        Returns:
            B×C×H×W by k.
        """
        wanted = set(places)
        x, condition, noises = self._begin(generators)
        held = {0: x}
        for k, (t, s) in enumerate(pairwise(self.levels)):
            if k >= max(wanted, default=0):
                break
            x = self._step(x, t, s, condition, guided=side is Side.OFF)
            x = noises.onto(x, self._kernel(t, s))
            held[k + 1] = x
        return {k: held[k] for k in wanted}

    def finish(self, generators: Sequence[torch.Generator], side: Side, place: int, x: Tensor) -> Tensor:
        """Returns the clean states of chains that are switched after `place` steps, B×C×H×W; NaN where one was lost.

        Args:
            generators: those of the trunk, in their first state.
            side: which side comes first.
            place: steps k that were taken before the switch.
            x: the states there, B×C×H×W.
        """
        _, condition, noises = self._begin(generators)
        for k, (t, s) in enumerate(pairwise(self.levels)):
            if k < place:
                noises.skip(self._kernel(t, s))
                continue
            x = noises.onto(self._step(x, t, s, condition, guided=side is Side.ON), self._kernel(t, s))
        return x

    def within(self, generators: Sequence[torch.Generator], window: tuple[float, float]) -> Tensor:
        """Returns the clean states of chains that are guided between two shares of the steps.

        Args:
            generators: one for each chain.
            window: shares of the steps done, see `inside`.
        """
        x, condition, noises = self._begin(generators)
        for k, (t, s) in enumerate(pairwise(self.levels)):
            x = self._step(x, t, s, condition, guided=inside(window, k, self.steps))
            x = noises.onto(x, self._kernel(t, s))
        return x

    def _kernel(self, t: Level, s: Level) -> Kernel:
        return SAMPLERS[self.sampler](t, s)

    def _begin(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor | None, _Noises]:
        """First states, conditions and the noise to come. The order of draws is that of `guided_chains`."""
        condition = draw_conditions(self.prior, generators)
        x = noise_like(self.prior, generators) * self.levels[0].sigma
        return x, condition, _Noises(self.prior, generators)

    def _step(self, x: Tensor, t: Level, s: Level, condition: Tensor | None, *, guided: bool) -> Tensor:
        """Returns the mean of one step; a chain that is not finite stays so, and touches no other."""
        k = self._kernel(t, s)
        if not guided or k.push * self.beta == 0:
            with torch.no_grad():
                return k.from_x * x + k.from_x0 * self.prior.denoise(x, t, condition)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = self.prior.denoise(x, t, condition)
            groups = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            scores = self.score(self.prior.decode(x0), groups)
            if not scores.requires_grad:
                raise UserError(
                    "guidance needs a score that is differentiable in the pictures; this one has no gradient"
                )
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        with torch.no_grad():
            return k.from_x * x + k.from_x0 * x0 + k.push * self.beta * gradient


@dataclass(frozen=True, eq=False)
class _Noises:
    """The noise of a chain's steps, from its own generator."""

    prior: Prior
    generators: Sequence[torch.Generator]

    def onto(self, x: Tensor, kernel: Kernel) -> Tensor:
        return x + kernel.sd * noise_like(self.prior, self.generators) if kernel.sd > 0 else x

    def skip(self, kernel: Kernel) -> None:
        if kernel.sd > 0:
            noise_like(self.prior, self.generators)


def switch_places(steps: int, switches: int) -> list[int]:
    """Returns at most `switches` + 1 step numbers from 0 to `steps`, evenly spaced, both ends among them.

    Args:
        steps: of the chain, ≥ 1.
        switches: how many intervals, ≥ 1.
    """
    return sorted({round(i * steps / switches) for i in range(switches + 1)})
