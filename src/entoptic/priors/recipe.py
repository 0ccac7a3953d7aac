"""The configuration of a prior's training. It imports no torch, so the command line can print its help at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from entoptic.base.bounds import check_bounds
from entoptic.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16")
GROUPS = 16
"""Channels are normalised in so many groups."""
HEAD = 32
"""Channels of an attention head."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a prior is trained. To continue from the last checkpoint, raise `steps` and run again."""

    size: int = 64
    """side of the pictures in pixels"""
    steps: int = 20000
    """optimisation steps in all"""
    batch_size: int = 32
    """pictures per step"""
    patch: int = 2
    """side of the pixel blocks that the network sees as one position"""
    widths: tuple[int, ...] = (64, 128, 256)
    """channels at each resolution, from the finest; each is half the one before"""
    layers: int = 1
    """residual blocks at each resolution"""
    attention: tuple[int, ...] = (8,)
    """sides of the maps that self-attention works on"""
    rate: float = 5e-4
    """peak learning rate of AdamW"""
    warmup: int = 200
    """steps over which the rate rises"""
    decay: float = 0.25
    """last share of the steps, over which the rate falls to 0"""
    ema: float = 0.999
    """decay of the running mean of the weights, which is what is kept"""
    drop: float = 0.1
    """share of pictures shown without their class, so that the network also runs without one"""
    dropout: float = 0.0
    """share of values dropped inside residual blocks, against learning photos by heart"""
    precision: str = "auto"
    """arithmetic of the network: float32, bfloat16, or auto (bfloat16 on a GPU)"""
    seed: int = 0
    """random seed of the first weights and of everything drawn while it is trained"""

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) > 16:
            raise UserError(f"widths must be from 1 to 16 numbers of channels, got {len(self.widths)}")
        for name in ("size", "steps", "batch_size", "patch", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_bounds(self)
        coarsest = self.patch * 2 ** (len(self.widths) - 1)
        if self.size % coarsest:
            raise UserError(
                f"size must be a multiple of {coarsest} with patch {self.patch} and {len(self.widths)} widths, got "
                f"{self.size}; the nearest is {max(1, round(self.size / coarsest)) * coarsest}"
            )
        self._check_widths()
        if self.precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        for name in ("ema", "drop", "dropout", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def _check_widths(self) -> None:
        """Groups of channels are normalised together, and heads of attention share them evenly."""
        for i, width in enumerate(self.widths):
            if width < GROUPS or width % GROUPS:
                near = max(1, round(width / GROUPS)) * GROUPS
                raise UserError(f"widths must be multiples of {GROUPS}, got {width}; the nearest is {near}")
            side, heads = self.size // self.patch // 2**i, width // HEAD
            if side in self.attention and (not heads or width % heads):
                raise UserError(
                    f"attention on maps of side {side} needs a multiple of {HEAD} channels there, got {width}; "
                    f"the nearest is {max(1, round(width / HEAD)) * HEAD}"
                )

    def architecture(self) -> dict[str, Any]:
        """Returns the options that determine the network's architecture. A training with other values cannot be resumed."""
        return {k: getattr(self, k) for k in ("size", "patch", "widths", "layers", "attention")}
