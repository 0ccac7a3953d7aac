"""The statistics pack: what a network's photos looked like, small enough to ship, so that no photos are needed.

A pack is one safetensors file. Per unit and layer it keeps a sketch of the C×D mean sorted values: their values at
at most 257 ranks, denser towards both ends, in half precision; `Pack.target` draws straight lines between them.
Beside that, quantiles of logits and channels over photos, and the natural Fourier spectrum.

    python -m entoptic.images.pack builtin:lite0 --photos CLASS_FOLDERS --broad MIXED_PHOTOS --out lite0.safetensors
"""

from __future__ import annotations

import argparse
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
    from entoptic.models.model import Model

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
        if pack.meta["weights_sha256"] == card.weights_sha256 and pack.meta["card"] == _plain(card):
            return pack
    return None


def _plain(card: Card) -> dict[str, Any]:
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


def make_pack(
    model: Model, photos: str, broad: Sequence[str], channels: Sequence[str], count: int, taps: Sequence[Tap]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything a pack holds, from class folders (`photos`) and mixed photos (`broad`)."""
    from entoptic.images.colour import natural_spectrum
    from entoptic.images.photos import Photos
    from entoptic.images.references import References, sorted_means
    from entoptic.images.relevant import Relevant, below
    from entoptic.units.unit import bind

    labelled = Photos.open(photos)
    mixed = [Photos.open(source) for source in broad]
    card = model.card
    classes = [i for i in range(model.outputs) if labelled.of_class(card.identifiers(i))]
    by_class, of_all = References(model, labelled), References(model, mixed[0])
    tensors: dict[str, Tensor] = {}
    units, relevance = {}, {}
    bound = bind(model, [f"logits:{i}" for i in classes] + list(channels))
    by_class.expect(unit for unit in bound if unit.kind == "logit")
    of_all.expect(unit for unit in bound if unit.kind != "logit")
    for unit in bound:
        layers = below(model, taps, unit)
        if unit.kind == "logit":
            target = by_class.target(unit, taps, count)
        elif not layers:
            target = of_all.target(unit, taps, count)
        else:
            target = of_all.target(unit, layers[1:] or layers, count, wanted=Relevant("lrp"))
            relevance[str(unit)] = "lrp"
        units[str(unit)] = target.photos
        for tap, weights in target.importance.items():
            tensors[f"importance|{unit}|{tap}"] = weights.half().cpu()
        for tap, values in target.values.items():
            tensors[f"target|{unit}|{tap}"] = sketch(values.cpu())
    step = max(1, len(mixed[0]) // NATURAL)
    spread = list(range(0, len(mixed[0]), step))[:NATURAL]
    natural, natural_count = sorted_means(model, taps, mixed[0].batches(card.prepare, 32, spread), lambda n: None)
    for tap, values in natural.items():
        tensors[f"target|natural|{tap}"] = sketch(values.cpu())
    logits, means, spectrum, read = [], [], torch.zeros(3, card.size[0], card.size[1] // 2 + 1), 0
    deepest = taps[-1]
    with torch.no_grad():
        for source in mixed:
            for _, images in source.batches(card.prepare, 32):
                read_out = model.read(images.to(model.device), [Tap("logits"), deepest])
                logits.append(read_out[Tap("logits")][:, :, 0].cpu())
                means.append(read_out[deepest].mean(2).cpu())
                spectrum += natural_spectrum(images)
                read += len(images)
    levels = torch.linspace(0, 1, QUANTILES)
    tensors["quantiles|logits"] = torch.cat(logits).quantile(levels, dim=0).T.half()
    tensors[f"quantiles|{deepest}"] = torch.cat(means).quantile(levels, dim=0).T.half()
    tensors["spectrum"] = (spectrum / read).clamp_min(1e-6).log().half()
    meta = {
        "weights_sha256": card.weights_sha256,
        "card": _plain(card),
        "model": card.name,
        "units": units,
        "relevance": relevance,
        "natural": natural_count,
        "layers": [str(tap) for tap in taps],
        "broad": read,
        "recipe": f"{count} photos a unit; quantiles over {read} mixed photos; {KNOTS} ranks a sketch",
    }
    return tensors, meta


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes a pack; see the module's first lines."""
    from safetensors.torch import save_file

    from entoptic.models.sources import load
    from entoptic.models.trunk import trunk_layers

    parser = argparse.ArgumentParser(description="Make the statistics pack of a model from real photos.")
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, help="class folders; each becomes a logit's reference")
    parser.add_argument(
        "--broad",
        required=True,
        nargs="+",
        help="photos of many classes: quantiles and spectrum; the first set also gives channels their references",
    )
    parser.add_argument("--channels", nargs="*", default=[], help="channels to hold references of, as units")
    parser.add_argument("--count", type=int, default=25, help="reference photos per unit")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    model = load(given.model)
    taps = [Tap(layer) for layer in trunk_layers(model)]
    tensors, meta = make_pack(model, given.photos, given.broad, given.channels, given.count, taps)
    save_file({k: v.contiguous() for k, v in tensors.items()}, given.out, metadata={"entoptic": json.dumps(meta)})
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {len(meta['units'])} units, {meta['broad']} photos")


if __name__ == "__main__":
    main()
