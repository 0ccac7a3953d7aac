"""The parts of an activation index: what a run of photos says of every unit, read, merged and stored.

Photos are read in blocks of a fixed size. Parts merge as the nodes of a binary tree over the blocks, whatever the order
in which they come: the same photos give the same index, bit by bit, from one process or from many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from entoptic.base.files import write_atomically
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.images.unit_statistics import Tally, from_tensors, merge, tally, to_tensors
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.grammar import Address, parse
from entoptic.units.unit import Unit, bind_one

NAMED = 100
"""Photos with scores that are not finite are all counted; so many of them are named."""


@dataclass(frozen=True)
class Group:
    """The units of one layer, read in one way.

    Attributes:
        layer: its name. channels: number of units. grid: see `LayerInfo`.
        readout: explicit, as `Unit.readout` says it. suffix: what follows LAYER:INDEX in the units' strings.
        tap: what to read. position: flat position or token, None for mean and max.
    """

    layer: str
    channels: int
    grid: tuple[int, int]
    readout: str
    suffix: str
    tap: Tap
    position: int | None


def make_groups(model: Model, layers: Sequence[str], readouts: Sequence[str]) -> list[Group]:
    """Every readout of every layer that has it, layers in the order in which they run.

    Raises:
        UserError: an unknown layer, or a readout that none of the layers has.
    """
    if not layers:
        raise UserError(f"no layers were named; `entoptic ls {model.card.name}` lists them")
    if not readouts:
        raise UserError('no readout was named; "" is the default of each layer')
    found: list[Group] = []
    refused: dict[str, UserError] = {}
    had: set[str] = set()
    for layer in sorted(dict.fromkeys(layers), key=lambda name: model.layer(name).order):
        info, ways = model.layer(layer), dict[str, Group]()
        default = bind_one(model, Address("unit", layer, 0)).readout
        for text in readouts:
            address = parse(f"{layer}:0@{text}" if text else f"{layer}:0")
            try:
                unit: Unit = bind_one(model, address)
            except UserError as error:
                refused.setdefault(text, error)
                continue
            had.add(text)
            suffix = "" if unit.readout == default else f"@{address.readout}"
            group = Group(layer, info.channels, info.grid, unit.readout, suffix, unit.tap, unit.position)
            ways.setdefault(unit.readout, group)
        found += ways.values()
    for text in refused:
        if text not in had:
            raise refused[text]
    return found


@dataclass(frozen=True)
class Part:
    """What blocks start … start+count-1 of the photos say.

    Attributes:
        tally: of all units, group after group. read: photos that could be read.
        skipped: (name, reason) of those that could not. odd: how many photos gave a score that is not finite.
        odd_names: the first of them.
        hashes, sampled: of the photos in the reservoir, R content hashes in ascending order and their positions.
        vectors: per tap, R×C float32: one activation vector of each of them, from a position that its hash chooses.
    """

    start: int
    count: int
    tally: Tally
    read: int
    skipped: list[tuple[str, str]]
    odd: int
    odd_names: list[str]
    hashes: Tensor
    sampled: Tensor
    vectors: dict[str, Tensor]


def read_block(
    model: Model,
    groups: Sequence[Group],
    photos: Photos,
    block: int,
    indices: Sequence[int],
    *,
    k: int,
    bottom: int,
    reservoir: int,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> Part:
    """One forward pass over the photos of one block; memory is U×N scores for U units and N photos."""
    reader = _Reader(groups, reservoir > 0)
    taps = list(dict.fromkeys(group.tap for group in groups))
    read: list[int] = []
    scores: list[Tensor] = []
    places: list[Tensor] = []
    vectors: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    seen, done = False, 0
    try:
        for batch, images in photos.batches(model.card.prepare, batch_size, indices):
            seen = True
            if reservoir:
                reader.hashes = torch.tensor([_hash(photos, i) for i in batch], device=model.device)
            values = model.reduce(images.to(model.device), taps, reader)
            scores.append(torch.cat([values[group.tap][group.readout][0] for group in groups], 1))
            places.append(torch.cat([values[group.tap][group.readout][1] for group in groups], 1))
            for tap in taps if reservoir else ():
                vectors[tap].append(values[tap]["vector"][0])
            read += batch
            on_batch(batch[-1] + 1 - indices[0] - done)
            done = batch[-1] + 1 - indices[0]
    except UserError:
        if seen:  # else no photo of this block could be read; others may
            raise
    on_batch(len(indices) - done)
    units = sum(group.channels for group in groups)
    where = torch.device("cpu") if model.device.type == "mps" else model.device  # MPS has no float64
    values_UN = torch.cat(scores).to(where).T.contiguous() if read else torch.empty(units, 0)
    places_UN = torch.cat(places).to(where).T.contiguous() if read else torch.empty(units, 0, dtype=torch.int32)
    numbers = torch.tensor(read, dtype=torch.int64)
    of = tally(values_UN, places_UN, numbers.to(values_UN.device), k, bottom, block)
    odd = (~values_UN.isfinite()).any(0).nonzero().flatten().tolist()
    hashes = torch.tensor([_hash(photos, i) for i in read] if reservoir else [], dtype=torch.int64)
    chosen = hashes.argsort(stable=True)[:reservoir]
    of = from_tensors(to_tensors(replace(of, sample=values_UN[:, chosen.to(values_UN.device)])), 0, block)
    lost = sorted(set(indices) - set(read))
    reasons = {skipped.name: skipped.reason for skipped in photos.skipped}
    return Part(
        block, 1, of, len(read), [(photos[i].name, reasons.get(photos[i].name, "")) for i in lost],
        len(odd), [photos[read[i]].name for i in odd[:NAMED]], hashes[chosen], numbers[chosen] if reservoir else hashes,
        {str(tap): torch.cat(rows).cpu()[chosen] for tap, rows in vectors.items() if rows},
    )  # fmt: skip


def _hash(photos: Photos, index: int) -> int:
    return int(photos.sha256(index)[:15], 16)


class _Reader:
    """Reads every readout of a layer from its values B×C×D, as (scores B×C float32, flat positions B×C)."""

    def __init__(self, groups: Sequence[Group], vectors: bool) -> None:
        self.groups, self.vectors = groups, vectors
        self.hashes = torch.empty(0, dtype=torch.int64)

    def __call__(self, tap: Tap, values: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        mine = [group for group in self.groups if group.tap == tap]
        if any(group.position is None for group in mine):
            peaks, places = _maximum(values, mine[0].grid)
        for group in mine:
            if group.position is not None:
                # A copy: the network may write over its memory.
                scores = values[:, :, group.position].to(torch.float32, copy=True)
                found[group.readout] = scores, torch.full_like(scores, group.position, dtype=torch.int32)
            elif group.readout.startswith("max"):
                found[group.readout] = peaks.float(), places
            else:
                half = values.dtype in (torch.float16, torch.bfloat16)
                found[group.readout] = values.mean(-1, dtype=torch.float32 if half else None).float(), places
        if self.vectors:
            at = (self.hashes % values.shape[2]).to(values.device)[:, None, None].expand(-1, values.shape[1], 1)
            vector = values.gather(2, at)[:, :, 0].float()
            found["vector"] = vector, vector
        return found


def _maximum(values_BCD: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest value over the positions and where it stands first, both B×C, in one pass over the values."""
    if values_BCD.device.type == "cpu" and values_BCD.stride(1) == 1 and values_BCD.shape[2] > 1:
        # The same, several times faster where channels lie together in memory.
        pooled = adaptive_max_pool2d(values_BCD.unflatten(2, grid), 1, return_indices=True)
        return pooled[0].flatten(1), pooled[1].flatten(1).int()
    peaks, places = values_BCD.max(-1)
    return peaks, places.int()


