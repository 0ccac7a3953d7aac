"""`FeatureMaps`: one layer of a model as spatial maps B×C×h×w, to be read, to be put back, to be compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from entoptic.errors import UserError, nearest
from entoptic.models.ablate import with_first
from entoptic.models.model import Model
from entoptic.models.taps import Tap, as_laid_out, channels_first

_LAYOUTS = ("BCHW", "BHWC", "BTC", "TBC")


@dataclass(frozen=True)
class FeatureMaps:
    """The maps of one layer; tokens that lie nowhere on the picture (class token, registers) are left out.

    Attributes:
        model: whose maps they are.
        layer: where they are read.
        channels: C.
        grid: (h, w).
        prefix: tokens before the first patch.
    """

    model: Model
    layer: str
    channels: int
    grid: tuple[int, int]
    prefix: int

    @classmethod
    def of(cls, model: Model, layer: str) -> FeatureMaps:
        """Returns the maps of a layer.

        Args:
            model: the network.
            layer: name of the layer.

        Raises:
            UserError: no such layer, or one without positions on the picture (with the nearest that has them).
        """
        info = model.layer(layer)
        if info.patches is None or info.layout not in _LAYOUTS:
            spatial = [i.name for i in model.layers.values() if i.patches and i.layout in _LAYOUTS]
            last = f"; the last that has is {spatial[-1]}" if spatial else ""
            raise UserError(
                f"{layer} of {model.card.name} has no map over the picture{nearest(layer, spatial) or last}"
            )
        if model.card.size[0] != model.card.size[1]:
            raise UserError(f"inversion needs square inputs, {model.card.name} takes {model.card.size}")
        prefix, rows, columns = info.patches
        return cls(model, layer, info.channels, (rows, columns), prefix)

    def __str__(self) -> str:
        rows, columns = self.grid
        return f"{self.layer} of {self.model.card.name} ({self.channels}×{rows}×{columns})"

    def read(self, pictures: Tensor) -> Tensor:
        """Returns the maps B×C×h×w, float32, of pictures; differentiable in the pictures.

        Args:
            pictures: B×3×H×W in [0, 1], of any size.
        """
        seen = self.model.fit(pictures.to(self.model.device))
        tap = Tap(self.layer)
        values_BCD = self.model.read(seen, [tap])[tap]
        return values_BCD[:, :, self.prefix :].unflatten(2, self.grid).float()

    def logits(self, maps_BChw: Tensor, pictures: Tensor) -> Tensor:
        """Returns the logits B×K that the network would give had its layer put out these maps.

        Args:
            maps_BChw: of the layer.
            pictures: B×3×H×W, of which everything else comes: tokens without a place, and paths around the layer.

        Raises:
            UserError: maps of another shape.
        """
        if maps_BChw.shape[1:] != (self.channels, *self.grid):
            rows, columns = self.grid
            raise UserError(
                f"expected maps of shape B×{self.channels}×{rows}×{columns} for {self.layer}, got {tuple(maps_BChw.shape)}"
            )
        info = self.model.layer(self.layer)

        calls = 0

        def changed(own: Tensor) -> Tensor:
            values_BCD = channels_first(own, info.layout)
            given = maps_BChw.flatten(2).to(values_BCD)
            return as_laid_out(torch.cat([values_BCD[:, :, : self.prefix], given], 2), info)

        def put_back(module: object, args: object, output: object) -> object:
            nonlocal calls
            calls += 1  # a module that runs several times is read at its last call
            return with_first(output, changed) if calls == info.calls else None

        module = dict(self.model.module.named_modules())[self.layer]
        handle = module.register_forward_hook(put_back)
        try:
            return self.model(self.model.fit(pictures.to(self.model.device)))
        finally:
            handle.remove()


def position_cosines(found_BChw: Tensor, wanted_BChw: Tensor) -> Tensor:
    """Cosines B×h×w of the vectors at each position; 0 where one of the two is 0, 1 where both are.

    Raises:
        UserError: maps of different shapes.
    """
    if found_BChw.shape != wanted_BChw.shape or found_BChw.ndim != 4:
        raise UserError(
            f"expected two maps B×C×h×w alike, got {tuple(found_BChw.shape)} and {tuple(wanted_BChw.shape)}"
        )
    cosines = (normalize(found_BChw, dim=1, eps=1e-30) * normalize(wanted_BChw, dim=1, eps=1e-30)).sum(1)
    return cosines.masked_fill((found_BChw == 0).all(1) & (wanted_BChw == 0).all(1), 1.0)


def superpixel_cosine(found_BChw: Tensor, wanted_BChw: Tensor) -> Tensor:
    """Mean over positions of the cosine of the vectors there, B: the cos-sim of FeatInv, on whatever it is given."""
    return position_cosines(found_BChw, wanted_BChw).mean((1, 2))
