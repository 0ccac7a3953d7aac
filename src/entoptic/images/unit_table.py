"""`UnitTable`: reference statistics of every unit of a layer, small enough to ship.

All units of the layer share one basis per matched layer (a truncated singular value decomposition), in 8 bits: one
safetensors file for each layer, beside the packs of `shipped_statistics`, which hold a few units more exactly.

Logits: for each class the weighted mean of sorted features over the photos that drive its logit most, whatever they show.
The weights follow the score and are as uneven as a stated effective number of photos asks for, so that photos of the class
itself count most where there are any. Channels: the mean over the photos that drive a channel most, of features weighted by
its relevance, as `References.target` makes it.

`python -m entoptic.images.make_unit_table` makes the files.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from entoptic.images.shipped_statistics import between, kept_ranks
from entoptic.models.model import LOGITS
from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entoptic.models.card import Card

KNOTS = 33
"""Largest number of ranks that are kept of a row of plain sorted values."""
UPPER_KNOTS = 64
"""Largest number of ranks that are kept of a row of values weighted by relevance; a few of them coincide."""
MARK = "entoptic-unit-table"
"""Name of the description in the file's metadata."""
ENDING = ".units.safetensors"
"""What the names of the shipped files end with."""


def table_ranks(length: int, relevance: str) -> Tensor:
    """Chooses the ranks among 0 … length-1 at which a table keeps sorted values.

    Plain values: evenly, denser towards both ends. Values weighted by relevance are near 0 but for a few, so their ranks lie
    at geometric distances from both ends: .6 % of their spread is lost where as many of the plain kind lose 37 % (two
    channels, read at blocks.1).

    Args:
        length: number of positions of the layer.
        relevance: kind of relevance that values are weighted by, or "none".
    """
    if relevance == "none":
        return kept_ranks(length, KNOTS)
    if length <= UPPER_KNOTS:
        return torch.arange(length)
    steps = torch.logspace(0, math.log10(length / 2), UPPER_KNOTS // 2, dtype=torch.float64).round().long()
    return torch.cat([steps - 1, length - steps]).unique()


def class_weights(scores_N: Tensor, effective: float, most: int) -> Tensor:
    """Returns weights of photos that follow a class's scores: softmax(β·s) over the `most` strongest.

    β is the least that brings the effective number of photos, 1 / Σ w², down to `effective`. Of all weights with the same mean
    score, these are nearest to equal ones (least Kullback-Leibler divergence).

    Args:
        scores_N: of N photos.
        effective: wanted effective number, ≥ 1.
        most: number of photos that can count.

    Returns:
        N weights that sum to 1; equal ones where there are no more than `effective` photos.
    """
    order = scores_N.topk(min(most, len(scores_N))).indices
    strongest = scores_N[order].double()
    low, high = 0.0, 1.0
    if len(order) <= effective or float(strongest[0] - strongest[-1]) <= 0:
        high = 0.0
    while high and _effective(torch.softmax(high * strongest, 0)) > effective and high < 1e6:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _effective(torch.softmax(middle * strongest, 0)) > effective else (low, middle)
    weights_N = torch.zeros(len(scores_N))
    weights_N[order] = torch.softmax(high * strongest, 0).float()
    return weights_N


def _effective(weights_N: Tensor) -> float:
    return 1 / float(weights_N.square().sum())


@dataclass(frozen=True)
class Factors:
    """Rows of a table as a mean and a few directions.

    Attributes:
        mean_F: mean row.
        basis_rF: int8 directions.
        scale_r: what each is multiplied by.
        rows_nr: coordinates of each row.
    """

    mean_F: Tensor
    basis_rF: Tensor
    scale_r: Tensor
    rows_nr: Tensor

    def row(self, i: int) -> Tensor:
        """Returns row i, F float32."""
        return self.mean_F.float() + (self.rows_nr[i].float() * self.scale_r) @ self.basis_rF.float()


def factorise(table_nF: Tensor, rank: int) -> Factors:
    """Returns the best approximation of a table by a mean and `rank` directions, rounded to 8 bits.

    The rows' coordinates are those of least squares on the rounded directions.
    """
    mean_F = table_nF.mean(0).half()
    centred_nF = table_nF - mean_F.float()
    _, _, right_rF = torch.linalg.svd(centred_nF, full_matrices=False)
    right_rF = right_rF[:rank]
    scale_r = (right_rF.abs().amax(1) / 127).clamp_min(1e-30)
    basis_rF = (right_rF / scale_r[:, None]).round().to(torch.int8)
    rounded_rF = basis_rF.float() * scale_r[:, None]
    rows_nr = torch.linalg.lstsq(rounded_rF.T, centred_nF.T).solution.T
    return Factors(mean_F, basis_rF, scale_r, rows_nr.half())


@dataclass(frozen=True, kw_only=True)
class UnitTable:
    """A file in memory.

    Attributes:
        layer: whose units it holds, "logits" for classes.
        factors: per tap, with one row per unit; a row is C×K sorted values at K ranks.
        channels: C per tap.
        photos_n: number of photos behind each unit, for classes the effective number, rounded.
        own_n: number of photos of each class itself among those that count; zeros for channels.
        importance: per tap n×C, VITAL's ū, where values are weighted by relevance.
        relevance: kind of relevance that values are weighted by, or "none".
        meta: weights_sha256, card (preprocessing), model, photos (number), recipe.
        sha256: of the file.
    """

    layer: str
    factors: dict[str, Factors]
    channels: dict[str, int]
    photos_n: Tensor
    own_n: Tensor
    importance: dict[str, Tensor]
    relevance: str
    meta: dict[str, Any]
    sha256: str = ""

    @property
    def layers(self) -> list[str]:
        """Taps that are held."""
        return list(self.factors)

    @property
    def borrowed(self) -> bool:
        """Whether photos of any class stand in for those of a class."""
        return self.layer == LOGITS

    def target(self, index: int, tap: Tap, length: int) -> Tensor | None:
        """Returns the mean sorted values C×`length` of a unit, or None where the layer is not held."""
        factors = self.factors.get(str(tap))
        if factors is None:
            return None
        kept_CK = factors.row(index).unflatten(0, (self.channels[str(tap)], -1))
        return between(kept_CK.sort(1).values, table_ranks(length, self.relevance), length)

    def importance_of(self, index: int, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """Returns C weights of the channels per tap, for a unit whose values are weighted by relevance."""
        return {tap: self.importance[str(tap)][index].float() for tap in taps if str(tap) in self.importance}

    def describe(self, index: int) -> str:
        """Returns what stands for a unit, for people."""
        if not self.borrowed:
            return f"shipped statistics of the {int(self.photos_n[index])} photos that drive the unit most"
        own = int(self.own_n[index])
        whose = f"{own} of them of the class" if own else "none of them of the class"
        return f"shipped statistics of about {int(self.photos_n[index])} photos that drive the class most, {whose}"


def find_table(card: Card, layer: str, relevance: str | None = None) -> UnitTable | None:
    """Finds the shipped table of a layer that was made with exactly these weights and this preprocessing.

    Args:
        card: of the network.
        layer: whose units.
        relevance: kind of relevance that its values are weighted by, or "none"; None takes the first table of the layer.
    """
    for held in _shipped():
        same = held.meta["weights_sha256"] == card.identity and held.meta["card"] == card.preprocessing_json()
        if held.layer == layer and same and relevance in (None, held.relevance):
            return held
    return None


@lru_cache
def _shipped() -> tuple[UnitTable, ...]:
    found = []
    for file in sorted(resources.files("entoptic").joinpath("data").iterdir(), key=lambda file: file.name):
        if file.name.endswith(ENDING):
            with resources.as_file(file) as path:
                found.append(read_table(path))
    return tuple(found)


def read_table(path: Path) -> UnitTable:
    """Reads the file that `write_table` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method of safetensors)
        meta = json.loads(file.metadata()[MARK])
    factors = {
        layer: Factors(*(tensors[f"{part}|{layer}"] for part in ("mean", "basis", "scale", "rows")))
        for layer in meta["layers"]
    }
    importance = {name.partition("|")[2]: value for name, value in tensors.items() if name.startswith("importance|")}
    return UnitTable(
        layer=meta["layer"], factors=factors, channels=meta["channels"], photos_n=tensors["photos"], own_n=tensors["own"],
        importance=importance, relevance=meta["relevance"], meta=meta,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )  # fmt: skip


def write_table(path: Path, table: UnitTable) -> None:
    """Writes a table; its `sha256` is not used."""
    from safetensors.torch import save_file

    tensors = {"own": table.own_n.to(torch.int16), "photos": table.photos_n.to(torch.int16)}
    tensors |= {f"importance|{layer}": weights.half() for layer, weights in table.importance.items()}
    for layer, held in table.factors.items():
        tensors |= {
            f"mean|{layer}": held.mean_F, f"basis|{layer}": held.basis_rF, f"scale|{layer}": held.scale_r,
            f"rows|{layer}": held.rows_nr,
        }  # fmt: skip
    meta = table.meta | {
        "layer": table.layer, "layers": list(table.factors), "channels": table.channels, "relevance": table.relevance,
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={MARK: json.dumps(meta)})
