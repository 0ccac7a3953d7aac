"""Activation maximisation on raw pixels (Erhan et al. 2009), the baseline that other methods are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from entoptic.methods.contract import UNIT_KINDS, Context, Draft, Item, MethodConfig, method


@dataclass(frozen=True, kw_only=True)
class PixelAscent(MethodConfig):
    """Activation maximisation on pixels (Erhan et al. 2009)."""

    steps: int = 256
    """of gradient ascent"""
    lr: float = 0.01
    """root mean square change of a pixel per step, pixels in [0, 1]"""
    std: float = 0.1
    """of the random start around mid-grey"""
    radius: float = 0.0
    """L2 distance from mid-grey that the picture is kept at (Erhan's ||x|| = rho); 0 only clamps"""


@method("pixels", PixelAscent, paper="Erhan et al. 2009, TR 1341", units=UNIT_KINDS)
def pixels(items: Sequence[Item], config: PixelAscent, context: Context) -> Iterator[Draft]:
    """Maximises the unit's score over pixels by normalised gradient ascent."""
    import torch

    from entoptic.methods.ascent import ascend, normalise_gradient
    from entoptic.methods.canvas import Pixels
    from entoptic.methods.objectives import activation

    class PixelsOnSphere(Pixels):
        """Pixels at a fixed L2 distance from mid-grey, where `radius` asks for one."""

        @torch.no_grad()
        def project(self) -> None:
            """Scales each picture's distance from mid-grey to `radius`, then clamps the pixels, in place."""
            if config.radius:
                length = (self.parameter / 2).flatten(1).norm(dim=1)[:, None, None, None]
                self.parameter.mul_(config.radius / length)
            super().project()

    generators = [item.generator() for item in items]
    canvas = PixelsOnSphere(generators, context.model.card.size, context.model.device, std=2 * config.std)
    canvas.project()
    yield from ascend(
        items,
        canvas,
        activation([item.unit for item in items]),
        torch.optim.SGD([canvas.parameter], lr=2 * config.lr),
        context,
        steps=config.steps,
        generators=generators,
        on_gradient=normalise_gradient,
    )
