"""The pictures of runs, by unit and method: what a study can ask about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entoptic.errors import UserError, counted
from entoptic.methods import METHODS
from entoptic.runs.pictures import Picture
from entoptic.runs.store import Run

_NATURAL = "retrieval"
"""Methods whose names begin so show real photos."""


@dataclass(frozen=True, kw_only=True)
class UnitMaterial:
    """One unit of one network with its pictures.

    Attributes:
        unit: its string.
        label: what people call it, or "".
        model: name of the network.
        weights: sha256 of the network's weights.
        layer: of the unit.
        pictures: by method, in the order of their samples.
        photos: files of small copies of the photos that drive it most, strongest first.
    """

    unit: str
    label: str
    model: str
    weights: str
    layer: str
    pictures: Mapping[str, tuple[Picture, ...]]
    photos: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The unit and its network, which is unique in a study."""
        return f"{self.model} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the runs hold for a study.

    Attributes:
        units: that every method shows, in the order of their names.
        methods: in the order in which they were met.
        samples: pictures that every unit and method has at least; no method shows more.
        left_out: units that are not shown by every method, each with the reason.
        runs: one line a run.
    """

    units: tuple[UnitMaterial, ...]
    methods: tuple[str, ...]
    samples: int
    left_out: tuple[str, ...]
    runs: tuple[str, ...]


def read_material(runs: Sequence[str | Path]) -> Material:
    """Reads the pictures of units from runs.

    Args:
        runs: folders. Pictures of the same unit, network and method are put together.

    Raises:
        UserError: there is no run, it is damaged, or no unit is shown by every method.
    """
    found: dict[tuple[str, str], dict[str, list[Picture]]] = {}
    homes: dict[tuple[str, str], Run] = {}
    lines = []
    for folder in runs:
        run = Run.open(folder)
        count = 0
        for picture in run:
            if not _shows_a_unit(picture):
                continue
            key = (_weights(picture), picture.unit)
            homes.setdefault(key, run)
            if not _context(homes[key], picture):
                homes[key] = run
            found.setdefault(key, {}).setdefault(picture.method, []).append(picture)
            count += 1
        lines.append(f"{run.about.get('title') or run.path.resolve().name}: {counted(count, 'picture')}")
    methods = tuple(dict.fromkeys(method for by_method in found.values() for method in by_method))
    if not methods:
        raise UserError(
            f"no picture of a unit by a method in {', '.join(map(str, runs))}; a study needs a run of `entoptic see` "
            "(photos that retrieval shows are the natural condition of a study, not a method)"
        )
    units, left_out = [], []
    for key, by_method in sorted(found.items(), key=lambda one: one[0]):
        missing = [method for method in methods if method not in by_method]
        if missing:
            left_out.append(f"{key[1]}: no picture by {', '.join(missing)}")
            continue
        units.append(_unit(by_method, homes[key]))
    if not units:
        raise UserError(
            f"no unit is shown by all of {', '.join(methods)}, so methods cannot be compared; {left_out[0]}"
        )
    samples = min(len(pictures) for unit in units for pictures in unit.pictures.values())
    return Material(units=tuple(units), methods=methods, samples=samples, left_out=tuple(left_out), runs=tuple(lines))


def _shows_a_unit(picture: Picture) -> bool:
    card = METHODS.get(picture.method)
    return not picture.method.startswith(_NATURAL) and (card is None or card.shows_units)


def _weights(picture: Picture) -> str:
    model = picture.record.get("model")
    return str(model.get("weights_sha256") or "") if isinstance(model, Mapping) else ""


def _unit(by_method: Mapping[str, list[Picture]], run: Run) -> UnitMaterial:
    first = next(iter(by_method.values()))[0]
    model: Any = first.record.get("model") or {}
    return UnitMaterial(
        unit=first.unit,
        label=first.label or "",
        model=str(model.get("name") or ""),
        weights=_weights(first),
        layer=str(first.record.get("layer") or first.unit.partition(":")[0]),
        pictures={
            method: tuple({one.sample: one for one in sorted(pictures, key=lambda p: p.sample)}.values())
            for method, pictures in by_method.items()
        },
        photos=_context(run, first),
    )


def _context(run: Run, picture: Picture) -> tuple[Path, ...]:
    """The run's own small copies of the unit's strongest photos."""
    folder = picture.path.parent.name
    record = run.context(folder)
    if record is None or record.get("weights_sha256") != _weights(picture):
        return ()
    entries = record.get("strongest")
    places = [run.map_file({"file": f"context/{folder}/{_file(one)}"}) for one in entries or () if _file(one)]
    return tuple(place for place in places if place is not None)


def _file(entry: Any) -> str:
    name = entry.get("file") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) and "/" not in name and "\\" not in name else ""
