"""Families of features: which features are on where others are, and which of these relations say more than how common they are.

D_ij = Σ_t a_i(t)·[a_j(t) > θ] / Σ_t a_i(t) is the share of feature i's activation at positions where j is on (Insight/CFM,
arXiv:2601.13798). A feature that is on nearly everywhere has a large D_ij with all others. So the lift D_ij / P(j), against
the share of positions where j is on, counts too. j is a parent of i where D_ij and the lift are large and D_ji is not; where
both D are large, i and j are duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.units.dictionary import Dictionary

ON = 1e-3
"""θ, above which a feature is on."""
LARGE = 0.75
"""D from which a feature goes with another."""
LIFT = 1.5
"""How many times more often than anywhere the other must be on."""
LEAST = 10
"""Positions where a feature must be on to have relations."""
MOST_FEATURES = 8192
"""K² numbers are held: at most 512 MB."""


@dataclass(frozen=True, kw_only=True)
class Relations:
    """What features of a dictionary have to do with each other on some values.

    Attributes:
        weighted_KK: D.
        on_K: share of the positions where each feature is on, P.
        count_K: positions where each feature is on.
    """

    weighted_KK: Tensor
    on_K: Tensor
    count_K: Tensor

    @property
    def lift_KK(self) -> Tensor:
        """D_ij / P(j): 1 where j is on with i as often as anywhere."""
        return self.weighted_KK / self.on_K.clamp_min(1e-12)

    def _goes_with(self) -> Tensor:
        enough = self.count_K >= LEAST
        found = (self.weighted_KK >= LARGE) & (self.lift_KK >= LIFT) & enough[:, None] & enough
        return found.fill_diagonal_(False)

    def parents(self) -> tuple[tuple[int, ...], ...]:
        """Returns the parents of each feature, the one that is on least often first."""
        found = self._goes_with() & (self.weighted_KK.T < LARGE)
        order = self.on_K.argsort()
        return tuple(tuple(int(j) for j in order[row[order]]) for row in found)

    def duplicates(self) -> list[tuple[int, int]]:
        """Returns pairs of features that are on at the same places."""
        both = self._goes_with()
        return [(int(i), int(j)) for i, j in (both & both.T).triu().nonzero()]


@torch.no_grad()
def relations(dictionary: Dictionary, batches: Iterable[Tensor]) -> Relations:
    """Measures how features go together, over all positions of batches of values B×C×D.

    Args:
        dictionary: the dictionary.
        batches: values of its layer.

    Raises:
        UserError: too many features, or no values.
    """
    count = len(dictionary.names)
    if count > MOST_FEATURES:
        raise UserError(f"{count} features have too many relations to hold; at most {MOST_FEATURES} can be compared")
    together = torch.zeros(count, count, dtype=torch.float64)
    total, on, positions = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64), 0
    for values_BCD in batches:
        for one in values_BCD.split(4):
            active_KN = dictionary.activations(one).clamp_min(0).transpose(0, 1).flatten(1).cpu()
            is_on_KN = (active_KN > ON).float()
            together += (active_KN @ is_on_KN.T).double()
            total += active_KN.sum(1).double()
            on += is_on_KN.sum(1).double()
            positions += active_KN.shape[1]
    if not positions:
        raise UserError("there are no values to measure relations on")
    weighted_KK = (together / total.clamp_min(1e-12)[:, None]).float()
    return Relations(weighted_KK=weighted_KK, on_K=(on / positions).float(), count_K=on.long())
