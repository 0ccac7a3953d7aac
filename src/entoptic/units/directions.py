"""Sets of directions of one layer as a dictionary: a feature is d·φ, which may be negative."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, counted


@dataclass(frozen=True, eq=False, kw_only=True)
class Directions:
    """K directions of a layer, as a `Dictionary`. Its parts are projections, which overlap where directions do.

    Attributes:
        directions: K×C, of any length; a unit's score is d·φ, as that of `dir(FILE#NAME)`.
        layer: see `Dictionary`.
        model_sha256: see `Dictionary`.
        names: see `Dictionary`.
        found: where they come from, JSON-able.
    """

    directions: Tensor
    layer: str = ""
    model_sha256: str = ""
    names: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    lossless = False

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or not len(self.directions):
            raise UserError(f"directions have shape {tuple(self.directions.shape)}, expected K×C with K of at least 1")
        if not bool(self.directions.isfinite().all()) or not bool(self.directions.norm(dim=1).all()):
            raise UserError("a direction is 0 or not finite")
        if not self.names:
            object.__setattr__(self, "names", [f"direction {k}" for k in range(len(self.directions))])
        if len(self.names) != len(self.directions):
            raise UserError(f"{counted(len(self.directions), 'direction')} but {counted(len(self.names), 'name')}")

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def channels(self) -> int:
        """Number of channels of the layer."""
        return self.directions.shape[1]

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes d·φ of every direction: B×K×D."""
        return self.directions.to(maps_BCD) @ maps_BCD

    def activation(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes d·φ of one direction, without the others: B×D."""
        return self.directions[k].to(maps_BCD) @ maps_BCD

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes the projection on one direction: B×C×D."""
        own = self.directions[k].to(maps_BCD)
        return (own / own.square().sum())[:, None] * self.activation(maps_BCD, k)[:, None]

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes the projections on all directions: K×B×C×D."""
        return torch.stack([self.part(maps_BCD, k) for k in range(len(self))])

    @classmethod
    def of_saved(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Directions:
        """Makes it again from what `tensors` and `about` returned."""
        return cls(
            directions=tensors["directions"].float(), layer=about["layer"], model_sha256=about["model_sha256"],
            names=about["names"], found=about.get("found", {}),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns all numbers, by name."""
        return {"directions": self.directions}

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able; see `Saved`."""
        return {
            "kind": "directions", "layer": self.layer, "model_sha256": self.model_sha256, "names": self.names,
            "lossless": self.lossless, "found": self.found,
        }  # fmt: skip