def merge_parts(a: Part, b: Part, reservoir: int, device: torch.device | None = None) -> Part:
    """The part of both's blocks, where `a` comes first; `device` is where sketches are sorted."""
    hashes = torch.cat([a.hashes, b.hashes])
    chosen = hashes.argsort(stable=True)[:reservoir]
    sample = torch.cat([a.tally.sample, b.tally.sample], 1)[:, chosen]
    # A part without a readable photo has no vectors.
    vectors = {
        tap: torch.cat([part.vectors[tap] for part in (a, b) if tap in part.vectors])[chosen]
        for tap in a.vectors | b.vectors
    }
    return Part(
        a.start, a.count + b.count, replace(merge(a.tally, b.tally, device), sample=sample), a.read + b.read,
        a.skipped + b.skipped, a.odd + b.odd, (a.odd_names + b.odd_names)[:NAMED], hashes[chosen],
        torch.cat([a.sampled, b.sampled])[chosen], vectors,
    )  # fmt: skip


class Parts:
    """The parts in a folder, one safetensors file each, whose name says which blocks it is of.

    Args:
        folder: where they are. blocks: of the whole index. reservoir: photos kept in a sample.
    """

    def __init__(self, folder: Path, blocks: int, reservoir: int) -> None:
        self.folder, self.blocks, self.reservoir = folder, blocks, reservoir

    def held(self) -> list[tuple[int, int]]:
        """(start, count) of the parts, in order; what is inside a larger part is left out (and deleted)."""
        names = sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []
        found = [(int(start), int(count)) for start, count in (name.stem.split("+") for name in names)]
        largest = [(s, c) for s, c in found if not any(s2 <= s and s + c <= s2 + c2 and c2 > c for s2, c2 in found)]
        for start, count in set(found) - set(largest):
            self.delete(start, count)
        return sorted(largest)

    def covered(self) -> set[int]:
        """Blocks that need not be read again."""
        return {block for start, count in self.held() for block in range(start, start + count)}

    def add(self, part: Part, device: torch.device | None = None) -> None:
        """Stores a part; then it is merged with its sibling in the tree for as long as that is there."""
        self.write(part)
        self.settle(device, near=part)

    def settle(self, device: torch.device | None = None, near: Part | None = None) -> None:
        """Merges all siblings that are there; `near` is a part that is in memory already."""
        while pair := self._siblings():
            first, second = (
                near if near is not None and (near.start, near.count) == place else self.read(*place) for place in pair
            )
            near = merge_parts(first, second, self.reservoir, device)
            self.write(near)
            for place in pair:
                self.delete(*place)

    def _siblings(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        held = self.held()
        for start, count in held:
            if start % (2 * count) == 0 and (start + count, count) in held:
                return (start, count), (start + count, count)
        return None

    def whole(self, device: torch.device | None = None) -> Part:
        """All parts merged, in order."""
        places = self.held()
        total = self.read(*places[0])
        for place in places[1:]:
            total = merge_parts(total, self.read(*place), self.reservoir, device)
        return total

    def write(self, part: Part) -> None:
        """Stores a part atomically."""
        from safetensors.torch import save

        tensors = to_tensors(part.tally) | {"hashes": part.hashes, "sampled": part.sampled}
        tensors |= {f"vectors|{tap}": rows.contiguous() for tap, rows in part.vectors.items()}
        about = {
            "error": part.tally.sketch.error, "read": part.read, "skipped": part.skipped,
            "odd": part.odd, "odd_names": part.odd_names,
        }  # fmt: skip
        write_atomically(self._file(part.start, part.count), save(tensors, {"entoptic": json.dumps(about)}))

    def read(self, start: int, count: int) -> Part:
        """The part of `count` blocks from `start` on."""
        from safetensors import safe_open

        with safe_open(self._file(start, count), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method of safetensors)
            about = json.loads(file.metadata()["entoptic"])
        vectors = {name.partition("|")[2]: rows for name, rows in tensors.items() if name.startswith("vectors|")}
        return Part(
            start, count, from_tensors(tensors, about["error"], start), about["read"],
            [(name, reason) for name, reason in about["skipped"]], about["odd"], about["odd_names"],
            tensors["hashes"], tensors["sampled"], vectors,
        )  # fmt: skip

    def delete(self, start: int, count: int) -> None:
        """Forgets a part."""
        self._file(start, count).unlink(missing_ok=True)

    def _file(self, start: int, count: int) -> Path:
        return self.folder / f"{start:07d}+{count}.safetensors"
