"""Non-negative factors: values φ ≥ 0 as sums z D of rows D ≥ 0 with codes z ≥ 0 (NMF)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, counted

STEPS = 100
"""Of the accelerated projected gradient that finds codes; enough for three digits on the dictionaries that were tried."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NonNegative:
    """Factors of one layer, as a `Dictionary`.

    A code is the least-squares solution with z ≥ 0 at its position, so it depends on all factors. It is found by a fixed number of
    steps, through which gradients pass.

    Attributes:
        decoder: K×C rows D.
        layer: whose values are factorised.
        model_sha256: see `Dictionary`.
        names: see `Dictionary`.
        parents: as in `Sparse`.
        found: how it was found and what was measured, JSON-able.
    """

    decoder: Tensor
    layer: str = ""
    model_sha256: str = ""
    names: list[str] = field(default_factory=list)
    parents: tuple[tuple[int, ...], ...] = ()
    found: dict[str, Any] = field(default_factory=dict)

    lossless = False
    writes = ""

    def __post_init__(self) -> None:
        if self.decoder.ndim != 2 or not bool(self.decoder.isfinite().all()) or bool((self.decoder < 0).any()):
            raise UserError("factors must be K×C numbers that are finite and not negative")
        count = len(self.decoder)
        if self.names and len(self.names) != count:
            raise UserError(f"{counted(count, 'factor')} but {counted(len(self.names), 'name')}")
        if self.parents and len(self.parents) != count:
            raise UserError(f"{counted(count, 'factor')} but parents of {len(self.parents)}")
        if not self.names:
            object.__setattr__(self, "names", [f"feature {k}" for k in range(count)])

    def __len__(self) -> int:
        return len(self.decoder)

    def __str__(self) -> str:
        return f"{counted(len(self), 'non-negative factor')} of {self.layer or 'a layer'}"

    @property
    def channels(self) -> int:
        """Number of channels of the layer."""
        return self.decoder.shape[1]

    @cached_property
    def _steepest(self) -> float:
        """The largest eigenvalue of D Dᵀ: a step of its inverse never overshoots."""
        return max(float(torch.linalg.matrix_norm(self.decoder.double(), 2)) ** 2, 1e-12)

    def encode(self, maps_BCD: Tensor) -> Tensor:
        """Computes the codes argmin |φ - z D|² with z ≥ 0: B×K×D."""
        rows_KC = self.decoder.to(maps_BCD.float())
        gram_KK, wanted_BKD = rows_KC @ rows_KC.T, rows_KC @ maps_BCD.float()
        codes = before = wanted_BKD.new_zeros(wanted_BKD.shape)
        momentum = 1.0
        for _ in range(STEPS):
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = codes + (momentum - 1) / following * (codes - before)
            before, momentum = codes, following
            codes = (ahead - (gram_KK @ ahead - wanted_BKD) / self._steepest).relu()
        return codes

    def decode(self, codes_BKD: Tensor) -> Tensor:
        """Computes z D: B×C×D."""
        return self.decoder.to(codes_BKD).T @ codes_BKD

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes how strong each factor is: B×K×D, the codes."""
        return self.encode(maps_BCD)

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes what one factor contributes: B×C×D."""
        return self.decoder[k].to(maps_BCD.float())[:, None] * self.encode(maps_BCD)[:, k : k + 1]

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes what each factor contributes: K×B×C×D."""
        return torch.einsum("kc,bkd->kbcd", self.decoder.to(maps_BCD.float()), self.encode(maps_BCD))

    def part_norms(self, maps_BCD: Tensor) -> Tensor:
        """Computes the norm of each part over channels and positions, without the parts: B×K."""
        codes_BKD = self.encode(maps_BCD)
        return codes_BKD.norm(dim=2) * self.decoder.to(codes_BKD).norm(dim=1)

    @classmethod
    def of_saved(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> NonNegative:
        """Makes it again from what `tensors` and `about` returned."""
        return cls(
            decoder=tensors["decoder"].float(), layer=about["layer"], model_sha256=about["model_sha256"], names=about["names"],
            parents=tuple(tuple(int(p) for p in one) for one in about.get("parents", ())), found=about.get("found", {}),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns all numbers, by name."""
        return {"decoder": self.decoder}

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able; see `Saved`."""
        return {
            "kind": "nmf", "layer": self.layer, "model_sha256": self.model_sha256, "names": self.names,
            "parents": [list(one) for one in self.parents], "lossless": self.lossless, "found": self.found,
        }  # fmt: skip

    def with_(self, **changes: Any) -> NonNegative:
        """Returns a copy with other attributes."""
        return replace(self, **changes)
