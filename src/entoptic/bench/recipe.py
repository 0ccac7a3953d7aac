"""What a recipe of the benchmark is: networks, units, methods with their configs, seeds, judges and a planted part."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from entoptic.methods.contract import MethodConfig, card_of, config_identity


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method with its config, as one row of a table.

    Attributes:
        label: of the row.
        config: of the method.
    """

    label: str
    config: MethodConfig


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Units of one network and the methods that make their pictures. The first method is what the others are compared with.

    Attributes:
        name: of the table, also of its run's folder.
        model: anything `load` takes.
        units: strings of the unit grammar.
        seeds: one picture of each unit and method for every seed.
        methods: rows of the table.
        matches_photos: whether methods read photos instead of the shipped statistics. They then get one half of the
            photos, and everything is measured on the other half.
    """

    name: str
    model: str
    units: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[Entry, ...]
    matches_photos: bool = False


@dataclass(frozen=True, kw_only=True)
class PlantedNetworkPart:
    """A planted network and the units of it that are shown.

    Attributes:
        network: its name.
        units: names of units, empty for all.
    """

    network: str
    units: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlantedPart:
    """Units whose causes are known by construction.

    Attributes:
        networks: whose units are shown.
        methods: rows of the table, the first is what the others are compared with.
        n: pictures of each unit and method.
        seed: of the runs.
        scenes: how many scenes are drawn as photos.
    """

    networks: tuple[PlantedNetworkPart, ...]
    methods: tuple[Entry, ...]
    n: int
    seed: int
    scenes: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One benchmark.

    Attributes:
        name: by which it is asked for.
        title: what it is for, in a few words.
        note: what its numbers hold for, in a sentence or two.
        subjects: networks and units.
        judges: networks that judge the pictures and that no method optimises. They may have taken part in choosing a method's
            recipe on other classes.
        untouched: judges that took part in no choice. Those that cannot be loaded are named with the reason.
        planted: the part with known causes, or None.
        needs_photos: whether it cannot be run without photos.
        most_photos: photos that are measured at most, at even distances through the set.
    """

    name: str
    title: str
    note: str
    subjects: tuple[Subject, ...]
    judges: tuple[str, ...]
    untouched: tuple[str, ...] = ()
    planted: PlantedPart | None = None
    needs_photos: bool = False
    most_photos: int = 2000

    @property
    def pictures(self) -> int:
        """How many pictures of real networks it takes."""
        return sum(len(s.units) * len(s.seeds) * len(s.methods) for s in self.subjects)


def cost_of(recipe: Recipe) -> str:
    """Returns what a recipe takes, such as "960 pictures, 252,000 network evaluations and the planted part".

    Args:
        recipe: the recipe.
    """
    evaluations = sum(
        len(s.units) * len(s.seeds) * getattr(e.config, "steps", 0) * getattr(e.config, "crops", 1)
        for s in recipe.subjects
        for e in s.methods
    )
    planted = "" if recipe.planted is None else " and the planted part"
    return f"{recipe.pictures:,} pictures, about {evaluations:,} network evaluations{planted}"


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """Returns all of a recipe as JSON holds it, every method with its whole config.

    Two recipes are the same benchmark where these are equal.

    Args:
        recipe: the recipe.
    """

    def rows(methods: tuple[Entry, ...]) -> list[dict[str, Any]]:
        return [
            {"label": e.label, "method": card_of(e.config).name, "config": config_identity(e.config)} for e in methods
        ]

    held = asdict(recipe)
    if not recipe.untouched:  # tables that were stored before there were such judges stay the same benchmark
        del held["untouched"]
    for subject, plain in zip(recipe.subjects, held["subjects"]):
        plain["methods"] = rows(subject.methods)
    if recipe.planted is not None:
        held["planted"]["methods"] = rows(recipe.planted.methods)
    return json.loads(json.dumps(held))
