"""The planted part of a benchmark: units whose causes are known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entoptic.base.files import check_inside
from entoptic.bench.columns import COLUMNS
from entoptic.bench.intervals import difference_of_shares, mean_of_shares
from entoptic.bench.recipe import Entry, PlantedPart
from entoptic.bench.results import Cell, Cost, Shown
from entoptic.planted.networks import planted_network
from entoptic.planted.recover import Recovered, recover
from entoptic.planted.scenes import make_scenes, write_scenes
from entoptic.runs.pictures import Picture
from entoptic.runs.store import Run


def subject_of(network: str) -> str:
    """Returns the name of the part of a planted network."""
    return f"planted, {network}"


def recover_all(part: PlantedPart, out: Path, *, progress: bool) -> list[Recovered]:
    """Makes the pictures of the planted part, as far as they are not there, and compares them with the truth.

    Args:
        part: what the recipe says.
        out: the benchmark's folder.
        progress: whether to say how far it is.
    """
    folder = out / "runs" / "planted"
    check_inside(folder / "scenes" / "00000.png", out)
    scenes = write_scenes(make_scenes(part.scenes, seed=0), folder / "scenes")
    second = planted_network("twin")
    found: list[Recovered] = []
    for one in part.networks:
        network = planted_network(one.network)
        units = [network.unit(name) for name in one.units] or None
        for entry in part.methods:
            found += recover(
                network,
                entry.config,
                method=entry.label,
                scenes=scenes,
                out=folder_of(out, one.network, entry),
                units=units,
                n=part.n,
                seed=part.seed,
                second=second,
                progress=progress,
            )
    return found


def folder_of(out: Path, network: str, entry: Entry) -> Path:
    """Returns the folder of the run of a planted network and a method.

    Args:
        out: the benchmark's folder.
        network: name of the network.
        entry: the method.
    """
    return out / "runs" / "planted" / network / entry.label.replace(" ", "-")


def cells_of(part: PlantedPart, found: Sequence[Recovered]) -> list[Cell]:
    """Returns the shares of units that methods identify, are fooled by, or say nothing drives.

    Args:
        part: what the recipe says.
        found: what was recovered.
    """
    first, cells = part.methods[0].label, []
    for one in part.networks:
        for entry in part.methods:
            mine, ours = ([r for r in found if (r.network, r.method) == (one.network, label)]
                          for label in (entry.label, first))  # fmt: skip
            for column, answers, theirs in (
                ("planted_identified", _identified(mine), _identified(ours)),
                ("planted_silent", _silent(mine), _silent(ours)),
                ("planted_fooled", _fooled(mine), _fooled(ours)),
            ):
                if answers:
                    cells.append(_cell(one.network, entry.label, column, answers, theirs, entry.label != first))
            misleading = [s for r in mine if not r.unit.null for s in r.sightings if s.drives and not s.cause]
            if misleading:
                warned = [float(s.warned) for s in misleading]
                cells.append(
                    Cell(
                        subject=subject_of(one.network),
                        method=entry.label,
                        column="planted_warned",
                        n=len(warned),
                        found=mean_of_shares(warned),
                        over="pictures",
                    )
                )
    order = list(COLUMNS)
    labels = [entry.label for entry in part.methods]
    return sorted(cells, key=lambda c: (c.subject != subject_of("honest"), c.subject, labels.index(c.method),
                                        order.index(c.column)))  # fmt: skip


def _identified(found: Sequence[Recovered]) -> dict[str, float]:
    return {r.unit.name: float(r.identified) for r in found if not r.unit.null}


def _silent(found: Sequence[Recovered]) -> dict[str, float]:
    return {r.unit.name: float(r.identified) for r in found if r.unit.null}


def _fooled(found: Sequence[Recovered]) -> dict[str, float]:
    return {r.unit.name: float(r.fooled) for r in found if r.unit.decoy is not None}


def _cell(
    network: str, method: str, column: str, mine: dict[str, float], first: dict[str, float], compared: bool
) -> Cell:
    both = [unit for unit in mine if unit in first]
    gap = difference_of_shares([mine[u] for u in both], [first[u] for u in both]) if compared and both else None
    return Cell(
        subject=subject_of(network), method=method, column=column, n=len(mine), gap=gap,
        found=mean_of_shares(list(mine.values())),
    )  # fmt: skip


def costs_of(part: PlantedPart, found: Sequence[Recovered]) -> list[Cost]:
    """Returns the network evaluations of the planted part. Its pictures are too small for times to mean anything.

    Args:
        part: what the recipe says.
        found: what was recovered.
    """
    costs = []
    for one in part.networks[:1]:
        evaluations = {}
        for entry in part.methods:
            paths = [s.path for r in found if (r.network, r.method) == (one.network, entry.label) for s in r.sightings]
            evaluations[entry.label] = (_evaluations(paths), len(paths))
        base = evaluations[part.methods[0].label][0]
        for label, (count, pictures) in evaluations.items():
            ratio = count / base if count is not None and base else None
            costs.append(
                Cost(
                    subject=subject_of(one.network),
                    method=label,
                    evaluations=count,
                    ratio=ratio,
                    time=None,
                    pictures=pictures,
                )
            )
    return costs


def _evaluations(paths: Sequence[Path]) -> int | None:
    if not paths:
        return None
    run = Run.open(paths[0].parents[2])
    known = {picture.path: picture for picture in run}
    found: Picture | None = known.get(paths[0])
    return None if found is None else found.record["trace"].get("evaluations")


def shown_of(part: PlantedPart, found: Sequence[Recovered], out: Path) -> list[Shown]:
    """Returns the first picture of every planted unit by every method, for the page.

    Args:
        part: what the recipe says.
        found: what was recovered.
        out: the benchmark's folder.
    """
    return [
        Shown(
            subject=subject_of(r.network), method=r.method, unit=r.unit.unit, label=r.unit.name, seed=part.seed,
            file=r.sightings[0].path.relative_to(out).as_posix(),
        )
        for r in found
    ]  # fmt: skip
