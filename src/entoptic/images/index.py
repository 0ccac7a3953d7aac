"""`ActivationIndex`: the statistics of every unit of some layers on a set of photos, from one forward pass over them.

INDEX/index.json            what it is of
INDEX/top.parquet           one row per unit and rank: unit, rank (0 = strongest), value, photo, row, column
INDEX/bottom.parquet        alike, rank 0 = weakest
INDEX/photos.parquet        position, name and sha256 of the photos in those tables
INDEX/layers/LAYER.safetensors   per readout: the same as tensors, moments, quantile sketch, sample
INDEX/parts/                the shards read so far; empty when every photo is in the index
"""

from __future__ import annotations

import hashlib
import html
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from entoptic.base.files import file_exists, user_path
from entoptic.base.progress import Progress, silent
from entoptic.base.records import read_tensors, why
from entoptic.errors import NotAvailable, OutOfReach, Unreadable, UserError, counted, nearest
from entoptic.images.index_record import IndexRecord
from entoptic.images.index_shards import UnitGroup
from entoptic.images.photo_scores import Hit, Moments, RealScores
from entoptic.images.photos import Photos
from entoptic.images.unit_statistics import Extremes, UnitStatistics
from entoptic.models.model import Model
from entoptic.units.dictionary import digest
from entoptic.units.grammar import Label, parse, quoted_layer
from entoptic.units.near_labels import nearest_label
from entoptic.units.unit import Unit, slug

MARK = "index.json"
QUANTILES = 201
_FINE = 1001  # quantiles that stand for the scores of more photos than a sketch holds exactly


def listing_sha256(photos: Photos, progress: Progress = silent) -> str:
    """Hashes the photos' names and contents in their order: what an index refers to by name and position."""
    listing = hashlib.sha256()
    with ThreadPoolExecutor(4) as pool:
        for index, content in enumerate(pool.map(photos.sha256, range(len(photos)))):
            listing.update(f"{photos[index].name}\t{content}\n".encode("utf-8", "backslashreplace"))
            if index % 256 == 255:
                progress("hashing photos", index + 1, len(photos))
    progress("hashing photos", len(photos), len(photos))
    return listing.hexdigest()


