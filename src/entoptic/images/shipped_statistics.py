"""`Pack`: statistics of a network's photos, small enough to ship, so that no photos are needed.

A pack is one safetensors file. Per unit and layer it holds the C×D mean sorted values at no more than 257 ranks, denser
towards both ends, in half precision; `Pack.target` interpolates linearly between them. It also holds quantiles of
logits and channels over photos, and the natural Fourier spectrum.

`make_statistics` makes packs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from entoptic.models.taps import Tap

if TYPE_CHECKING:
    from entoptic.models.card import Card

KNOTS = 257
"""Largest number of ranks that are kept of a row of sorted values."""
NATURAL = 128
"""Number of photos behind the mean over photos of all kinds."""
QUANTILES = 201
"""Number of quantiles of a unit's scores."""


def kept_ranks(length: int, knots: int = KNOTS) -> Tensor:
    """Chooses the ranks among 0 … length-1 that are kept: all of them for short rows, else denser towards the ends."""
    if length <= knots:
        return torch.arange(length)
    u = torch.linspace(0, 1, knots, dtype=torch.float64)
    along = 0.5 * u + 0.25 * (1 - torch.cos(torch.pi * u))  # half even, half cosine
    return (along * (length - 1)).round().long().unique()


def thin(values_CD: Tensor, knots: int = KNOTS) -> Tensor:
    """Takes sorted values C×D at `kept_ranks`: C×K in half precision."""
    return values_CD[:, kept_ranks(values_CD.shape[1], knots)].half()


def fill(kept_CK: Tensor, length: int, knots: int = KNOTS) -> Tensor:
    """Interpolates linearly between the ranks that `thin` kept: C×`length` float32."""
    return between(kept_CK, kept_ranks(length, knots), length)


def between(kept_CK: Tensor, ranks_K: Tensor, length: int) -> Tensor:
    """Interpolates linearly between values at some ranks, the first and the last among them: C×`length` float32."""
    values = kept_CK.float()
    if len(ranks_K) == length:
        return values
    positions = torch.arange(length)
    right = torch.searchsorted(ranks_K, positions).clamp(1, len(ranks_K) - 1)
    left = right - 1
    share = (positions - ranks_K[left]) / (ranks_K[right] - ranks_K[left])
    return values[:, left] + (values[:, right] - values[:, left]) * share


@dataclass(frozen=True, kw_only=True)
class PackMeta:
    """The description of a pack, beside its tensors.

    Attributes:
        weights_sha256: of the network's weights.
        card: the network's preprocessing, as JSON holds it.
        model: name of the network.
        units: number of reference photos by unit.
        relevance: kind of relevance that a unit's values are weighted by, for units that have one.
        natural: number of photos behind the mean over photos of all kinds.
        layers: the taps.
        broad: number of photos behind the quantiles.
        recipe: how the pack was made, for people.
    """

    weights_sha256: str
    card: dict[str, Any]
    model: str
    units: dict[str, int]
    relevance: dict[str, str]
    natural: int
    layers: list[str]
    broad: int
    recipe: str

    def to_json(self) -> dict[str, Any]:
        """Returns what the file's metadata hold."""
        return {
            "weights_sha256": self.weights_sha256, "card": self.card, "model": self.model, "units": self.units,
            "relevance": self.relevance, "natural": self.natural, "layers": self.layers, "broad": self.broad,
            "recipe": self.recipe,
        }  # fmt: skip

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> PackMeta:
        """Reads what `to_json` returned; packs of earlier versions name neither `relevance` nor `natural`."""
        return cls(
            weights_sha256=held["weights_sha256"], card=held["card"], model=held["model"],
            units={unit: int(count) for unit, count in held["units"].items()}, relevance=held.get("relevance", {}),
            natural=int(held.get("natural", 0)), layers=held["layers"], broad=int(held["broad"]),
            recipe=held.get("recipe", ""),
        )  # fmt: skip


@dataclass(frozen=True)
class Pack:
    """A pack in memory.

    Attributes:
        tensors: as stored.
        meta: all else.
        sha256: of the file.
    """

    tensors: dict[str, Tensor]
    meta: PackMeta
    sha256: str

    @property
    def units(self) -> list[str]:
        """Units whose references are held."""
        return list(self.meta.units)

    @property
    def layers(self) -> list[str]:
        """Taps whose references are held."""
        return list(self.meta.layers)

    def count(self, unit: str) -> int:
        """Returns the number of photos behind a unit's references."""
        return self.meta.units[unit]

    def target(self, unit: str, tap: Tap, length: int) -> Tensor | None:
        """Returns the mean sorted values C×`length`, or None where the layer or the map's size is not held."""
        held = self.tensors.get(f"target|{unit}|{tap}")
        if held is None or held.shape[1] != len(kept_ranks(length)):
            return None
        return fill(held, length)

    def relevance(self, unit: str) -> str:
        """Returns the kind of relevance that a unit's references are weighted by, or "none"."""
        return self.meta.relevance.get(unit, "none")

    def importance(self, unit: str, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """Returns C weights of the channels per tap, for a unit whose references are weighted by relevance."""
        names = {tap: f"importance|{unit}|{tap}" for tap in taps}
        return {tap: self.tensors[name].float() for tap, name in names.items() if name in self.tensors}

    def real_scores(self, unit: str) -> tuple[Tensor, int] | None:
        """Returns quantiles of the unit's score over photos at even levels and the number of photos, or None."""
        layer, _, index = unit.rpartition(":")
        table = self.tensors.get(f"quantiles|{layer}")
        if table is None or not index.isdecimal() or len(index) > 9 or int(index) >= len(table):
            return None
        return table[int(index)].float(), self.meta.broad

    @cached_property
    def spectrum_sha256(self) -> str:
        """Hash of the stored spectrum alone: what reads nothing else keeps its key when a pack gains other statistics."""
        return hashlib.sha256(self.tensors["spectrum"].numpy().tobytes()).hexdigest()

    @cached_property
    def spectrum(self) -> Tensor:
        """Mean |rfft2| of natural photos in the decorrelated colour space, 3×H×(W//2+1)."""
        return self.tensors["spectrum"].float().exp()


def find_pack(card: Card) -> Pack | None:
    """Finds the shipped pack that was made with exactly these weights and this preprocessing."""
    for pack in _shipped():
        if pack.meta.weights_sha256 == card.identity and pack.meta.card == card.preprocessing_json():
            return pack
    return None


@lru_cache
def _shipped() -> tuple[Pack, ...]:
    found = []
    for file in resources.files("entoptic").joinpath("data").iterdir():
        if file.name.endswith(".safetensors"):
            with resources.as_file(file) as path:
                found.append(read_pack(path))
    return tuple(pack for pack in found if pack is not None)


def read_pack(path: Path) -> Pack | None:
    """Reads a pack; None for safetensors of another kind (weights are shipped beside the packs)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        if "entoptic" not in (file.metadata() or {}):
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method of safetensors)
        meta = PackMeta.from_json(json.loads(file.metadata()["entoptic"]))
    return Pack(tensors, meta, hashlib.sha256(path.read_bytes()).hexdigest())
