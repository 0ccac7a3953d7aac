"""Lossless splits: a unit c = Σ_j w_j·x_j + b as a sum of sub-units u_k = Σ_j M_kj·w_j·x_j + b/K, with Σ_k M_kj = 1.

M is a partition of unity over the inputs j of the unit's own linear layer: each sub-unit reads the inputs that one of the
unit's causes comes from. The sub-units add up to the unit, so nothing is lost and nothing is trained. The split is a view:
it reads what goes into the layer, and the network runs as before, bit by bit.

Partitions that labels give follow Hesse et al. (arXiv:2504.12939). Partitions without labels are a reconstruction from the
abstract of ELUDe (arXiv:2605.31304), not from its full text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, counted
from entoptic.units.windows import encode_windows


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Sub-units of one or several units of a linear layer, as a `Dictionary`.

    Attributes:
        weights: N×C×k×k of the N units' own rows in their layer.
        biases: N.
        partition: K×C; the rows of one unit add up to 1 in every column.
        of_unit: K, the number of each sub-unit's unit.
        units: N, channels of the units in `writes`.
        layer: whose values go into the linear layer.
        writes: the layer whose units are split, before any activation function.
        padding: zeros around the map.
        grid: rows and columns of the map that a window of positions needs.
        model_sha256: see `Dictionary`.
        names: see `Dictionary`.
        found: how it was found, JSON-able.
    """

    weights: Tensor
    biases: Tensor
    partition: Tensor
    of_unit: Tensor
    units: list[int]
    layer: str = ""
    writes: str = ""
    padding: int = 0
    grid: tuple[int, int] = (1, 1)
    model_sha256: str = ""
    names: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    lossless = True

    def __post_init__(self) -> None:
        count, channels = self.partition.shape
        if self.weights.ndim != 4 or self.weights.shape[1] != channels or len(self.weights) != len(self.units):
            raise UserError(
                f"weights have shape {tuple(self.weights.shape)}, expected {len(self.units)}×{channels}×k×k"
            )
        if tuple(self.biases.shape) != (len(self.units),):
            raise UserError(f"biases have shape {tuple(self.biases.shape)}, expected {len(self.units)}")
        if self.padding not in (0, self.weights.shape[2] // 2):
            raise UserError(f"a window of {self.weights.shape[2]} positions cannot have a padding of {self.padding}")
        if tuple(self.of_unit.shape) != (count,) or sorted(set(self.of_unit.tolist())) != list(range(len(self.units))):
            raise UserError("each sub-unit belongs to one of the units, and each unit has sub-units")
        total = torch.zeros(len(self.units), channels, dtype=torch.float64)
        total.index_add_(0, self.of_unit.cpu(), self.partition.double().cpu())
        if not torch.allclose(total, torch.ones_like(total), atol=1e-5):
            raise UserError("the partition of a unit does not add up to 1, so its sub-units would not add up to it")
        if not self.names:
            numbers = [self.of_unit[:k].eq(int(self.of_unit[k])).sum().item() for k in range(count)]
            names = [f"{self.writes}:{self.units[int(n)]} part {i}" for n, i in zip(self.of_unit, numbers)]
            object.__setattr__(self, "names", names)
        if len(self.names) != count:
            raise UserError(f"{counted(count, 'sub-unit')} but {counted(len(self.names), 'name')}")

    def __len__(self) -> int:
        return len(self.partition)

    @property
    def channels(self) -> int:
        """Number of channels of the layer that is read."""
        return self.partition.shape[1]

    def siblings(self, k: int) -> list[int]:
        """Returns the numbers of all sub-units of the unit that sub-unit k belongs to."""
        return (self.of_unit == self.of_unit[k]).nonzero()[:, 0].tolist()

    def _kernel(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the masked weights and the shares of the biases of sub-units."""
        owner = self.of_unit[rows]
        shared = torch.bincount(self.of_unit, minlength=len(self.units))[owner]
        return self.weights[owner] * self.partition[rows][:, :, None, None], self.biases[owner] / shared

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes u of every sub-unit, before any activation function: B×K×D."""
        kernel, bias = self._kernel(torch.arange(len(self)))
        return encode_windows(maps_BCD, kernel, bias, self.grid, padding=self.padding)

    def activation(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes u of one sub-unit, without the others: B×D."""
        kernel, bias = self._kernel(torch.tensor([k]))
        return encode_windows(maps_BCD, kernel, bias, self.grid, padding=self.padding)[:, 0]

    def reconstruct(self, maps_BCD: Tensor) -> Tensor:
        """Computes the units as the sums of their sub-units: B×N×D."""
        active_BKD = self.activations(maps_BCD)
        batch, _, positions = active_BKD.shape
        total = active_BKD.new_zeros(batch, len(self.units), positions)
        return total.index_add_(1, self.of_unit.to(total.device), active_BKD)

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes what one sub-unit contributes to the values of its unit, B×1×D."""
        return self.activation(maps_BCD, k)[:, None]

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes what each sub-unit contributes to the value of its unit, K×B×1×D."""
        return self.activations(maps_BCD).transpose(0, 1)[:, :, None]

    @classmethod
    def of_saved(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Split:
        """Makes it again from what `tensors` and `about` returned."""
        rows, columns = about.get("grid", (1, 1))
        return cls(
            weights=tensors["weights"].float(), biases=tensors["biases"].float(),
            partition=tensors["partition"].float(), of_unit=tensors["of_unit"].long(),
            units=[int(u) for u in about["units"]], layer=about["layer"], writes=about["writes"],
            padding=int(about.get("padding", 0)), grid=(int(rows), int(columns)), model_sha256=about["model_sha256"],
            names=about["names"], found=about.get("found", {}),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns all numbers, by name."""
        return {
            "weights": self.weights, "biases": self.biases, "partition": self.partition, "of_unit": self.of_unit,
        }  # fmt: skip

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able; see `Saved`."""
        return {
            "kind": "split", "layer": self.layer, "writes": self.writes, "units": self.units, "padding": self.padding,
            "grid": list(self.grid), "model_sha256": self.model_sha256, "names": self.names, "lossless": self.lossless,
            "found": self.found,
        }  # fmt: skip