def read_names(file: Path) -> dict[int, tuple[str, str]]:
    """Reads the names and hashes of photos, by position, that an index keeps.

    Raises:
        Unreadable: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=["index", "photo", "sha256"]).to_pydict()
        found = dict(zip(table["index"], zip(table["photo"], table["sha256"])))
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        raise Unreadable(f"{file} is damaged ({why(error)}); make the index again") from None
    if not all(type(i) is int and type(name) is str and type(sha) is str for i, (name, sha) in found.items()):
        raise Unreadable(f"{file} is damaged: it does not hold the names of photos; make the index again")
    return found


class ActivationIndex:
    """An index on disk; `ActivationIndex.open` opens one, `build_index` makes one.

    Attributes:
        path: its folder.
        key: hash of everything that decided what is in it.
        request: what decided it.
        origin: where it comes from, for people.
        model: name of the network.
        weights_sha256: of the network.
        card: the network's preprocessing.
        source: where the photos were.
        fingerprint: `Photos.fingerprint` of all of them.
        n: number of photos read.
        k: strongest photos held of each unit.
        bottom_k: weakest photos held of each unit.
        whole: whether it is of all photos, not of some shards.
        skipped: (name, reason) of photos that were not read.
        nonfinite: `photos`, how many gave a score that is not finite, and `names` of the first.
        layers: names of the layers, in the order in which they run.
    """

    def __init__(self, path: Path, record: IndexRecord) -> None:
        request, origin, contents = record.request, record.origin, record.contents
        assert request is not None
        assert contents is not None
        self.path, self.key, self.request, self.origin = path, record.key, request, origin
        self.model, self.source = origin.model, origin.source
        self.weights_sha256, self.fingerprint = request.weights, request.photos
        self.card = request.preprocessing
        self.n, self.k, self.bottom_k = contents.n, request.k, request.bottom
        self.whole, self.skipped, self.nonfinite = contents.whole, contents.skipped, contents.nonfinite
        self._sketch_error, self._sketch_start = contents.sketch_error, contents.sketch_start
        self._sampled = contents.sampled
        self._groups = {(group.layer, group.readout): group for group in request.groups}
        self.layers = list(dict.fromkeys(layer for layer, _ in self._groups))
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._statistics: dict[tuple[str, str], UnitStatistics] = {}

    @classmethod
    def open(cls, path: str | Path) -> ActivationIndex:
        """Opens the index in a folder.

        Args:
            path: the folder.

        Raises:
            NotAvailable: there is none, or it is not finished.
            Unreadable: it is damaged, or of another version.
        """
        folder = user_path(path)
        if not file_exists(folder / "index.json"):
            raise NotAvailable(f"there is no index in {folder}; `entoptic index` makes one")
        record = IndexRecord.read(folder / "index.json")
        if record.request is None:
            raise Unreadable(f"the index in {folder} was written by another version of Entoptic; make it again")
        if not record.finished:
            raise NotAvailable(f"the index in {folder} is not finished; the command that began it goes on from there")
        return cls(folder, record)

    def __repr__(self) -> str:
        shard = "" if self.whole else ", a shard"
        holds = f"{self.model} on {counted(self.n, 'photo')}, {counted(len(self), 'unit')}"
        return f"ActivationIndex({str(self.path)!r}: {holds}{shard})"

    def __len__(self) -> int:
        return sum(group.channels for group in self._groups.values())

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<tr><td>{html.escape(g.layer)}</td><td>{g.channels}</td><td>{html.escape(g.readout)}</td></tr>"
            for g in self._groups.values()
        )
        return (
            f"<b>{html.escape(self.model)}</b> on {counted(self.n, 'photo')} of {html.escape(self.source)}, "
            f"{len(self.skipped)} could not be read, the {self.k} strongest and {self.bottom_k} weakest of each unit"
            f"<table><tr><th>layer</th><th>units</th><th>readout</th></tr>{lines}</table>"
        )

    def units(self, layer: str, readout: str | None = None) -> list[str]:
        """Lists the units of a layer, readout after readout.

        Args:
            layer: name of the layer.
            readout: of these units alone, as behind @ in a unit's string; "" is the layer's default, None are all.
        """
        groups = [group for group in self._groups.values() if group.layer == layer]
        if not groups:
            raise UserError(self._no_layer(layer))
        groups = groups if readout is None else [self._group(layer, readout)]
        return [f"{quoted_layer(layer)}:{i}{group.suffix}" for group in groups for i in range(group.channels)]

    def __contains__(self, unit: object) -> bool:
        try:
            self._find(unit)  # type: ignore[arg-type]
        except (UserError, TypeError, AttributeError):
            return False
        return True

    # --- what a unit does --------------------------------------------------------------------------------------

    def top(self, unit: Unit | str, k: int | None = None) -> list[Hit]:
        """Returns the `k` strongest photos of a unit, strongest first (default: all that are held).

        Args:
            unit: its string, or a unit.
            k: how many; None for all that are held.

        Raises:
            UserError: the unit is not in the index.
            OutOfReach: `k` is more than it holds of each unit.
        """
        return self._hits(unit, "top", k)

    def bottom(self, unit: Unit | str, k: int | None = None) -> list[Hit]:
        """Returns the `k` weakest photos of a unit, weakest first; see `top`.

        Args:
            unit: its string, or a unit.
            k: how many; None for all that are held.
        """
        return self._hits(unit, "bottom", k)

    def moments(self, unit: Unit | str) -> Moments:
        """Returns the number, mean and variance of a unit's finite scores; NaN where there are none.

        Args:
            unit: its string, or a unit.
        """
        statistics, i = self._row(unit)
        n = int(statistics.n[i])
        if not n:
            return Moments(0, float("nan"), float("nan"))
        return Moments(n, float(statistics.mean[i]), float(statistics.m2[i]) / n)

    def firing_rate(self, unit: Unit | str) -> float:
        """Returns the share of the photos with a finite score whose score is above 0; NaN where there are none.

        Args:
            unit: its string, or a unit.
        """
        statistics, i = self._row(unit)
        return int(statistics.positive[i]) / int(statistics.n[i]) if int(statistics.n[i]) else float("nan")

    def quantiles(self, unit: Unit | str, count: int = QUANTILES) -> Tensor:
        """Estimates `count` quantiles of a unit's scores at even levels, smallest to largest; see `quantile_error`.

        Args:
            unit: its string, or a unit.
            count: how many quantiles.
        """
        statistics, i = self._row(unit)
        return statistics.sketch.quantiles(
            i, count, float(statistics.bottom.values[i, 0]), float(statistics.top.values[i, 0])
        )

    @property
    def quantile_error(self) -> float:
        """Strict bound of the error of a quantile's level; 0 while every score is held."""
        statistics = self._statistics_of(*next(iter(self._groups)))
        return statistics.sketch.rank_error / max(1, self.n)

    def real_scores(self, unit: Unit | str) -> RealScores:
        """Returns a unit's scores as `References.real_scores` does: all of them, or quantiles where they are too many.

        Args:
            unit: its string, or a unit.
        """
        statistics, i = self._row(unit)
        n = int(statistics.n[i])
        if statistics.sketch.error == 0:
            return RealScores(torch.from_numpy(statistics.sketch.items(i)[0]), n, self.source)
        return RealScores(self.quantiles(unit, _FINE), n, self.source)

    def sample(self, layer: str, readout: str = "") -> tuple[list[int], Tensor]:
        """Returns the positions of the R photos in the reservoir and their scores C×R on all units of a layer.

        Args:
            layer: name of the layer.
            readout: as behind @ in a unit's string; "" is the layer's default.
        """
        group = self._group(layer, readout)
        return list(self._sampled), self._statistics_of(layer, group.readout).sample

    def vectors(self, layer: str) -> Tensor:
        """Returns the layer's activation vector R×C at one position of each photo in the reservoir.

        Args:
            layer: name of the layer.
        """
        tensors = self._layer(layer)
        name = f"vectors|{layer}"
        if name not in tensors or not len(tensors[name]):
            raise NotAvailable(f"the index in {self.path} has no reservoir; make it again with reservoir=1000")
        return tensors[name]

    # --- whether it fits ---------------------------------------------------------------------------------------

    def check(self, model: Model, photos: Photos | None = None) -> None:
        """Checks that the index is of this network and these photos.

        Args:
            model: the network.
            photos: the photos.

        Raises:
            UserError: it is of other weights, another card or other photos.
        """
        if model.card.identity != self.weights_sha256:
            raise UserError(
                f"the index in {self.path} is of {self.model} with the weights {self.weights_sha256[:12]}, "
                f"not of {model.card.name} with {model.card.identity[:12]}"
            )
        given = model.card.preprocessing_json()
        for name, value in given.items():
            if value != self.card.get(name):
                raise UserError(
                    f"the index in {self.path} was made with {name} = {self.card.get(name)}, "
                    f"the card of {model.card.name} says {value}"
                )
        if photos is None:
            return
        if not self.whole:
            raise UserError(f"the index in {self.path} is a shard; merge it with the others before it is used")
        if photos.fingerprint() != self.fingerprint:
            raise UserError(f"the index in {self.path} is of the photos in {self.source}, not of {photos.source}")
        if listing_sha256(photos) != self.request.listing:
            raise UserError(
                f"the photos in {photos.source} have other names or another order than when the index in {self.path} was "
                "made; make it again"
            )
        photos.leave_out_by_name(dict(self.skipped))

    # --- inside ------------------------------------------------------------------------------------------------

    @cached_property
    def photos(self) -> dict[int, tuple[str, str]]:
        """Position -> (name, sha256) of the photos that some unit ranks, and of those in the reservoir."""
        return read_names(self.path / "photos.parquet")

    def _hits(self, unit: Unit | str, end: str, k: int | None) -> list[Hit]:
        held = self.k if end == "top" else self.bottom_k
        wanted = held if k is None else k
        if not 1 <= wanted <= held:
            raise OutOfReach(
                f"the index in {self.path} holds the {held} {'strongest' if end == 'top' else 'weakest'} photos of each "
                f"unit, {wanted} were asked for; make one with {'k' if end == 'top' else 'bottom'}={wanted}"
            )
        group, i = self._find(unit)
        best: Extremes = getattr(self._statistics_of(group.layer, group.readout), end)
        found = []
        columns = (
            best.values[i, :wanted].tolist(),
            best.photos[i, :wanted].tolist(),
            best.positions[i, :wanted].tolist(),
        )
        for rank, (value, photo, position) in enumerate(zip(*columns)):
            if photo >= 0:
                row, column = divmod(position, group.grid[1])
                if photo not in self.photos:
                    raise Unreadable(f"the index in {self.path} is damaged: it does not name its photo {photo}")
                name = f"{quoted_layer(group.layer)}:{i}{group.suffix}"
                found.append(Hit(name, rank, value, self.photos[photo][0], row, column, photo))
        return found

    def _row(self, unit: Unit | str) -> tuple[UnitStatistics, int]:
        group, i = self._find(unit)
        return self._statistics_of(group.layer, group.readout), i

    def _find(self, unit: Unit | str) -> tuple[UnitGroup, int]:
        if isinstance(unit, Unit):
            if unit.parts:
                raise UserError(f"{unit} is a combination; an index holds units of layers one by one")
            if unit.kind == "direction":
                raise UserError(f"{unit} is a direction; an index holds units of layers and of dictionaries")
            if unit.model.card.identity != self.weights_sha256:
                self.check(unit.model)
            if unit.dictionary is None:
                return self._group(unit.layer, str(unit.address.readout)), unit.index
            group = self._group(f"dict({unit.address.path})", str(unit.address.readout))
            if group.numbers != digest(unit.dictionary):
                raise UserError(f"{unit}: the index in {self.path} was made with other numbers in that file")
            return group, unit.index
        address = parse(unit)
        if address.kind == "sum":
            raise UserError(f"{unit} is a combination; an index holds units of layers one by one")
        if address.kind == "dict" and isinstance(address.index, int):
            address = replace(address, kind="unit", layer=f"dict({address.path})")
        if address.kind != "unit" or isinstance(address.index, tuple) or address.index == "*":
            one = f"{quoted_layer(self.layers[0])}:0"
            raise UserError(f"{unit}: an index is asked for one unit of a layer at a time, such as {one}")
        group = self._group(address.layer, str(address.readout))
        if isinstance(address.index, Label):
            labels = self.origin.labels or []
            same = [i for i, label in enumerate(labels) if label.lower() == address.index.text.strip().lower()]
            if group.layer != "logits" or not same:
                raise UserError(
                    f'no label "{address.index.text}" in the index{nearest_label(address.index.text, labels)}'
                )
            return group, same[0]
        assert isinstance(address.index, int)
        if address.index >= group.channels:
            raise UserError(f"{unit}: {group.layer} has units 0 to {group.channels - 1}")
        return group, address.index

    def _group(self, layer: str, readout: str) -> UnitGroup:
        """Returns the group of a layer with a readout as it stands in a unit's string."""
        groups = [group for group in self._groups.values() if group.layer == layer]
        if not groups:
            raise UserError(self._no_layer(layer))
        how, dot, _ = readout.partition(".")
        tail = ".pre" if dot else ""
        vector = groups[0].grid == (1, 1) and how in ("", "mean", "max", "centre")
        explicit = ("value" if vector else how or "mean") + tail
        for group in groups:
            if group.readout == explicit:
                return group
        held = [group.readout for group in groups]
        raise UserError(
            f'the index in {self.path} has no readout "{explicit}" of {layer}; it holds {", ".join(held)}'
            + nearest(explicit, held)
        )

    def _no_layer(self, layer: str) -> str:
        return (
            f'the index in {self.path} has no layer "{layer}"{nearest(layer, self.layers)}; '
            f"it holds {', '.join(self.layers)}"
        )

    def _layer(self, layer: str) -> dict[str, Tensor]:
        if layer not in self.layers:
            raise UserError(self._no_layer(layer))
        if layer not in self._tensors:
            self._tensors[layer] = read_tensors(self.path / "layers" / f"{slug(layer)}.safetensors").tensors
        return self._tensors[layer]

    def _statistics_of(self, layer: str, readout: str) -> UnitStatistics:
        if (layer, readout) not in self._statistics:
            mine = {
                name.partition("|")[2]: tensor
                for name, tensor in self._layer(layer).items()
                if name.partition("|")[0] == readout
            }
            file = self.path / "layers" / f"{slug(layer)}.safetensors"
            found = UnitStatistics.from_tensors(mine, self._sketch_error, self._sketch_start, where=file)
            found.check(self._groups[layer, readout].channels, self.k, self.bottom_k, file)
            self._statistics[layer, readout] = found
        return self._statistics[layer, readout]
