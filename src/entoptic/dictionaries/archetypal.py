"""Archetypal autoencoders: each decoder row is near a mixture of data points (Fel et al. 2025, arXiv:2502.12892).

A row is Σ_j w_j c_j + λ with weights w ≥ 0 of sum 1 over candidate points c, and |λ| ≤ `DELTA`. So features cannot wander far from
what photos hold, and two trainings find more alike ones. The layer of rows is overcomplete's; codes are those of BatchTopK.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from entoptic.dictionaries.batch_topk import codes
from entoptic.dictionaries.network import Kind, SparseNet, count_threshold, reconstruction, unit_rows
from entoptic.dictionaries.overcomplete_parts import overcomplete_part

POINTS = 2048
"""Candidate points, at least as many as features."""
DELTA = 0.1
"""Longest λ, where the mean square length of the data is 1."""


class ArchetypalNet(SparseNet):
    """The network of archetypal autoencoders."""

    def start_decoder(self, y_KO: Tensor, y_NO: Tensor) -> None:
        """Takes the rows of the first features as candidate points, and further ones from the data."""
        layer = overcomplete_part("sae.archetypal_dictionary", "RelaxedArchetypalDictionary")
        more = y_NO[: max(0, POINTS - len(y_KO))]
        points = torch.cat([y_KO, more]).detach().clone()
        self.archetypes = layer(y_KO.shape[1], len(y_KO), points, delta=DELTA, use_multiplier=False)

    @property
    def decoder(self) -> Tensor:  # type: ignore[override]
        """K×O, rows of length 1."""
        return unit_rows(self.archetypes.get_dictionary())

    def before_update(self, *_: Any) -> None:
        """Does nothing: the length of a row has no effect on what is decoded."""

    @torch.no_grad()
    def after_update(self, *_: Any) -> None:
        """Sets what waits for the step; a hook of the optimiser. The constraints are put back as the rows are read."""
        self.set_pending()


ARCHETYPAL = Kind(
    name="archetypal", paper="arXiv:2502.12892", codes=codes, loss=reconstruction, thresholds=count_threshold,
    keeps="batchtopk", network=ArchetypalNet,
)  # fmt: skip
