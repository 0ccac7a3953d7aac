"""Activation maximisation on raw pixels (Erhan et al. 2009), the baseline that other methods are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method


@dataclass(frozen=True, kw_only=True)
class PixelAscent(MethodConfig):
    """Activation maximisation on pixels (Erhan et al. 2009)."""

    came_later = MappingProxyType[str, Any]({"size": 0})
    bounds = MappingProxyType[str, tuple[float, float]]({"size": (0, 4096)})  # 0 is the network's own

    steps: int = 256
    """steps of gradient ascent"""
    lr: float = 0.01
    """root mean square change of a pixel per step, pixels in [0, 1]"""
    std: float = 0.1
    """standard deviation of the random start around mid-grey"""
    radius: float = 0.0
    """L2 distance from mid-grey that the picture is kept at (Erhan's ||x|| = rho); 0 only clamps"""
    size: int = 0
    """pixels of the picture's longer side, above the network's own; 0 is the network's own size"""


@method("pixels", PixelAscent, paper="Erhan et al. 2009, TR 1341", units=UNIT_KINDS)
def pixels(items: Sequence[Item], config: PixelAscent, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over pixels by normalised gradient ascent."""
    import torch

    from entoptic.methods.ascent import ascend, normalise_gradient
    from entoptic.methods.augment import identity
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.large import Stage, from_coarse_to_fine, measured_at_both_sizes, squares
    from entoptic.methods.objectives import activation

    own = context.model.card.size

    class PixelsOnSphere(Pixels):
        """Pixels at a fixed L2 distance from mid-grey, where it is above 0."""

        radius = config.radius

        @torch.no_grad()
        def project(self) -> None:
            """Scales each picture's distance from mid-grey to `radius`, then clamps the pixels, in place."""
            if self.radius:
                length = (self.parameter / 2).flatten(1).norm(dim=1)[:, None, None, None]
                self.parameter.mul_(self.radius / length)
            super().project()

    def make(stage: Stage) -> Iterator[Draft]:
        generators = [item.generator() for item in stage.items]
        canvas = PixelsOnSphere(generators, stage.size, context.model.device, std=2 * config.std)
        if config.size:
            # The same contrast at each size: the last picture, of `size` pixels, lies at the radius.
            canvas.radius = config.radius * max(stage.size) / config.size
        if stage.start is not None:
            canvas.set(stage.start.to(context.model.device))
        canvas.project()
        return ascend(
            stage.items,
            canvas,
            activation([item.unit for item in stage.items]),
            torch.optim.SGD([canvas.parameter], lr=2 * config.lr),
            stage.context,
            steps=stage.steps,
            generators=generators,
            augment=identity if stage.size == own else squares(own),
            on_gradient=normalise_gradient,
        )

    for draft in from_coarse_to_fine(items, config.size, config.steps, context, make):
        yield measured_at_both_sizes(draft, context)
