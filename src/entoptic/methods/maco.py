"""MACO: activation maximisation over phases with a natural magnitude spectrum (Fel et al. 2023, arXiv 2306.06805)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Maco(MethodConfig):
    """MACO, magnitude-constrained feature visualisation (Fel et al. 2023).

    The constants are those of Xplique's MaCo, with 8 instead of 32 crops a step so that a CPU can finish; the published
    pictures use canvases of 1000 pixels and more.
    """

    came_later = MappingProxyType[str, Any]({"size": 0})
    bounds = MappingProxyType[str, tuple[float, float]]({"size": (0, 4096)})  # 0 leaves it to `canvas`

    steps: int = 256
    """steps of NAdam"""
    lr: float = 1.0
    """learning rate of NAdam"""
    canvas: int = 512
    """side of the square canvas in pixels; 0 for the network's input size"""
    crops: int = 8
    """views per step"""
    crop_start: float = 0.5
    """mean side of a crop at the first step, as a share of the canvas"""
    crop_end: float = 0.05
    """mean side of a crop at the last step (linear between)"""
    crop_std: float = 0.05
    """standard deviation of the side around its mean"""
    noise: float = 0.08
    """standard deviation of the noise added to views of range -1 … 1 (and half as much uniform)"""
    size: int = 0
    """pixels of the picture's side, in place of `canvas`, and scored at the network's own size too; 0 leaves it to `canvas`"""


@method("maco", Maco, paper="arXiv:2306.06805", units=UNIT_KINDS, reads={"spectrum"})
def maco(items: Sequence[Item], config: Maco, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over phases; the magnitudes of the spectrum are those of natural images."""
    import torch

    from entoptic.methods.ascent import ascend
    from entoptic.methods.augment import chain, crops, noise
    from entoptic.methods.canvas import Phase
    from entoptic.methods.large import check_size, measured_at_both_sizes
    from entoptic.methods.objectives import activation

    size, generators = context.model.card.size, [item.generator() for item in items]
    check_size(size, config.size)
    wanted = config.size or config.canvas
    side = (wanted, wanted) if wanted else size
    step = 0

    def crop_side(g: Generator) -> Tensor:
        progress = step / max(1, config.steps - 1)
        mean = config.crop_start + (config.crop_end - config.crop_start) * progress  # MACO's b_t
        return (mean + config.crop_std * torch.randn(config.crops, generator=g)).clamp(0.05, 1.0)

    def on_step(done: int, steps: int) -> None:
        nonlocal step
        step = done
        context.on_step(done, steps)

    canvas = Phase(generators, side, context.model.device, magnitude=context.references.spectrum(side))
    drafts = ascend(
        items,
        canvas,
        activation([item.unit for item in items]),
        torch.optim.NAdam([canvas.parameter], lr=config.lr),
        replace(context, on_step=on_step),
        steps=config.steps,
        generators=generators,
        # Noise of a [-1, 1] picture, here in [0, 1]; the wide parts are N(0, σ) + U(±σ/2).
        augment=chain(crops(config.crops, crop_side, size), noise(config.noise / 2, config.noise / 4)),
    )
    for draft in drafts:
        yield measured_at_both_sizes(draft, context) if config.size else draft
