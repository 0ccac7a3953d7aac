"""Fourier feature visualisation: activation maximisation over a spectrum (Olah et al., Distill 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method


@dataclass(frozen=True, kw_only=True)
class Fourier(MethodConfig):
    """Fourier feature visualisation (Olah et al. 2017)."""

    came_later = MappingProxyType[str, Any]({"size": 0})
    bounds = MappingProxyType[str, tuple[float, float]]({"size": (0, 4096)})  # 0 is the network's own

    steps: int = 512
    """steps of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    std: float = 0.01
    """standard deviation of the spectrum's random start, per real and imaginary part"""
    decay: float = 1.0
    """exponent of the 1/f scaling of the spectrum"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does"""
    size: int = 0
    """pixels of the picture's longer side, above the network's own; 0 is the network's own size"""


@method("fourier", Fourier, paper="doi:10.23915/distill.00007", units=UNIT_KINDS)
def fourier(items: Sequence[Item], config: Fourier, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over a Fourier spectrum, with random views as in Lucid."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import chain, identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.large import Stage, from_coarse_to_fine, measured_at_both_sizes, squares
    from entoptic.methods.objectives import activation

    own = context.model.card.size
    view = lucid_transforms(own) if config.transforms else identity

    def make(stage: Stage) -> Iterator[Draft]:
        generators = [item.generator() for item in stage.items]
        # Lucid multiplies its 1/(W·H) inverse transform by sqrt(W·H)/4, which is the orthonormal one times 1/4.
        canvas = Spectrum(generators, stage.size, context.model.device, std=config.std, decay=config.decay, gain=0.25)
        if stage.start is not None:
            canvas.start_at(stage.start)
        return ascend(
            stage.items,
            canvas,
            activation([item.unit for item in stage.items]),
            torch.optim.Adam([canvas.parameter], lr=config.lr),
            stage.context,
            steps=stage.steps,
            generators=generators,
            augment=view if stage.size == own else chain(squares(own), view),
        )

    for draft in from_coarse_to_fine(items, config.size, config.steps, context, make):
        yield measured_at_both_sizes(draft, context)
