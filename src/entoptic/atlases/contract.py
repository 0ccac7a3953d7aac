"""What a method that makes a map is given and gives back, and the methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from entoptic.base.progress import Progress
from entoptic.errors import NotAvailable, OutOfReach, UserError, instead

FEWEST = 10
"""Points below which a map says nothing."""
EXACT = 5000
"""Points up to which all distances are held at once."""

Rows = Callable[[np.ndarray], np.ndarray]
"""Distances from some points (their numbers, M) to all points, M×N."""


class Space(StrEnum):
    """Where the points of a map lie."""

    PLANE = "plane"
    SPHERE = "sphere"


@dataclass(frozen=True, kw_only=True)
class MapProblem:
    """What a map is to show.

    Attributes:
        vectors_ND: one row a point, float32. Points are alike where their rows are near.
        neighbours: how many neighbours of each point the map looks after (perplexity of t-SNE, n_neighbors of UMAP).
        seed: of all that is random.
        known_NN: distances that say how alike points are in what is known already, or None.
        removed: the weight of the known distances, or None for the weight at which neighbours do not show it.
        progress: is called with (what, done, total).
    """

    vectors_ND: np.ndarray
    neighbours: int
    seed: int
    known_NN: np.ndarray | None = None
    removed: float | None = None
    progress: Progress

    def __len__(self) -> int:
        return len(self.vectors_ND)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A map.

    Attributes:
        positions: N×2 on the plane, N×3 of length 1 on the sphere, float32.
        space: which of the two.
        asked: the distances that the map is to show.
        about: what else was decided on the way, by name.
    """

    positions: np.ndarray
    space: Space = Space.PLANE
    asked: Rows
    about: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a map is to show.

    Attributes:
        rows: its distances.
        about: what was decided for them, by name.
    """

    rows: Rows
    about: dict[str, float] = field(default_factory=dict)


class MapMethod(Protocol):
    """A method: a module with two functions. The same problem gives the same bytes."""

    def ask(self, problem: MapProblem) -> Asked:
        """Returns the distances that the map is to show."""

    def draw(self, problem: MapProblem, asked: Asked) -> np.ndarray:
        """Returns the positions of the points on it, float32."""


@dataclass(frozen=True, kw_only=True)
class MapCard:
    """A method that makes maps.

    Attributes:
        name: of the method.
        title: what it is in one line.
        module: of this room, a `MapMethod`.
        space: where its points lie.
        packages: that it needs beyond the core, by the names of their modules.
        most: points that it takes at most.
        fewest: points that it takes at least.
        takes_known: whether it takes distances of what is known.
    """

    name: str
    title: str
    module: str
    space: Space = Space.PLANE
    packages: tuple[str, ...] = ()
    most: int = 1_000_000
    fewest: int = FEWEST
    takes_known: bool = False


MAPS: dict[str, MapCard] = {
    card.name: card
    for card in (
        MapCard(name="tsne", title="t-SNE, which keeps neighbours", module="tsne", packages=("openTSNE",)),
        MapCard(name="umap", title="UMAP, which keeps neighbours and parts groups", module="umap", packages=("umap",)),
        MapCard(name="densmap", title="densMAP, UMAP that keeps density too", module="densmap", packages=("umap",)),
        MapCard(name="dtsne", title="dtSNE, which keeps neighbours and density", module="dtsne", most=EXACT),
        MapCard(
            name="confetti",
            title="CONFETTI, t-SNE without what is known already",
            module="confetti",
            packages=("openTSNE",),
            most=EXACT,
            takes_known=True,
        ),
        MapCard(
            name="mercat",
            title="Mercat, a sphere that keeps the angles of triples",
            module="mercat",
            space=Space.SPHERE,
            most=EXACT,
        ),
    )
}
"""Every method by its name."""


def find_map(name: str) -> MapCard:
    """Returns the card of a method.

    Args:
        name: of the method.

    Raises:
        UserError: there is none of that name.
        NotAvailable: the packages that it needs are not installed.
    """
    if name not in MAPS:
        raise UserError(f'there is no map "{name[:80]}"{instead(name, MAPS)}')
    card = MAPS[name]
    missing = [package for package in card.packages if find_spec(package) is None]
    if missing:
        others = ", ".join(one.name for one in MAPS.values() if not one.packages)
        raise NotAvailable(
            f"map {name} is drawn by {', '.join(missing)}, which is not installed: pip install 'entoptic[atlas]'; "
            f"without it there are {others}"
        )
    return card


def check_size(card: MapCard, n: int, what: str) -> None:
    """Checks that a method can map so many points.

    Args:
        card: of the method.
        n: points.
        what: they are, for the message ("photos").

    Raises:
        OutOfReach: they are too few or too many.
    """
    if n < card.fewest:
        raise OutOfReach(f"a map needs at least {card.fewest} {what}, there {'is' if n == 1 else 'are'} {n}")
    if n > card.most:
        raise OutOfReach(
            f"map {card.name} compares all pairs and takes at most {card.most:,} {what}, there are {n:,}; "
            "give fewer, or --map umap or tsne"
        )


def make_map(card: MapCard, problem: MapProblem, drawn: np.ndarray | None = None) -> Layout:
    """Makes a map.

    Args:
        card: of the method.
        problem: what to map.
        drawn: the positions, where they were drawn before.
    """
    method: MapMethod = import_module(f"entoptic.atlases.{card.module}")
    asked = method.ask(problem)
    positions = drawn if drawn is not None else method.draw(problem, asked)
    return Layout(positions=positions, space=card.space, asked=asked.rows, about=asked.about)
