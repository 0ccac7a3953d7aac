"""The statistics pack: what a network's photos looked like, small enough to ship, so that no photos are needed.

A pack is one safetensors file. Per unit and layer it keeps a sketch of the C×D mean sorted values: their values at
at most 257 ranks, denser towards both ends, in half precision; `Pack.target` draws straight lines between them.
Beside that, quantiles of logits and channels over photos, and the natural Fourier spectrum.

`make_statistics` makes them.
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
NATURAL = 128
"""Photos behind what photos look like in general."""
QUANTILES = 201


def sketch_ranks(length: int, knots: int = KNOTS) -> Tensor:
    """Ranks 0 … length-1 that a sketch keeps: all of them for short rows, else denser towards the ends."""
    if length <= knots:
        return torch.arange(length)
    u = torch.linspace(0, 1, knots, dtype=torch.float64)
    spread = 0.5 * u + 0.25 * (1 - torch.cos(torch.pi * u))  # half even, half cosine
    return (spread * (length - 1)).round().long().unique()


def sketch(values_CD: Tensor, knots: int = KNOTS) -> Tensor:
    """C×K half-precision values at `sketch_ranks`."""
    return values_CD[:, sketch_ranks(values_CD.shape[1], knots)].half()


def unsketch(sketch_CK: Tensor, length: int, knots: int = KNOTS) -> Tensor:
    """C×D float32 by straight lines between the ranks that were kept."""
    ranks = sketch_ranks(length, knots)
    values = sketch_CK.float()
    if len(ranks) == length:
        return values
    positions = torch.arange(length)
    right = torch.searchsorted(ranks, positions).clamp(1, len(ranks) - 1)
    left = right - 1
    share = (positions - ranks[left]) / (ranks[right] - ranks[left])
    return values[:, left] + (values[:, right] - values[:, left]) * share


@dataclass(frozen=True)
class Pack:
    """A pack in memory.

    Attributes:
        tensors: as stored. meta: `weights_sha256`, `model`, `units` (unit -> number of photos), `layers`,
            `broad` (number of photos behind the quantiles), `recipe`.
        sha256: of the file.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    sha256: str

    @property
    def units(self) -> list[str]:
        """Units whose references are held."""
        return list(self.meta["units"])

    @property
    def layers(self) -> list[str]:
        """Taps whose references are held."""
        return list(self.meta["layers"])

    def count(self, unit: str) -> int:
        """Photos behind a unit's references."""
        return int(self.meta["units"][unit])

    def target(self, unit: str, tap: Tap, length: int) -> Tensor | None:
        """C×`length` mean sorted values, or None where the layer or the map's size is not held."""
        held = self.tensors.get(f"target|{unit}|{tap}")
        if held is None or held.shape[1] != len(sketch_ranks(length)):
            return None
        return unsketch(held, length)

    def relevance(self, unit: str) -> str:
        """Kind of relevance that a unit's references are weighted by, or "none"."""
        return str(self.meta.get("relevance", {}).get(unit, "none"))

    def importance(self, unit: str, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """C weights of the channels per tap, for a unit whose references are weighted by relevance."""
        names = {tap: f"importance|{unit}|{tap}" for tap in taps}
        return {tap: self.tensors[name].float() for tap, name in names.items() if name in self.tensors}

    def real_scores(self, unit: str) -> tuple[Tensor, int] | None:
        """(quantiles of the unit's score over photos at even levels, number of photos), or None."""
        layer, _, index = unit.rpartition(":")
        table = self.tensors.get(f"quantiles|{layer}")
        if table is None or not index.isdigit() or int(index) >= len(table):
            return None
        return table[int(index)].float(), int(self.meta["broad"])

    @cached_property
    def spectrum_sha256(self) -> str:
        """Of the stored spectrum alone: what reads nothing else does not change when a pack gains other statistics."""
        return hashlib.sha256(self.tensors["spectrum"].numpy().tobytes()).hexdigest()

    @cached_property
    def spectrum(self) -> Tensor:
        """Mean |rfft2| of natural photos in the decorrelated colour space, 3×H×(W//2+1)."""
        return self.tensors["spectrum"].float().exp()


def find_pack(card: Card) -> Pack | None:
    """The shipped pack made with exactly these weights and this preprocessing, if there is one."""
    for pack in _shipped():
        if pack.meta["weights_sha256"] == card.weights_sha256 and pack.meta["card"] == plain_name(card):
            return pack
    return None


def plain_name(card: Card) -> dict[str, Any]:
    return json.loads(json.dumps(card.preprocessing()))


@lru_cache
def _shipped() -> tuple[Pack, ...]:
    found = []
    for file in resources.files("entoptic").joinpath("data").iterdir():
        if file.name.endswith(".safetensors"):
            with resources.as_file(file) as path:
                found.append(read_pack(path))
    return tuple(pack for pack in found if pack is not None)


def read_pack(path: Path) -> Pack | None:
    """A pack from its file; None for safetensors of another kind (weights are shipped beside the packs)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        if "entoptic" not in (file.metadata() or {}):
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method of safetensors)
        meta = json.loads(file.metadata()["entoptic"])
    return Pack(tensors, meta, hashlib.sha256(path.read_bytes()).hexdigest())
