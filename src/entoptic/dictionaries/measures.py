"""What is measured of a sparse dictionary: explained variance in both definitions, L0, density, stability."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.dictionaries.stream import ROUNDING
from entoptic.errors import UserError
from entoptic.units.factors import NonNegative
from entoptic.units.sparse import Sparse


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well a dictionary reconstructs values of photos.

    Attributes:
        explained: 1 - mean |ŷ - y|² / mean |y - ȳ|², a ratio of means over all positions.
        explained_each: 1 - mean of |ŷ - y|² / |y - ȳ|², a mean of ratios, which positions near the mean dominate.
        l0: mean number of active features of a position.
        l0_alone: the same of features read alone, above their thresholds.
        alive: share of features that are active somewhere on these photos.
        dense: share of features that are active at more than a tenth of the positions.
        positions: number of positions.
    """

    explained: float
    explained_each: float
    l0: float
    l0_alone: float
    alive: float
    dense: float
    positions: int

    def to_json(self) -> dict[str, Any]:
        """Returns them with few digits."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@torch.no_grad()
def measure_fit(
    dictionary: Sparse | NonNegative, values_BCD: Tensor, targets_BOD: Tensor, *, at_once: int = 8
) -> tuple[Fit, Tensor]:
    """Measures a dictionary on values of photos.

    Args:
        dictionary: the dictionary.
        values_BCD: of the layer that it reads.
        targets_BOD: of the layer that it writes.
        at_once: photos whose codes are in memory together.

    Returns:
        The fit, and how often each feature is active (read alone), K shares of the positions.

    Raises:
        UserError: it reconstructs values that are not finite, or the targets are the same everywhere.
    """
    mean_O = targets_BOD.double().mean((0, 2))
    error = spread = ratios = on = 0.0
    alone_K, count = torch.zeros(len(dictionary), dtype=torch.float64), 0
    for values, targets in zip(values_BCD.split(at_once), targets_BOD.split(at_once)):
        codes = dictionary.encode(values)
        errors_BD = (dictionary.decode(codes) - targets).double().square().sum(1)
        spreads_BD = (targets.double() - mean_O[:, None]).square().sum(1)
        error, spread = error + float(errors_BD.sum()), spread + float(spreads_BD.sum())
        ratios += float((errors_BD / spreads_BD.clamp_min(1e-12)).sum())
        on += float((codes > 0).sum())
        alone_K += (dictionary.activations(values) > 0).double().sum((0, 2)).cpu()
        count += errors_BD.numel()
    if not math.isfinite(error) or not math.isfinite(ratios):
        raise UserError(
            "the dictionary reconstructs values that are not finite: its numbers are too large for this layer"
        )
    if spread <= ROUNDING**2 * float(targets_BOD.double().square().sum()):
        raise UserError("these photos have the same values at every position, of which no share can be explained")
    density_K = alone_K / count
    fit = Fit(
        explained=1 - error / max(spread, 1e-30), explained_each=1 - ratios / count, l0=on / count,
        l0_alone=float(density_K.sum()), alive=float((density_K > 0).double().mean()),
        dense=float((density_K > 0.1).double().mean()), positions=count,
    )  # fmt: skip
    return fit, density_K.float()


def stability(first: Sparse | NonNegative, second: Sparse | NonNegative, alive_K: Tensor | None = None) -> float:
    """Returns how alike two dictionaries are: the mean over the features of the first of the largest cosine in the second.

    Args:
        first: the dictionary.
        second: of the same layer, trained with another seed.
        alive_K: which features of the first count; None for all.

    Raises:
        UserError: they write values of another width.
    """
    if first.decoder.shape[1] != second.decoder.shape[1]:
        raise UserError(
            f"dictionaries of {first.decoder.shape[1]} and {second.decoder.shape[1]} channels cannot be compared"
        )
    a, b = (d.decoder / d.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12) for d in (first, second))
    best_K = (a @ b.T).amax(1)
    return float(best_K[alive_K].mean() if alive_K is not None else best_K.mean())
