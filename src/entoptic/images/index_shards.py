"""`IndexShard`: the statistics of every unit over a run of photos, read, merged and stored.

Photos are read in blocks of a fixed size. Shards merge as the nodes of a binary tree over the blocks, whatever the
order in which they come: the same photos give the same index, bit by bit, from one process or from many.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from entoptic.base.files import check_inside, write_atomically
from entoptic.base.records import check_fields, list_of, read_tensors
from entoptic.errors import Unreadable, UserError
from entoptic.images.photos import Photos
from entoptic.images.unit_statistics import UnitStatistics, statistics_of_scores
from entoptic.models.model import Model
from entoptic.models.taps import Tap
from entoptic.units.dictionary import Dictionary, digest
from entoptic.units.grammar import Address, parse, quoted_layer
from entoptic.units.unit import Unit, bind_one

NAMED = 100
"""Photos with scores that are not finite are all counted; so many of them are named."""


@dataclass(frozen=True)
class UnitGroup:
    """The units of one layer, read in one way.

    Attributes:
        layer: name of the layer.
        channels: number of units.
        grid: rows and columns of the map (see `LayerInfo`).
        readout: explicit, as in `Unit.readout`.
        suffix: what follows LAYER:INDEX in the units' strings.
        tap: what to read.
        position: flat position or token that is read; None for mean and max, and in a group that comes from a file.
        dictionary: whose features these are, with `layer` in the form dict(PATH); None for channels, and in a group that
            comes from a file.
        numbers: hash of the dictionary's numbers, "" for channels.
    """

    layer: str
    channels: int
    grid: tuple[int, int]
    readout: str
    suffix: str
    tap: Tap
    position: int | None = field(compare=False)  # the readout decides it
    dictionary: Dictionary | None = field(default=None, compare=False, repr=False)
    numbers: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns what an index file holds of the group."""
        return {
            "layer": self.layer, "channels": self.channels, "grid": list(self.grid), "readout": self.readout,
            "suffix": self.suffix, **({"dictionary": self.numbers} if self.numbers else {}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> UnitGroup:
        """Reads what `to_json` returned."""
        check_fields(
            held, {"layer": str, "channels": int, "grid": list, "readout": str, "suffix": str}, "a group of units"
        )
        rows, columns = held["grid"]
        if not list_of(held["grid"], int) or min(held["channels"], rows, columns) < 1:
            raise ValueError("a group of units has no channels or no grid")
        tap = Tap(held["layer"], pre=held["readout"].endswith(".pre"))
        numbers = held.get("dictionary", "")
        if not isinstance(numbers, str):
            raise ValueError("a group of features names no dictionary")
        return cls(
            held["layer"], held["channels"], (rows, columns), held["readout"], held["suffix"], tap, None, None, numbers
        )  # fmt: skip


def make_groups(model: Model, layers: Sequence[str], readouts: Sequence[str]) -> list[UnitGroup]:
    """Lists every readout of every layer that has it, layers in the order in which they run.

    Args:
        model: the network.
        layers: names of layers, or dictionaries in the form dict(PATH).
        readouts: what may follow @ in a unit's string; "" is each layer's default.

    Raises:
        UserError: an unknown layer, or a readout that none of the layers has.
    """
    if not layers:
        raise UserError(f"no layers were named; `entoptic ls {model.card.name}` lists them")
    if not readouts:
        raise UserError('no readout was named; "" is the default of each layer')
    found: list[UnitGroup] = []
    refused: dict[str, UserError] = {}
    had: set[str] = set()
    firsts = {layer: _first_unit(model, layer) for layer in dict.fromkeys(layers)}
    for layer in sorted(firsts, key=lambda name: model.layer(firsts[name].layer).order):
        first, ways = firsts[layer], dict[str, UnitGroup]()
        info, default = model.layer(first.layer), first.readout
        count = info.channels if first.dictionary is None else len(first.dictionary.names)
        numbers = "" if first.dictionary is None else digest(first.dictionary)
        for text in readouts:
            address = parse(f"{quoted_layer(layer)}:0" + (f"@{text}" if text else ""))
            try:
                unit: Unit = bind_one(model, address)
            except UserError as error:
                refused.setdefault(text, error)
                continue
            had.add(text)
            suffix = "" if unit.readout == default else f"@{address.readout}"
            group = UnitGroup(
                layer, count, info.grid, unit.readout, suffix, unit.tap, unit.position, unit.dictionary, numbers
            )  # fmt: skip
            ways.setdefault(unit.readout, group)
        found += ways.values()
    for text in refused:
        if text not in had:
            raise refused[text]
    return found


def _first_unit(model: Model, layer: str) -> Unit:
    """Returns the first unit of a layer or dictionary, read in its default way."""
    return bind_one(model, parse(f"{layer}:0") if layer.startswith("dict(") else Address("unit", layer, 0))


@dataclass(frozen=True)
class IndexShard:
    """Statistics over the photos of the blocks start … start+count-1.

    Attributes:
        start: the first block.
        count: number of blocks.
        statistics: of all units, group after group.
        read: number of photos that could be read.
        skipped: (name, reason) of those that could not.
        nonfinite: number of photos that gave a score that is not finite.
        nonfinite_names: names of the first of them.
        hashes: content hashes of the R photos in the reservoir, ascending.
        sampled: indices of these photos.
        vectors: per tap R×C float32: one activation vector of each of these photos, at a position that its hash chooses.
    """

    start: int
    count: int
    statistics: UnitStatistics
    read: int
    skipped: list[tuple[str, str]]
    nonfinite: int
    nonfinite_names: list[str]
    hashes: Tensor
    sampled: Tensor
    vectors: dict[str, Tensor]


def read_block(
    model: Model,
    groups: Sequence[UnitGroup],
    photos: Photos,
    block: int,
    indices: Sequence[int],
    *,
    k: int,
    bottom: int,
    reservoir: int,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> IndexShard:
    """Reads the photos of one block in one forward pass; memory is U×N scores for U units and N photos.

    Args:
        model: the network.
        groups: the units.
        photos: the set.
        block: number of the block.
        indices: of its photos, which follow each other.
        k: strongest photos to keep of each unit.
        bottom: weakest photos to keep.
        reservoir: photos to keep in the sample.
        batch_size: photos per forward pass.
        on_batch: called with the number of photos that each batch adds.
    """
    reader = _Reader(groups, reservoir > 0)
    taps = list(dict.fromkeys(group.tap for group in groups))
    read: list[int] = []
    scores: list[Tensor] = []
    positions: list[Tensor] = []
    vectors: dict[Tap, list[Tensor]] = {tap: [] for tap in taps}
    done = 0
    try:
        for batch, images in photos.batches(model.card.prepare, batch_size, indices):
            if reservoir:
                reader.hashes = torch.tensor([_hash(photos, i) for i in batch], device=model.device)
            values = model.reduce(images.to(model.device), taps, reader)
            scores.append(torch.cat([values[group.tap][_place(group)][0] for group in groups], 1))
            positions.append(torch.cat([values[group.tap][_place(group)][1] for group in groups], 1))
            for tap in taps if reservoir else ():
                vectors[tap].append(values[tap]["", "vector"][0])
            read += batch
            on_batch(batch[-1] + 1 - indices[0] - done)
            done = batch[-1] + 1 - indices[0]
    except Unreadable:
        pass  # no photo of this block; photos of others may be sound
    on_batch(len(indices) - done)
    units = sum(group.channels for group in groups)
    where = torch.device("cpu") if model.device.type == "mps" else model.device  # MPS has no float64
    values_UN = torch.cat(scores).to(where).T.contiguous() if read else torch.empty(units, 0)
    positions_UN = torch.cat(positions).to(where).T.contiguous() if read else torch.empty(units, 0, dtype=torch.int32)
    numbers = torch.tensor(read, dtype=torch.int64)
    statistics = statistics_of_scores(values_UN, positions_UN, numbers.to(values_UN.device), k, bottom, block)
    nonfinite = (~values_UN.isfinite()).any(0).nonzero().flatten().tolist()
    hashes = torch.tensor([_hash(photos, i) for i in read] if reservoir else [], dtype=torch.int64)
    chosen = hashes.argsort(stable=True)[:reservoir]
    statistics = replace(statistics, sample=values_UN[:, chosen.to(values_UN.device)])
    statistics = UnitStatistics.from_tensors(statistics.to_tensors(), 0, block)  # on the CPU
    lost = sorted(set(indices) - set(read))
    reasons = {skipped.name: skipped.reason for skipped in photos.skipped}
    return IndexShard(
        block, 1, statistics, len(read), [(photos[i].name, reasons.get(photos[i].name, "")) for i in lost],
        len(nonfinite), [photos[read[i]].name for i in nonfinite[:NAMED]], hashes[chosen], numbers[chosen] if reservoir else hashes,
        {str(tap): torch.cat(rows).cpu()[chosen] for tap, rows in vectors.items() if rows},
    )  # fmt: skip


def read_scores(model: Model, groups: Sequence[UnitGroup], images: Tensor) -> list[Tensor]:
    """Returns the scores B×U of every group's units on pictures, in one forward pass.

    Args:
        model: the network.
        groups: the units.
        images: B×3×H×W in [0, 1] of the input size.
    """
    taps = list(dict.fromkeys(group.tap for group in groups))
    values = model.reduce(images.to(model.device), taps, _Reader(groups, False))
    return [values[group.tap][_place(group)][0] for group in groups]


def _hash(photos: Photos, index: int) -> int:
    return int(photos.sha256(index)[:15], 16)


class _Reader:
    """Computes every readout of a layer from its values B×C×D: scores B×C float32 and flat positions B×C."""

    def __init__(self, groups: Sequence[UnitGroup], vectors: bool) -> None:
        self.groups, self.vectors = groups, vectors
        self.hashes = torch.empty(0, dtype=torch.int64)

    def __call__(self, tap: Tap, values: Tensor) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        mine = [group for group in self.groups if group.tap == tap]
        for layer in dict.fromkeys(group.layer for group in mine):
            of_layer = [group for group in mine if group.layer == layer]
            plain = [group for group in of_layer if group.dictionary is None or not group.readout.endswith(".pre")]
            for some in (plain, [group for group in of_layer if group not in plain]):
                if some:
                    _read_groups(some, _features(some[0], values), found)
        if self.vectors:
            at = (self.hashes % values.shape[2]).to(values.device)[:, None, None].expand(-1, values.shape[1], 1)
            vector = values.gather(2, at)[:, :, 0].float()
            found["", "vector"] = vector, vector
        return found


def _place(group: UnitGroup) -> tuple[str, str]:
    return group.layer, group.readout


def _features(group: UnitGroup, values_BCD: Tensor) -> Tensor:
    """Returns what a group's units are read from: the layer's values, or a dictionary's activations of them."""
    if group.dictionary is None:
        return values_BCD
    before = getattr(group.dictionary, "pre_activations", None) if group.readout.endswith(".pre") else None
    return (before or group.dictionary.activations)(values_BCD)


def _read_groups(
    groups: list[UnitGroup], values: Tensor, found: dict[tuple[str, str], tuple[Tensor, Tensor]]
) -> None:  # fmt: skip
    """Adds the scores B×U and positions B×U of every readout of the same units."""
    if any(group.position is None for group in groups):
        peaks, positions = _maximum(values, groups[0].grid)
    for group in groups:
        if group.position is not None:
            # A copy: the network may write over its memory.
            scores = values[:, :, group.position].to(torch.float32, copy=True)
            found[_place(group)] = scores, torch.full_like(scores, group.position, dtype=torch.int32)
        elif group.readout.startswith("max"):
            found[_place(group)] = peaks.float(), positions
        else:
            half = values.dtype in (torch.float16, torch.bfloat16)
            found[_place(group)] = values.mean(-1, dtype=torch.float32 if half else None).float(), positions


def _maximum(values_BCD: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the largest value over the positions and the first position that has it, both B×C, in one pass."""
    if values_BCD.device.type == "cpu" and values_BCD.stride(1) == 1 and values_BCD.shape[2] > 1:
        # The same, several times faster where channels lie together in memory.
        pooled = adaptive_max_pool2d(values_BCD.unflatten(2, grid), 1, return_indices=True)
        return pooled[0].flatten(1), pooled[1].flatten(1).int()
    peaks, positions = values_BCD.max(-1)
    return peaks, positions.int()


def merge_shards(a: IndexShard, b: IndexShard, reservoir: int, device: torch.device | None = None) -> IndexShard:
    """Merges two shards.

    Args:
        a: the one with the earlier blocks.
        b: the other.
        reservoir: photos to keep in the sample.
        device: where quantile sketches are sorted.
    """
    hashes = torch.cat([a.hashes, b.hashes])
    chosen = hashes.argsort(stable=True)[:reservoir]
    sample = torch.cat([a.statistics.sample, b.statistics.sample], 1)[:, chosen]
    # A shard without a readable photo has no vectors.
    vectors = {
        tap: torch.cat([shard.vectors[tap] for shard in (a, b) if tap in shard.vectors])[chosen]
        for tap in a.vectors | b.vectors
    }
    return IndexShard(
        a.start, a.count + b.count, replace(a.statistics.merge(b.statistics, device), sample=sample), a.read + b.read,
        a.skipped + b.skipped, a.nonfinite + b.nonfinite, (a.nonfinite_names + b.nonfinite_names)[:NAMED],
        hashes[chosen], torch.cat([a.sampled, b.sampled])[chosen], vectors,
    )  # fmt: skip


class ShardFolder:
    """The shards in a folder, one safetensors file each, whose name gives the blocks that it is of.

    Args:
        folder: where they are.
        blocks: number of blocks of the whole index.
        reservoir: photos to keep in the sample.
    """

    def __init__(self, folder: Path, blocks: int, reservoir: int) -> None:
        self.folder, self.blocks, self.reservoir = folder, blocks, reservoir

    def held(self) -> list[tuple[int, int]]:
        """Lists (start, count) of the shards, in order; a shard inside a larger one is left out (and deleted)."""
        names = sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []
        parts = [
            re.fullmatch(r"([0-9]{7,12})\+([0-9]{1,12})", name.stem) for name in names
        ]  # others' files are not its own
        found = [(int(part[1]), int(part[2])) for part in parts if part]
        largest = [(s, c) for s, c in found if not any(s2 <= s and s + c <= s2 + c2 and c2 > c for s2, c2 in found)]
        for start, count in set(found) - set(largest):
            self.delete(start, count)
        return sorted(largest)

    def covered(self) -> set[int]:
        """Returns the blocks that need not be read again."""
        return {block for start, count in self.held() for block in range(start, start + count)}

    def add(self, shard: IndexShard, device: torch.device | None = None) -> None:
        """Stores a shard, then merges it with its sibling in the tree for as long as that is there."""
        self.write(shard)
        self.merge_siblings(device, near=shard)

    def merge_siblings(self, device: torch.device | None = None, near: IndexShard | None = None) -> None:
        """Merges all siblings in the tree that are there.

        Args:
            device: where quantile sketches are sorted.
            near: a shard that is in memory already.
        """
        while pair := self._siblings():
            first, second = (
                near if near is not None and (near.start, near.count) == blocks else self.read(*blocks)
                for blocks in pair
            )
            near = merge_shards(first, second, self.reservoir, device)
            self.write(near)
            for blocks in pair:
                self.delete(*blocks)

    def _siblings(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        held = self.held()
        for start, count in held:
            if start % (2 * count) == 0 and (start + count, count) in held:
                return (start, count), (start + count, count)
        return None

    def whole(self, device: torch.device | None = None) -> IndexShard:
        """Merges all shards, in order."""
        first, *rest = self.held()
        total = self.read(*first)
        for blocks in rest:
            total = merge_shards(total, self.read(*blocks), self.reservoir, device)
        return total

    def write(self, shard: IndexShard) -> None:
        """Stores a shard atomically."""
        from safetensors.torch import save

        tensors = shard.statistics.to_tensors() | {"hashes": shard.hashes, "sampled": shard.sampled}
        tensors |= {f"vectors|{tap}": rows.contiguous() for tap, rows in shard.vectors.items()}
        about = {
            "error": shard.statistics.sketch.error, "read": shard.read, "skipped": shard.skipped,
            "odd": shard.nonfinite, "odd_names": shard.nonfinite_names,
        }  # fmt: skip
        file = check_inside(self._file(shard.start, shard.count), self.folder.parent)
        write_atomically(file, save(tensors, {"entoptic": json.dumps(about)}))

    def read(self, start: int, count: int) -> IndexShard:
        """Reads the shard of `count` blocks from `start` on.

        Raises:
            Unreadable: it is damaged.
        """
        file = read_tensors(self._file(start, count))
        tensors, about = file.tensors, file.about()
        check_fields(about, {"error": int, "read": int, "skipped": list, "odd": int, "odd_names": list}, file.path)
        skipped = [tuple(one) for one in about["skipped"] if list_of(one, str) and len(one) == 2]
        if len(skipped) != len(about["skipped"]) or not list_of(about["odd_names"], str):
            raise Unreadable(f"{file.path} is damaged: the names of its photos are no names; delete it")
        file.get("hashes", None)
        file.get("sampled", None)
        vectors = {name.partition("|")[2]: rows for name, rows in tensors.items() if name.startswith("vectors|")}
        return IndexShard(
            start, count, UnitStatistics.from_tensors(tensors, about["error"], start, where=file.path), about["read"],
            skipped, about["odd"], about["odd_names"],
            tensors["hashes"], tensors["sampled"], vectors,
        )  # fmt: skip

    def clear(self) -> None:
        """Deletes all shards, once the index holds what they say."""
        for blocks in self.held():
            self.delete(*blocks)

    def delete(self, start: int, count: int) -> None:
        """Deletes a shard's file."""
        self._file(start, count).unlink(missing_ok=True)

    def _file(self, start: int, count: int) -> Path:
        return self.folder / f"{start:07d}+{count}.safetensors"
