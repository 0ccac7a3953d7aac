"""Whether pictures of planted units tell their causes, and whether the evidence says so where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from entoptic.base.estimates import wilson
from entoptic.images.photos import Photos
from entoptic.methods.contract import MethodConfig
from entoptic.planted.meter import Reading, read
from entoptic.planted.networks import PlantedNetwork, PlantedUnit
from entoptic.runs.pictures import Picture
from entoptic.runs.see import see
from entoptic.units.unit import bind

RESTING = 0.01
"""A planted unit rests below this and fires up to 1: one that no scene drives so far is silent."""
DRIVEN = 0.5
"""A picture drives a unit where it reaches this share of what the strongest scene does."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A proportion with its interval.

    Attributes:
        hits: how many.
        n: of how many.
    """

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson)."""
        return wilson(self.hits, self.n)

    @property
    def text(self) -> str:
        """Such as "9 of 10 [0.60, 0.98]"; "–" for none of none."""
        low, high = self.interval
        return f"{self.hits} of {self.n} [{low:.2f}, {high:.2f}]" if self.n else "–"


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One picture of a planted unit.

    Attributes:
        sample: of the run, from 0.
        reading: what the picture shows.
        cause: whether it shows one of the unit's causes.
        decoy: whether it shows the decoy of a manipulated unit.
        null: whether its evidence says that no scene drives the unit.
        drives: whether it drives the unit as far as `DRIVEN` says.
        selective: whether `selectivity` is at least 0, or None where it has no value.
        transfers: whether it drives the same unit of a second network as far, or None without one.
        path: of the PNG.
    """

    sample: int
    reading: Reading
    cause: bool
    decoy: bool
    null: bool
    drives: bool
    selective: bool | None
    transfers: bool | None
    path: Path

    @property
    def warned(self) -> bool:
        """Whether any of its evidence says not to trust it."""
        return not self.drives or self.selective is False or self.transfers is False


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What pictures of one unit by one method tell of it.

    Attributes:
        network: name of the planted network.
        method: what the method is called here.
        unit: the truth.
        sightings: one for each picture.
        others: how often these pictures also show the causes of units that have nothing in common with this one.
    """

    network: str
    method: str
    unit: PlantedUnit
    sightings: tuple[Sighting, ...]
    others: Share

    @property
    def identified(self) -> bool:
        """Whether more than half of the pictures show a cause of the unit; for a silent unit, whether they say so."""
        good = sum(s.null if self.unit.null else s.cause for s in self.sightings)
        return 2 * good > len(self.sightings)

    @property
    def fooled(self) -> bool:
        """Whether more than half of the pictures show the decoy and not the cause, as if it were what the unit looks for."""
        return 2 * sum(s.decoy and not s.cause for s in self.sightings) > len(self.sightings)


def recover(
    network: PlantedNetwork,
    config: MethodConfig,
    *,
    method: str,
    scenes: str | Path,
    out: str | Path,
    units: Sequence[PlantedUnit] | None = None,
    n: int = 3,
    seed: int = 0,
    second: PlantedNetwork | None = None,
    progress: bool = False,
) -> list[Recovered]:
    """Makes pictures of planted units by an ordinary run and compares what they show with the truth.

    Args:
        network: a planted network.
        config: of the method.
        method: what it is called in the result.
        scenes: folder of scenes (`write_scenes`), the run's photos.
        out: folder of the run; what is there is not made again.
        units: some of the network's, None for all.
        n: pictures of each.
        seed: of the run.
        second: another network with the same units, which no method sees; it gives `Sighting.transfers`.
        progress: whether to say how far the run is.

    Returns:
        One result for each unit of which there is any picture.
    """
    chosen = network.units if units is None else tuple(units)
    run = see(
        network.model, [unit.unit for unit in chosen], method=config, photos=scenes, n=n, seed=seed, out=out,
        verifiers="", context=False, progress=progress,
    )  # fmt: skip
    judge = None if second is None else _second_judge(second, chosen, scenes)
    found = []
    for unit in chosen:
        pictures = sorted((p for p in run if p.unit == str(bind(network.model, unit.unit)[0])), key=lambda p: p.sample)[
            :n
        ]
        sightings = tuple(_sighting(unit, picture, judge) for picture in pictures)
        if sightings:
            others = _others(unit, network.units, sightings)
            found.append(Recovered(network=network.name, method=method, unit=unit, sightings=sightings, others=others))
    return found


