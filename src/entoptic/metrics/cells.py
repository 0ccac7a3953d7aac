"""Whether a unit keeps to one part of an object: localisation, coverage and consistency over cells (CAVE, arXiv:2503.13429).

Cells are the same places of an object in every photo: parts, squares of a grid on its surface, any numbering that photos share.
They are given for each photo as masks, or as one map of whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.base.estimates import mean_interval, t_quantile
from entoptic.errors import UserError
from entoptic.metrics.attribution import ATTRIBUTIONS
from entoptic.metrics.evidence import Evidence, missing
from entoptic.metrics.registry import PHOTOS, UNIT, card, metric
from entoptic.units.unit import Unit

LOCALISATION, COVERAGE, CONSISTENCY = "part_localisation", "part_coverage", "cell_consistency"
STRONGEST = 0.9
"""Quantile of a map from which on a pixel belongs to the unit's mask."""
PRESENT = 0.5
"""Share of the photos in which a unit must be present for its consistency over cells."""
LEAST = 3
"""Photos for an interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The cells of an object in one photo.

    Attributes:
        masks: P×H×W bool; a cell that the photo does not show is empty. They may overlap.
    """

    masks: Tensor

    @classmethod
    def of_map(cls, numbers_HW: Tensor, count: int) -> Cells:
        """Returns the cells of a map of whole numbers.

        Args:
            numbers_HW: number of the cell that each pixel belongs to, from 0; a negative number is no cell.
            count: P, how many cells there are in all.

        Raises:
            UserError: not whole numbers below `count`.
        """
        if numbers_HW.ndim != 2 or numbers_HW.is_floating_point():
            raise UserError(
                f"a map of cells must be H×W whole numbers, got {numbers_HW.dtype} {tuple(numbers_HW.shape)}"
            )
        if numbers_HW.numel() and int(numbers_HW.max()) >= count:
            raise UserError(
                f"there are {count} cells, 0 to {count - 1}, and the map names cell {int(numbers_HW.max())}"
            )
        return cls(masks=numbers_HW[None] == torch.arange(count)[:, None, None])


def part_scores(maps_NHW: Tensor, masks_NPHW: Tensor) -> Tensor:
    """Returns how well each map marks each part: (|P∩M| + w·|M|) / (|P| + |M|), N×P; NaN for an empty part or map.

    M is the pixels from the map's 90 % quantile on, and w the share of the map's mass that lies inside the part.

    Args:
        maps_NHW: attributions ≥ 0.
        masks_NPHW: parts, bool.
    """
    flat_NS, parts_NPS = maps_NHW.flatten(1).double(), masks_NPHW.flatten(2).double()
    total_N = flat_NS.sum(1)
    marked_NS = (flat_NS >= flat_NS.quantile(STRONGEST, dim=1, keepdim=True)).double()
    inside_NP = torch.einsum("ns,nps->np", flat_NS, parts_NPS) / total_N.clamp_min(1e-300)[:, None]
    both_NP, marked_N1 = torch.einsum("ns,nps->np", marked_NS, parts_NPS), marked_NS.sum(1, keepdim=True)
    size_NP = parts_NPS.sum(2)
    score = (both_NP + inside_NP * marked_N1) / (size_NP + marked_N1)
    return score.masked_fill((size_NP == 0) | (total_N[:, None] == 0), math.nan)


def coverage(maps_NKHW: Tensor, masks_NPHW: Tensor) -> Tensor:
    """Returns how well the maps of K units together mark all parts together, by the formula of `part_scores`: N.

    M is the union of the units' masks, and w the share of their joint mass inside the union of the parts. Each unit has the
    same mass. NaN where no part is visible or no unit is there.

    Args:
        maps_NKHW: attributions ≥ 0 of K units.
        masks_NPHW: parts, bool.
    """
    flat_NKS, whole_NS = maps_NKHW.flatten(2).double(), masks_NPHW.any(1).flatten(1).double()
    total_NK1 = flat_NKS.sum(2, keepdim=True)
    there_NK1 = total_NK1 > 0
    marked = (flat_NKS >= flat_NKS.quantile(STRONGEST, dim=2, keepdim=True)) & there_NK1
    marked_NS = marked.any(1).double()
    mass_NS = (flat_NKS / total_NK1.clamp_min(1e-300)).sum(1)
    inside_N = (mass_NS * whole_NS).sum(1) / mass_NS.sum(1).clamp_min(1e-300)
    size_N, marked_N = whole_NS.sum(1), marked_NS.sum(1)
    score = ((marked_NS * whole_NS).sum(1) + inside_N * marked_N) / (size_N + marked_N)
    return score.masked_fill((size_N == 0) | ~there_NK1.any(1)[:, 0], math.nan)


def cell_shares(maps_NHW: Tensor, masks_NPHW: Tensor) -> Tensor:
    """Returns the share of a map's mass in each cell, N×P; rows of NaN where no mass lies in any cell.

    Args:
        maps_NHW: attributions ≥ 0.
        masks_NPHW: cells, bool.
    """
    mass_NP = torch.einsum("ns,nps->np", maps_NHW.flatten(1).double(), masks_NPHW.flatten(2).double())
    total_N1 = mass_NP.sum(1, keepdim=True)
    return torch.where(total_N1 > 0, mass_NP / total_N1.clamp_min(1e-300), math.nan)


