"""The two recipes by which an inverter is trained: configs without torch, so that the command line answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from entoptic.errors import UserError

NETWORKS = ("control", "direct")


@dataclass(frozen=True, kw_only=True)
class EntopticRecipe:
    """How an inverter is trained here. Raise `steps` and run again to go on from the last checkpoint."""

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
    """draw noise levels from a logit-normal law (Esser et al. 2024) rather than evenly"""
    noisier: float = 1.0
    """mean of that law: above 0 more of the levels are noisy, where the map says what the picture does not"""
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

    def architecture(self) -> dict[str, Any]:
        """What of the recipe decides the network's shape or what it is shown: another one cannot resume."""
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
