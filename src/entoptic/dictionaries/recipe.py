"""The recipe of a dictionary's training. No torch is imported: the command line reads this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from entoptic.base.bounds import check_bounds
from entoptic.errors import UserError, nearest

KIND_NAMES = ("relu", "topk", "batchtopk", "jumprelu", "matryoshka", "archetypal", "nmf")


@dataclass(frozen=True, kw_only=True)
class DictionaryRecipe:
    """How a dictionary is trained. Raise `steps` and run again to go on from the last checkpoint."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "features": (2, 1_000_000), "active": (1, 100_000), "window": (1, 31), "positions": (1, 1_000_000),
        "buffer": (1, 100_000_000), "least_gain": (0, 1), "patience": (1, 10_000), "check_every": (1, 1_000_000),
        "revival": (0, 100), "dead_after": (1, 10**9), "held_photos": (1, 1_000_000), "decay": (0, 1),
    }  # fmt: skip

    features: int = 1024
    """features of the dictionary"""
    active: int = 16
    """mean number of features active at a position"""
    window: int = 1
    """side of the encoder's window of positions, odd; 1 reads each position alone"""
    steps: int = 4000
    """optimisation steps in all, at most"""
    batch_size: int = 1024
    """positions per step"""
    rate: float = 1e-3
    """peak learning rate of Adam"""
    warmup: int = 100
    """steps over which the rate rises"""
    decay: float = 0.2
    """last share of the steps, over which the rate falls to 0"""
    positions: int = 32
    """positions taken of each photo, at random; those of one photo are much alike"""
    buffer: int = 65_536
    """positions that are shuffled together, of many photos; memory is this times the layer's width (and the window's)"""
    revival: float = 0.03125
    """weight of the loss that lets dead features explain what the others leave"""
    dead_after: int = 100_000
    """positions without an activation after which a feature counts as dead"""
    held_photos: int = 64
    """photos kept out of the training, which it is measured on (at most a tenth of all)"""
    check_every: int = 250
    """steps from one measurement of explained variance to the next"""
    least_gain: float = 0.002
    """stop once explained variance has risen by less over the last `patience` measurements; 0 never stops"""
    patience: int = 4
    """measurements that the rise is counted over"""
    seed: int = 0
    """random seed of the first weights and of the order of photos and positions"""

    ema: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.window % 2 == 0:
            raise UserError(f"a window of {self.window} positions has no centre; give an odd number")
        if self.active > self.features:
            raise UserError(f"{self.active} active of {self.features} features: give fewer")
        if self.batch_size > self.buffer:
            raise UserError(f"a batch of {self.batch_size} positions does not fit in a buffer of {self.buffer}")

    def architecture(self) -> dict[str, object]:
        """Returns what a training that goes on cannot change."""
        names = ("features", "active", "window", "batch_size", "positions", "buffer", "held_photos", "seed")
        return {name: getattr(self, name) for name in names}


def check_kind(kind: str) -> str:
    """Returns a kind of dictionary that can be trained.

    Raises:
        UserError: there is none of that name.
    """
    if kind not in KIND_NAMES:
        raise UserError(f'no kind of dictionary "{kind}"; there are {", ".join(KIND_NAMES)}{nearest(kind, KIND_NAMES)}')
    return kind