def share_consistency(shares_NP: Tensor) -> float:
    """Returns 1 − ½·mean over pairs x ≠ x' of ‖Ω(x) − Ω(x')‖₁: 1 where all photos agree, 0 where none share a cell.

    Args:
        shares_NP: Ω, see `cell_shares`; rows of NaN are left out. NaN for fewer than two rows.
    """
    rows = shares_NP[~shares_NP.isnan().any(1)].double()
    n = len(rows)
    if n < 2:
        return math.nan
    return 1 - 0.5 * float(torch.cdist(rows, rows, p=1).sum()) / (n * (n - 1))


def measure_cells(
    unit: Unit, images: Tensor, cells: Sequence[Cells], *, others: Sequence[Unit] = (), attribution: str = "relevance"
) -> list[Evidence]:
    """Measures how a unit keeps to the cells of an object, on photos in which the cells are known.

    Args:
        unit: the unit.
        images: N×3×H×W in [0, 1] of the network's input size.
        cells: of each photo, H×W like the photo.
        others: units that cover the object together with this one, for `part_coverage`.
        attribution: a name in `entoptic.metrics.attribution.ATTRIBUTIONS`.

    Returns:
        `part_localisation` of the part that the unit marks best (its number is in the detail; it is chosen on the same photos),
        `part_coverage`, and `cell_consistency`. n is photos; intervals are Student's and, for pairs, the jackknife's.

    Raises:
        UserError: not one set of cells for each photo, another size, or an unknown attribution.
    """
    if attribution not in ATTRIBUTIONS:
        raise UserError(f'no attribution "{attribution[:80]}"; there are {", ".join(ATTRIBUTIONS)}')
    if len(cells) != len(images) or not len(images):
        raise UserError(f"expected cells for each of {len(images)} photos (at least one), got {len(cells)}")
    sizes = {tuple(one.masks.shape) for one in cells}
    if len(sizes) > 1 or next(iter(sizes))[1:] != tuple(images.shape[2:]):
        found = ", ".join("×".join(map(str, size)) for size in sorted(sizes))
        raise UserError(
            f"cells must be P×{images.shape[2]}×{images.shape[3]} masks, with one P for all photos, got {found}"
        )
    masks = torch.stack([one.masks.bool() for one in cells])
    maps = [ATTRIBUTIONS[attribution](one, images) for one in (unit, *others)]
    return [
        _localisation(part_scores(maps[0], masks)),
        _coverage(coverage(torch.stack(maps, 1), masks), len(maps)),
        _consistency(cell_shares(maps[0], masks)),
    ]


def _localisation(scores_NP: Tensor) -> Evidence:
    means = scores_NP.nanmean(0).nan_to_num(-1.0)
    best = int(means.argmax())
    values = [v for v in scores_NP[:, best].tolist() if v == v]
    if len(values) < LEAST:
        return missing(LOCALISATION, f"the unit and a part are together in {len(values)} photos; {LEAST} are needed")
    low, high = mean_interval(values)
    detail: dict[str, object] = {"part": best, "parts": scores_NP.shape[1]}
    return Evidence(
        LOCALISATION, sum(values) / len(values), len(values), (max(0.0, low), min(1.0, high)), detail=detail
    )


def _coverage(scores_N: Tensor, units: int) -> Evidence:
    values = [v for v in scores_N.tolist() if v == v]
    if len(values) < LEAST:
        return missing(COVERAGE, f"the units and a part are together in {len(values)} photos; {LEAST} are needed")
    low, high = mean_interval(values)
    interval = max(0.0, low), min(1.0, high)
    return Evidence(COVERAGE, sum(values) / len(values), len(values), interval, detail={"units": units})


def _consistency(shares_NP: Tensor) -> Evidence:
    there = ~shares_NP.isnan().any(1)
    n, total = int(there.sum()), len(there)
    if n < PRESENT * total or n < LEAST:
        why = f"the unit is on the object in {n} of {total} photos; half of them and at least {LEAST} are needed"
        return missing(CONSISTENCY, why)
    rows = shares_NP[there]
    value = share_consistency(rows)
    without = [share_consistency(rows[torch.arange(n) != i]) for i in range(n)]
    middle = sum(without) / n
    width = t_quantile(n - 1) * math.sqrt((n - 1) / n * sum((one - middle) ** 2 for one in without))
    detail: dict[str, object] = {"cells": shares_NP.shape[1], "photos": total}
    return Evidence(CONSISTENCY, value, n, (max(0.0, value - width), min(1.0, value + width)), detail=detail)


def _on_photos(_: object) -> Evidence:
    raise TypeError("cells are measured on photos whose cells are known, by measure_cells")


for _name, _title in (
    (LOCALISATION, "It marks one part"), (COVERAGE, "Units cover the object"), (CONSISTENCY, "The same place of the object"),
):  # fmt: skip
    metric(card(_name, _title, targets={UNIT}, needs={PHOTOS}, set_level=True))(_on_photos)
