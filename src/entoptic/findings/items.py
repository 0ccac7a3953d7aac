"""From scores to items: which units are on in which photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entoptic.errors import UserError, counted

LEAST, MOST = 0.005, 0.6
"""Items on in a smaller or larger share of the rows are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """Units that are on in some photos and off in others.

    Attributes:
        numbers: of the units in their layer, K.
        thresholds: K; a unit is on where its score is above.
        on: N×K bool.
        left_out: units that are on in too few or too many rows.
    """

    numbers: tuple[int, ...]
    thresholds: np.ndarray
    on: np.ndarray
    left_out: int

    def __len__(self) -> int:
        return len(self.numbers)


def thresholds_of(scores: np.ndarray, quantile: float, floor: float = -np.inf) -> np.ndarray:
    """Returns the threshold of each unit: a quantile of its own scores over all rows, whatever their group.

    Args:
        scores: N×U.
        quantile: in (0, 1).
        floor: smallest threshold; 0 for features of a dictionary, which are off at 0.
    """
    return np.maximum(np.quantile(np.nan_to_num(scores, posinf=0, neginf=0), quantile, axis=0, method="higher"), floor)


def make_items(scores: np.ndarray, thresholds: np.ndarray, what: str) -> Items:
    """Says in which rows each unit is on, and leaves out those that are on nearly never or nearly always.

    Args:
        scores: N×U; a score that is not a number is off.
        thresholds: U.
        what: the units, for messages.

    Raises:
        UserError: no unit is left.
    """
    with np.errstate(invalid="ignore"):
        on = scores > thresholds
    share = on.mean(0)
    kept = np.nonzero((share >= LEAST) & (share <= MOST) & (on.sum(0) > 0))[0]
    if not len(kept):
        never = int((share < LEAST).sum())
        raise UserError(
            f"none of {what} is on in {100 * LEAST:g} to {100 * MOST:g} % of {counted(len(scores), 'photo')} "
            f"({never} of {len(share)} are never or hardly ever on); give a layer or dictionary that responds to these photos, "
            "or another --quantile"
        )
    return Items(
        numbers=tuple(map(int, kept)), thresholds=thresholds[kept], on=on[:, kept], left_out=len(share) - len(kept)
    )


def near_features(decoder: np.ndarray, numbers: Sequence[int], least: float = 0.5, most: int = 3) -> list[list[int]]:
    """Returns for each item those whose decoder rows point nearly the same way, the nearest first: they may stand for it.

    Args:
        decoder: F×C rows of a dictionary.
        numbers: features that are items, K.
        least: smallest cosine.
        most: of each item.
    """
    rows = decoder[list(numbers)].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -1)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
    return [[int(j) for j in near if cosine[i, j] >= least] for i, near in enumerate(order)]
