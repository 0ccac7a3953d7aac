"""What is done to a photo's map before it is inverted: nothing, a mixture with another photo's, a part put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from entoptic.errors import UserError, nearest
from entoptic.inversion.arithmetic import MIXINGS, compose, interpolate, region_mask
from entoptic.inversion.maps import FeatureMaps
from entoptic.runs.inversions.photos import Source, readable


@dataclass(frozen=True)
class Edit:
    """What is done to a photo's map: nothing, `kind` "mix" or "paste" with another photo's."""

    kind: str = ""
    other: Source | None = None
    weight: float = 0.0
    mixing: str = "linear"
    region: tuple[int, ...] = ()

    def apply(self, a_Chw: Tensor, b_Chw: Tensor) -> Tensor:
        """The edited map."""
        if self.kind == "mix":
            return interpolate(a_Chw, b_Chw, self.weight, self.mixing)
        return compose(a_Chw, b_Chw, region_mask((a_Chw.shape[1], a_Chw.shape[2]), self.region))

    def config(self) -> dict[str, Any]:
        """For the sidecar and the key."""
        if self.other is None:
            return {}
        found = {self.kind: self.other.path, f"{self.kind}_sha256": self.other.sha256}
        if self.kind == "mix":
            return found | {"weight": self.weight, "mixing": self.mixing}
        return found | {"region": list(self.region)}

    @classmethod
    def of(cls, config: dict[str, Any]) -> Edit:
        """The edit that `config` wrote."""
        for kind in ("mix", "paste"):
            if kind in config:
                other = Source(config[kind], config[f"{kind}_sha256"])
                region = tuple(config.get("region") or ())
                return cls(kind, other, config.get("weight", 0.0), config.get("mixing", "linear"), region)
        return cls()


def edits_of(
    maps: FeatureMaps, mix: Any, weights: Any, mixing: str, paste: Any, region: Any
) -> list[Edit]:  # fmt: skip
    """The edits that a request asks for: one that does nothing, a mixture for each weight, or a part put in.

    Raises:
        UserError: options that do not go together, or a second photo that cannot be read.
    """
    if mix is not None and paste is not None:
        raise UserError("a map is either mixed with another (mix) or has a part of it put in (paste); give one of them")
    if region is not None and paste is None:
        raise UserError("a region was given without the photo to paste there; give --paste PHOTO")
    if mix is not None:
        if mixing not in MIXINGS:
            raise UserError(f'no mixing "{mixing}"; there are {", ".join(MIXINGS)}{nearest(mixing, MIXINGS)}')
        other = readable(mix)
        shares = _numbers(weights, "weights", "0,.25,.5,.75,1")
        return [Edit("mix", other, weight, mixing) for weight in dict.fromkeys(shares)]
    if paste is not None:
        if region is None:
            rows, columns = maps.grid
            raise UserError(f"paste needs a region of the map, top,left,bottom,right in its {rows}×{columns} cells")
        cells = _numbers(region, "region", "0,0,3,3")
        if any(cell != int(cell) for cell in cells):
            raise UserError(f"a region is in whole cells, got {','.join(f'{c:g}' for c in cells)}")
        region_mask(maps.grid, cells)
        return [Edit("paste", readable(paste), region=tuple(int(cell) for cell in cells))]
    return [Edit()]


def _numbers(given: Any, what: str, example: str) -> list[float]:
    try:
        parts = given.split(",") if isinstance(given, str) else list(given)
        found = [float(part) for part in parts]
    except (TypeError, ValueError):
        found = []
    if not found or not all(np.isfinite(found)):
        raise UserError(f"{what} are numbers with commas between them, such as {example}, got {given!r}")
    return found