def _second_judge(
    second: PlantedNetwork, units: Sequence[PlantedUnit], scenes: str | Path
) -> Callable[[PlantedUnit, Picture], bool]:
    """A function that says whether a picture drives the second network's unit as far as its strongest scene."""
    strongest = {unit.unit: 0.0 for unit in units}
    bound = {unit.unit: bind(second.model, unit.unit)[0] for unit in units}
    with torch.no_grad():
        for _, images in Photos.open(scenes).batches(second.model.card.prepare, 64):
            for address, one in bound.items():
                strongest[address] = max(strongest[address], float(one.score(images).max()))

    def drives(unit: PlantedUnit, picture: Picture) -> bool:
        with torch.no_grad():
            value = float(bound[unit.unit].score(picture.tensor[None]))
        return value >= DRIVEN * strongest[unit.unit]

    return drives


def _sighting(unit: PlantedUnit, picture: Picture, judge: Callable[[PlantedUnit, Picture], bool] | None) -> Sighting:
    reading = read(picture.tensor)
    activation, margin, selectivity = picture["activation"], picture["margin"], picture["selectivity"]
    strongest = None if activation is None or margin is None else activation - margin
    null = strongest is not None and strongest < RESTING
    return Sighting(
        sample=picture.sample,
        reading=reading,
        cause=any(reading.shows(cause) for cause in unit.causes),
        decoy=unit.decoy is not None and reading.shows(unit.decoy),
        null=null,
        drives=not null and strongest is not None and activation is not None and activation >= DRIVEN * strongest,
        selective=None if selectivity is None else selectivity >= 0,
        transfers=None if judge is None else judge(unit, picture),
        path=picture.path,
    )


def _others(unit: PlantedUnit, units: Sequence[PlantedUnit], sightings: Sequence[Sighting]) -> Share:
    """How often the pictures show the causes of units that share no aspect's value with this one."""
    own = {value for cause in (*unit.causes, *filter(None, [unit.decoy])) for value in cause.named.values()}
    apart = [
        other
        for other in units
        if other.causes and not own & {value for cause in other.causes for value in cause.named.values()}
    ]
    hits = sum(any(s.reading.shows(cause) for cause in other.causes) for other in apart for s in sightings)
    return Share(hits=hits, n=len(apart) * len(sightings))


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All units of one network by one method.

    Attributes:
        network: its name.
        method: what it is called.
        identified: units whose pictures show the planted cause, of those that have one.
        silent: silent units whose evidence says so, of those.
        fooled: manipulated units whose pictures show the decoy instead, of those.
        chance: pictures that show the cause of a unit with which theirs has nothing in common.
        misleading: pictures that drive their unit and do not show its cause.
        caught: those of them that other evidence warns of (`selectivity`, the second network).
        caught_by_selectivity: those of them that `selectivity` warns of, where it has a value.
        caught_by_transfer: those of them that the second network warns of.
        false_alarms: pictures that show the cause and are warned of, or that do not drive the unit.
        false_by_selectivity: those that show the cause and `selectivity` warns of, where it has a value.
        false_by_transfer: those that show the cause and drive the unit, and the second network warns of.
    """

    network: str
    method: str
    identified: Share
    silent: Share
    fooled: Share
    chance: Share
    misleading: Share
    caught: Share
    caught_by_selectivity: Share
    caught_by_transfer: Share
    false_alarms: Share
    false_by_selectivity: Share
    false_by_transfer: Share


def summarise(found: Sequence[Recovered]) -> list[Summary]:
    """Returns one summary for each network and method, in the order in which they come.

    Args:
        found: results of `recover`.
    """
    keys = list(dict.fromkeys((one.network, one.method) for one in found))
    return [_summary(network, method, [o for o in found if (o.network, o.method) == (network, method)])
            for network, method in keys]  # fmt: skip


def _summary(network: str, method: str, found: Sequence[Recovered]) -> Summary:
    tuned = [one for one in found if not one.unit.null]
    pictures = [s for one in tuned for s in one.sightings]
    misleading = [s for s in pictures if s.drives and not s.cause]
    right = [s for s in pictures if s.cause]
    return Summary(
        network=network,
        method=method,
        identified=share(one.identified for one in tuned),
        silent=share(one.identified for one in found if one.unit.null),
        fooled=share(one.fooled for one in tuned if one.unit.decoy is not None),
        chance=Share(hits=sum(one.others.hits for one in tuned), n=sum(one.others.n for one in tuned)),
        misleading=Share(hits=len(misleading), n=len(pictures)),
        caught=share(s.warned for s in misleading),
        caught_by_selectivity=share(not s.selective for s in misleading if s.selective is not None),
        caught_by_transfer=share(not s.transfers for s in misleading if s.transfers is not None),
        false_alarms=share(s.warned for s in right),
        false_by_selectivity=share(not s.selective for s in right if s.selective is not None),
        false_by_transfer=share(not s.transfers for s in right if s.drives and s.transfers is not None),
    )


def share(found: Iterable[bool]) -> Share:
    """Returns how many of some answers are yes.

    Args:
        found: the answers.
    """
    answers = list(found)
    return Share(hits=sum(answers), n=len(answers))
