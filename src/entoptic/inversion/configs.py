"""Configs of inversion, steering and the training of inverters. No torch is imported: the command line reads this file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from entoptic.base.bounds import check_bounds
from entoptic.errors import UserError, counted


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn from a map; what is None is the inverter's own default."""

    steps: int | None = None
    """steps of the sampler"""
    guidance: float | None = None
    """weight of guidance by the map; 1 is the plain conditional distribution"""
    strength: float | None = None
    """weight of the control (or of a direct network's hint); 0 samples the bare prior (or the network without a map)"""
    pull: int = 0
    """gradient steps on the cosine while sampling; the network's own measurements then look better than they are"""
    best_of: int = 1
    """pictures drawn for each one kept, that of the highest cosine; the network's own measurements then look better
    than they are"""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")
        if self.best_of < 1:
            raise UserError(f"best-of is how many pictures one is chosen from, at least 1, got {self.best_of}")
        if self.pull < 0:
            raise UserError(f"pull is a number of gradient steps, 0 or more, got {self.pull}")
        for name in ("guidance", "strength"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"{name} must be a number from 0, got {value}")
        check_bounds(self)

    @property
    def looked_at(self) -> str:
        """What the making of a picture uses of the inverted network beside the map, or ""."""
        parts = [f"best of {self.best_of} by the cosine"] * (self.best_of > 1)
        return "; ".join(parts + [f"pulled by {self.pull} gradient steps on the cosine"] * (self.pull > 0))


@dataclass(frozen=True, kw_only=True)
class Steer:
    """How a concept is steered, and how the difference is calibrated."""

    scale: float = 0.25
    """α: what is left of the concept in the edit that is shown; 0 removes it, 2 doubles it"""
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    """values of α that are compared"""
    n: int = 9
    """random seeds, each decoding both maps with the same noise"""
    nulls: int = 0
    """random subspaces that the difference is ranked among, 19 for a p-value; 0 measures no chance"""
    level: float = 0.05
    """rate at which concepts without any effect of their own are flagged; needs 1/level - 1 nulls"""
    seed: int = 0
    """random seed of the noise and of the random subspaces"""
    steps: int | None = None
    """sampling steps (default: the inverter's)"""
    strength: float | None = None
    """weight of the map's control (default: the inverter's)"""
    guidance: float | None = None
    """weight of guidance by the map (default: the inverter's)"""
    eight_bit: bool = True
    """compare and re-encode the pictures as an 8-bit file holds them"""
    batch_size: int = 32
    """pictures decoded together"""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n is the number of random seeds and must be at least 1, got {self.n}")
        if self.nulls < 0:
            raise UserError(f"nulls must be 0 or more, got {self.nulls}")
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 < self.level < 1:
            raise UserError(f"level is a rate between 0 and 1, got {self.level}")
        check_bounds(self)
        if bad := [a for a in (self.scale, *self.scales) if not math.isfinite(a)]:
            raise UserError(f"scales must be finite numbers, got {bad[0]}")
        if self.scale == 1:
            raise UserError("a scale of 1 leaves the concept as it is; 0.25 attenuates it, 0 removes it, 2 doubles it")
        if self.nulls and allowed_false_alarms(self.level, self.nulls) < 1:
            least = math.ceil(1 / self.level - 1 - 1e-9)
            raise UserError(
                f"{counted(self.nulls, 'null')} cannot tell a rate of {self.level:g}: give at least {least}, or 0"
            )

    @property
    def all_scales(self) -> tuple[float, ...]:
        """The scales of the sweep and the one of the picture that is kept, ascending, each once."""
        return tuple(sorted({float(a) for a in (*self.scales, self.scale)}))


def allowed_false_alarms(level: float, count: int) -> int:
    """Returns ⌊level·(count + 1)⌋: how many of count + 1 exchangeable maps may be flagged.

    Args:
        level: rate of false alarms, in (0, 1).
        count: null maps.
    """
    return math.floor(level * (count + 1) + 1e-9)


NETWORKS = ("control", "direct")


@dataclass(frozen=True, kw_only=True)
class EntopticRecipe:
    """How an inverter is trained here. Raise `steps` and run again to go on from the last checkpoint."""

    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "guess": (0, 1e6),
        "cycle_from": (0, 1e6),
        "cycle_below": (0, 1e6),
    }

    steps: int = 3000
    """optimisation steps in all"""
    batch_size: int = 32
    """pictures per step"""
    network: str = "control"
    """control: a ControlNet on the frozen prior; direct: the prior's network itself, trained with the map as input"""
    standardise: bool = True
    """show maps in units of each channel's standard deviation, clamped to ±10"""
    project: bool = True
    """project maps to `hint` channels at their own resolution, before they are enlarged to the prior's"""
    hint: int = 128
    """channels inside the hint encoder"""
    pooled: bool = False
    """ablation: each map is replaced by its mean over positions, everywhere"""
    rate: float = 1e-3
    """peak learning rate of AdamW"""
    warmup: int = 100
    """steps over which the rate rises"""
    decay: float = 0.3
    """last share of the steps, over which the rate falls to 0"""
    ema: float = 0.998
    """decay of the running mean of the weights, which is what is kept; 0 keeps the weights"""
    logit_normal: bool = True
    """draw noise levels from a logit-normal distribution (Esser et al. 2024) rather than evenly"""
    noisier: float = 1.0
    """mean of that distribution: above 0 more of the levels are noisy, where the map says what the picture does not"""
    drop: float = 0.1
    """share of maps hidden in training where the network must learn to do without (direct, or with `drop_together`); the
    prior's text is hidden with the same probability, independently"""
    drop_together: bool = False
    """hide the map (as zeros) and the text together, as FeatInv does"""
    guess: float = 1.0
    """weight of the squared error of the hint's guess of the picture (with `project`)"""
    cycle: float = 0.2
    """weight of 1 - cosine between the map and that of the one-step estimate"""
    cycle_from: float = 0.4
    """share of the steps after which the cycle loss sets in"""
    cycle_below: float = 0.5
    """noise levels below which it is taken, as a share of the way to pure noise"""
    cycle_pictures: int = 4
    """most pictures of a step that it is taken on"""
    seed: int = 0
    """random seed of the first weights and of everything drawn in training"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "hint"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("drop", "decay", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.cycle < 0:
            raise UserError(f"cycle must be 0 (off) or more, got {self.cycle}")
        if self.network not in NETWORKS:
            raise UserError(f'network must be one of {", ".join(NETWORKS)}, got "{self.network}"')
        check_bounds(self)

    def architecture(self) -> dict[str, Any]:
        """Returns the options that a training must keep to be resumed: those of the network's shape and of its input."""
        return {k: getattr(self, k) for k in ("network", "standardise", "project", "hint", "pooled", "drop_together")}


@dataclass(frozen=True, kw_only=True)
class PaperRecipe(EntopticRecipe):
    """FeatInv as published (arXiv:2505.21032: raw maps, enlarged first, joint dropout, constant rate, no EMA, even noise levels).

    Its rate of 1e-5 is that of a network 40 times larger which saw 3.8 million pictures; a small prior wants more.
    """

    batch_size: int = 8
    standardise: bool = False
    project: bool = False
    hint: int = 512
    rate: float = 1e-5
    warmup: int = 0
    decay: float = 0.0
    ema: float = 0.0
    logit_normal: bool = False
    drop: float = 0.15
    drop_together: bool = True
    cycle: float = 0.0


RECIPES = {"entoptic": EntopticRecipe, "paper": PaperRecipe}
