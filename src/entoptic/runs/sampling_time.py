"""How long methods take that sample a prior: their work is counted, and one piece of each kind is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from entoptic.base.progress import short_time
from entoptic.base.randomness import generator_for
from entoptic.methods.contract import Context, Item, MethodConfig
from entoptic.methods.klsc import Klsc
from entoptic.methods.prior_sampling import MAP_STEPS, prior_of, units_of
from entoptic.priors.prior import Prior, draw_conditions, generate, noise_like
from entoptic.sampling.bank import Bank, bank_key, held_samples
from entoptic.sampling.unit_scores import UnitScores

_RUNGS = (3, 11)
"""Rungs of a ladder of β: of a small budget, and those that most need fewer than."""
TIMED = 4
"""Pictures that are timed together."""


@dataclass(frozen=True, kw_only=True)
class SamplingWork:
    """What a method that samples a prior computes.

    Attributes:
        drawn: samples of the bank that are neither shipped nor in the cache.
        scored: of the bank, which nobody has scored for these units.
        moved: the least and the most samples that are moved by gradients of the score, of all units.
        seconds: the least and the most that all of it takes.
    """

    drawn: int
    scored: int
    moved: tuple[int, int]
    seconds: tuple[float, float]

    def __str__(self) -> str:
        parts = [f"{self.drawn} samples of the prior to draw"] if self.drawn else []
        parts += [f"{self.scored} to score"] if self.scored else []
        parts += [f"{self.moved[0]} to {self.moved[1]} to move"] if self.moved[1] else []
        low, high = map(short_time, self.seconds)
        return f"{', '.join(parts) or 'nothing to sample'}: {low if low == high else f'{low} to {high}'}"


def sampling_work(items: list[Item], config: MethodConfig, context: Context) -> SamplingWork | None:
    """Counts and times what a method with a bank will compute; None where a method has none.

    Nothing is kept of what is timed.

    Args:
        items: that are not there yet.
        config: of the method.
        context: of the method.
    """
    size: Any = getattr(config, "bank", None)
    if not isinstance(size, int) or context.prior is None or not items:
        return None
    prior, units = prior_of(context), units_of(items)[0]
    held = held_samples(bank_key(prior, steps=MAP_STEPS, seed=context.bank_seed))
    scores = UnitScores(units, getattr(config, "reduction", ""))
    bank = Bank(prior, MAP_STEPS, context.bank_seed, size, held[:size])
    unscored = any(row is None for row in bank.held_scores(scores)[1])
    drawn, scored = max(0, size - len(held)), size if unscored else 0
    low, high = (len(units) * count for count in _moved(config))
    draw, score, move = _seconds(prior, scores)
    before = drawn * draw + scored * score
    return SamplingWork(
        drawn=drawn, scored=scored, moved=(low, high), seconds=(before + low * move, before + high * move)
    )


def _moved(config: MethodConfig) -> tuple[int, int]:
    """The least and the most samples that the islands of one unit move."""
    if not isinstance(config, Klsc):
        return 0, 0
    particles, each = config.particles * config.islands, config.moves
    return particles * each * _RUNGS[0], particles * each * (config.leaps + 1) * _RUNGS[1]


def _seconds(prior: Prior, scores: UnitScores) -> tuple[float, float, float]:
    """Seconds to draw a sample, to score one, and to take a gradient of the score through the map."""
    generators = [generator_for("timed", i) for i in range(TIMED)]
    condition, noise = draw_conditions(prior, generators), noise_like(prior, generators)

    straight = replace(scores, straight=True)  # the saved file's score, with the gradient of the picture's

    def draw() -> torch.Tensor:
        return prior.decode(generate(prior, noise, condition, steps=MAP_STEPS))

    def move() -> None:
        again = noise.clone().requires_grad_()
        pictures = prior.decode(generate(prior, again, condition, steps=MAP_STEPS))
        straight(pictures, torch.zeros(len(pictures), dtype=torch.int64)).sum().backward()

    with torch.no_grad():
        pictures = draw()
        drawing, scoring = timed(draw), timed(lambda: scores.all(pictures))
    with torch.enable_grad():
        return drawing, scoring, timed(move)


def timed(piece: Callable[[], object]) -> float:
    """Returns the seconds of one of the `TIMED` samples that a call makes together, of the faster of two calls."""
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        piece()
        seconds.append(time.monotonic() - started)
    return min(seconds) / TIMED
