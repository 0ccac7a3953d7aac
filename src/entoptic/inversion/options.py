"""What can be asked of the sampling of an inversion. No torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from entoptic.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn from a map; what is None is the inverter's own default."""

    steps: int | None = None
    """steps of the sampler"""
    guidance: float | None = None
    """weight of the map against none; 1 is the plain conditional law"""
    strength: float | None = None
    """of the control (or of a direct network's hint); 0 samples the bare prior (or the network without a map)"""
    pull: int = 0
    """gradient steps on the cosine while sampling; the network's own numbers are then flattered"""
    best_of: int = 1
    """pictures drawn for each one kept, that of the highest cosine; the network's own numbers are then flattered"""

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

    @property
    def looked_at(self) -> str:
        """What the making of a picture uses of the network that is inverted, beside the map: "" for nothing."""
        parts = [f"best of {self.best_of} by the cosine"] * (self.best_of > 1)
        return "; ".join(parts + [f"pulled by {self.pull} gradient steps on the cosine"] * (self.pull > 0))
