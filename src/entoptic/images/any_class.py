"""`AnyClass`: reference statistics of every class of a network, small enough to ship.

For each class it holds the weighted mean of sorted features over the photos that drive its logit most, whatever they show.
The weights follow the score and are as uneven as a stated effective number of photos asks for, so that photos of the class
itself count most where there are any. All classes share one basis per layer (a truncated singular value decomposition), in
8 bits: one safetensors file per network, beside the packs of `shipped_statistics`.

`python -m entoptic.images.make_any_class` makes the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from entoptic.images.shipped_statistics import fill
from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from entoptic.models.card import Card

KNOTS = 33
"""Largest number of ranks that are kept of a row of sorted values."""
MARK = "entoptic-any-class"
"""Name of the description in the file's metadata."""


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


@dataclass(frozen=True)
class AnyClass:
    """The file in memory.

    Attributes:
        factors: per tap, with one row per class; a row is C×K sorted values at K ranks.
        channels: C per tap.
        own_n: number of photos of each class itself among those that count.
        photos_n: effective number of photos behind each class, rounded.
        meta: its description: network, preprocessing, photos, recipe.
        sha256: of the file.
    """

    factors: dict[str, Factors]
    channels: dict[str, int]
    own_n: Tensor
    photos_n: Tensor
    meta: dict[str, Any]
    sha256: str

    @property
    def layers(self) -> list[str]:
        """Taps that are held."""
        return list(self.factors)

    def target(self, index: int, tap: Tap, length: int) -> Tensor | None:
        """Returns the weighted mean sorted values C×`length` of a class, or None where the layer is not held."""
        factors = self.factors.get(str(tap))
        if factors is None:
            return None
        kept_CK = factors.row(index).unflatten(0, (self.channels[str(tap)], -1))
        return fill(kept_CK.sort(1).values, length, KNOTS)

    def describe(self, index: int) -> str:
        """Returns what stands for a class, for people."""
        own = int(self.own_n[index])
        whose = f"{own} of them of the class" if own else "none of them of the class"
        return f"shipped statistics of about {int(self.photos_n[index])} photos that drive the class most, {whose}"


def find_any_class(card: Card) -> AnyClass | None:
    """Finds the shipped statistics that were made with exactly these weights and this preprocessing."""
    for held in _shipped():
        if held.meta["weights_sha256"] == card.identity and held.meta["card"] == card.preprocessing_json():
            return held
    return None


@lru_cache
def _shipped() -> tuple[AnyClass, ...]:
    found = []
    for file in resources.files("entoptic").joinpath("data").iterdir():
        if file.name.endswith(".any-class.safetensors"):
            with resources.as_file(file) as path:
                found.append(read_any_class(path))
    return tuple(found)


def read_any_class(path: Path) -> AnyClass:
    """Reads the file that `write_any_class` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method of safetensors)
        meta = json.loads(file.metadata()[MARK])
    factors = {
        layer: Factors(*(tensors[f"{part}|{layer}"] for part in ("mean", "basis", "scale", "rows")))
        for layer in meta["layers"]
    }
    return AnyClass(
        factors, meta["channels"], tensors["own"], tensors["photos"], meta,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )  # fmt: skip


def write_any_class(
    path: Path, factors: dict[str, Factors], channels: dict[str, int], own_n: Tensor, photos_n: Tensor,
    meta: dict[str, Any],
) -> None:  # fmt: skip
    """Writes the statistics of every class.

    Args:
        path: of the file.
        factors: per tap.
        channels: C per tap.
        own_n: as in `AnyClass`.
        photos_n: as in `AnyClass`.
        meta: weights_sha256, card (preprocessing), model, photos (number), recipe.
    """
    from safetensors.torch import save_file

    tensors = {"own": own_n.to(torch.int16), "photos": photos_n.to(torch.int16)}
    for layer, held in factors.items():
        tensors |= {
            f"mean|{layer}": held.mean_F, f"basis|{layer}": held.basis_rF, f"scale|{layer}": held.scale_r,
            f"rows|{layer}": held.rows_nr,
        }  # fmt: skip
    whole = meta | {"layers": list(factors), "channels": channels}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={MARK: json.dumps(whole)})
