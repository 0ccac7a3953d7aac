"""Pictures grouped into pages, one for each unit of each network, and their order."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from entoptic.gallery.formats import exact_text, is_number
from entoptic.gallery.read_run import StoredPicture
from entoptic.methods import METHODS

# Methods in the order of a reader's questions: what the unit looks for, then what it sees in real photos.
METHOD_ORDER = (
    "vital", "vital-paper", "klsc", "klsc-twisted", "energydps", "best-of", "prompt", "prompt-words", "prompt-class",
    "deep-inversion", "deep-inversion-adaptive", "maco", "fourier", "diverse", "accentuate", "caricature", "pixels", "retrieval",
    "retrieval-tilted", "retrieval-bottom", "invert",
)  # fmt: skip


@dataclass(frozen=True)
class UnitPage:
    """The page of one unit.

    Attributes:
        name: of the page's file, without ".html".
        pictures: at least one, all of one unit of one network, by method, then sample.
    """

    name: str
    pictures: tuple[StoredPicture, ...]

    @property
    def first(self) -> StoredPicture:
        """The first picture: what it says of unit and network holds for all."""
        return self.pictures[0]

    @property
    def href(self) -> str:
        """The page's address, relative to the site."""
        return quote(f"{self.name}.html")

    @property
    def heading(self) -> str:
        """What the unit is called."""
        return self.first.label or self.first.unit


def group_by_unit(pictures: Sequence[StoredPicture]) -> list[UnitPage]:
    """Returns the pages of all units, in natural order of network, unit and folder."""
    groups: dict[tuple[str, str, str], list[StoredPicture]] = {}
    for picture in pictures:
        groups.setdefault((picture.model, picture.unit, picture.folder), []).append(picture)
    pages: list[UnitPage] = []
    names: set[str] = set()
    for model, unit, folder in sorted(groups, key=lambda key: tuple(_natural_order(part) for part in key)):
        digest = hashlib.sha256(f"{model}\n{unit}\n{folder}".encode("utf-8", "backslashreplace")).hexdigest()[:8]
        # One folder may hold one unit of two models; and a name must fit a file system.
        name = f"unit-{folder}" if len(folder.encode()) <= 200 else f"unit-{folder[:50]}-{digest}"
        if name in names:
            name = f"{name}-{digest}"
        names.add(name)
        group = groups[model, unit, folder]
        group.sort(key=lambda one: (method_order(one.method), one.sample, _mixing_weight(one), one.key))
        pages.append(UnitPage(name, tuple(group)))
    return pages


def method_order(method: str) -> tuple[int, str]:
    """Returns a sorting key: methods of `METHOD_ORDER` first, then the others by name."""
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), method)


def _natural_order(text: str) -> tuple[Any, ...]:
    """A sorting key under which blocks.2 comes before blocks.10."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _mixing_weight(picture: StoredPicture) -> float:
    """The weight of a mixture of two maps, which orders its pictures; 0 for all others."""
    weight = picture.config.get("weight")
    return float(weight) if is_number(weight) else 0.0


def variants(pictures: Sequence[StoredPicture]) -> dict[str, str]:
    """Returns by anchor what sets a picture apart from others of its unit and method: "steps 100, seed 1".

    Args:
        pictures: of one page. Those whose options are those of all others of their unit and method have no entry, unless
            another one has the same sample.
    """
    by_unit: dict[tuple[str, str], list[StoredPicture]] = {}
    for picture in pictures:
        by_unit.setdefault((picture.unit, picture.method), []).append(picture)
    found: dict[str, str] = {}
    for group in by_unit.values():
        configs = [_options(one) for one in group]
        names = sorted({name for config in configs for name in config})
        differing = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1]
        told = [tuple(repr(config.get(name)) for name in differing) for config in configs]
        alike = Counter((one.sample, parts) for one, parts in zip(group, told, strict=True))
        for one, config, parts in zip(group, configs, told, strict=True):
            words = [f"{name} {exact_text(config[name])}" if name in config else f"no {name}" for name in differing[:3]]
            if alike[one.sample, parts] > 1:  # its options are the same, and its key is not
                words.append(f"key {one.key[:8]}")
            if words:
                found[one.anchor] = ", ".join(words)
    return found


def _options(picture: StoredPicture) -> dict[str, Any]:
    """The options of a picture; those that its method got later have the value of what was done before."""
    card = METHODS.get(picture.method)
    return {**(card.config.came_later if card is not None else {}), **picture.config}
