"""Fourier feature visualisation: activation maximisation over a spectrum (Olah et al., Distill 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method


@dataclass(frozen=True, kw_only=True)
class Fourier(MethodConfig):
    """Fourier feature visualisation (Olah et al. 2017)."""

    steps: int = 512
    """of Adam"""
    lr: float = 0.05
    """learning rate of Adam"""
    std: float = 0.01
    """of the spectrum's random start, per real and imaginary part"""
    decay: float = 1.0
    """exponent of the 1/f scaling of the spectrum"""
    transforms: bool = True
    """pad, jitter, scale and rotate each view, as Lucid does"""


@method("fourier", Fourier, paper="doi:10.23915/distill.00007", units=UNIT_KINDS)
def fourier(items: Sequence[Item], config: Fourier, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over a Fourier spectrum, with random views as in Lucid."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import identity, lucid_transforms
    from entoptic.methods.canvas import Spectrum
    from entoptic.methods.objectives import activation

    size, generators = context.model.card.size, [item.generator() for item in items]
    # Lucid multiplies its 1/(W·H) inverse transform by sqrt(W·H)/4, which is the orthonormal one times 1/4.
    canvas = Spectrum(generators, size, context.model.device, std=config.std, decay=config.decay, gain=0.25)
    yield from ascend(
        items,
        canvas,
        activation([item.unit for item in items]),
        torch.optim.Adam([canvas.parameter], lr=config.lr),
        context,
        steps=config.steps,
        generators=generators,
        augment=lucid_transforms(size) if config.transforms else identity,
    )
