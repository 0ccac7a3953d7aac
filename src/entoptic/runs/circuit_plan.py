"""Which photos a circuit is found and judged on, what it depends on, and what it will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entoptic.base.bounds import check_bounds
from entoptic.base.cache import content_key
from entoptic.base.files import sha256_of
from entoptic.base.progress import Progress, silent
from entoptic.circuits.certify import CertifyOptions
from entoptic.circuits.corruptions import CORRUPTIONS, corrupt
from entoptic.circuits.finders import find_finder
from entoptic.circuits.graph import NODES, CircuitGraph, read_graph
from entoptic.circuits.words import PLACINGS, written_on
from entoptic.errors import Unreadable, UserError, counted, instead
from entoptic.images.masks import Masks, read_masks
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.runs.circuit_cost import CircuitCost, estimate_cost
from entoptic.runs.circuit_photos import attacked, driving, of_class, word_of
from entoptic.units.unit import Unit

__all__ = ["CircuitCost", "CircuitOptions", "CircuitPlan", "estimate_cost", "plan_circuit"]
VERSION = 1
"""Of what a circuit's result holds: another one makes another key."""
LEAST_TO_SPLIT = 4
"""Photos from which on other photos judge a circuit than those that it is found on."""


@dataclass(frozen=True, kw_only=True)
class CircuitOptions:
    """How a circuit is found and judged.

    Attributes:
        finder: one of `FINDERS`.
        corrupt: one of `CORRUPTIONS`.
        nodes: "auto", "heads" or "blocks".
        groups: senders of each block.
        n: photos to find the circuit on; as many others judge it, where there are.
        others: photos of other classes.
        keep: share of the network's accuracy (or of the score's change) that the circuit keeps.
        steps: of EAP-IG.
        reruns: further searches on other draws of the photos, for the overlap.
        seed: of every draw.
        at_once: photos of one pass.
        word: written on photos, for the corruption "text"; "" for the name of the unit's class.
        placing: one of `PLACINGS`, where it is written.
    """

    finder: str = "eap-ig"
    corrupt: str = "blur"
    nodes: str = "auto"
    groups: int = 1
    n: int = 16
    others: int = 32
    keep: float = 0.8
    steps: int = 5
    reruns: int = 2
    seed: int = 0
    at_once: int = 8
    word: str = ""
    placing: str = "big"

    bounds = {  # noqa: RUF012
        "n": (1, 10_000), "others": (0, 100_000), "keep": (0.0, 1.0), "reruns": (0, 1000), "groups": (1, 65_536),
        "at_once": (1, 65_536), "steps": (1, 1000),
    }  # fmt: skip

    def __post_init__(self) -> None:
        check_bounds(self)
        find_finder(self.finder)
        if self.corrupt not in CORRUPTIONS:
            raise UserError(f'no corruption "{self.corrupt[:80]}"{instead(self.corrupt, CORRUPTIONS)}')
        if self.nodes not in NODES:
            raise UserError(f'no kind of nodes "{self.nodes[:80]}"{instead(self.nodes, NODES)}')
        if self.placing not in PLACINGS:
            raise UserError(f'no placing of a word "{self.placing[:80]}"{instead(self.placing, PLACINGS)}')
        if self.corrupt != "text" and (self.word or self.placing != CircuitOptions.placing):
            raise UserError(f"--word and --placing go with --corrupt text, not with --corrupt {self.corrupt}")

    def parts(self) -> dict[str, Any]:
        """Returns what a circuit depends on of them: no word where none is written."""
        parts = asdict(self) | {"at_once": None}
        return parts if self.corrupt == "text" else {k: v for k, v in parts.items() if k not in ("word", "placing")}


@dataclass(frozen=True, kw_only=True)
class CircuitPlan:
    """One circuit to find.

    Attributes:
        graph: of the network up to the unit.
        options: how.
        certify: how it is certified, or None.
        photos: all photos.
        find: numbers of those that it is found on.
        judge: of those that it is judged on; the same ones where there are no more.
        others: of those of other classes.
        masks: folder of masks, for the corruption "mask".
        key: hash of everything that the result depends on.
    """

    graph: CircuitGraph
    options: CircuitOptions
    certify: CertifyOptions | None
    photos: Photos
    find: tuple[int, ...]
    judge: tuple[int, ...]
    others: tuple[int, ...]
    masks: Path | None
    key: str
    _read: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def held_out(self) -> bool:
        """Whether other photos judge than those that the circuit is found on."""
        return not set(self.find) & set(self.judge)

    @property
    def by_class(self) -> bool:
        """Whether the share of recognised photos judges; a word need not make the network say its class."""
        return self.options.corrupt != "text"

    def pictures(self, indices: Sequence[int]) -> Tensor:
        """Reads photos: N×3×H×W of the input size."""
        card = self.graph.model.card
        todo = [i for i in indices if i not in self._read]
        if todo:
            for numbers, images in self.photos.batches(card.prepare, 16, todo):
                self._read.update(zip(numbers, images))
        if missing := [i for i in indices if i not in self._read]:
            raise Unreadable(f"{self.photos[missing[0]].name} was read before and cannot be read any more")
        return torch.stack([self._read[i] for i in indices])

    def explained(self, indices: Sequence[int]) -> Tensor:
        """Returns the pictures whose circuit it is: photos, with the word on them for the corruption "text"."""
        images = self.pictures(indices)
        if self.options.corrupt != "text":
            return images
        return written_on(images, word_of(self.graph.unit, self.options), self.options.placing)

    def twins(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the pictures whose circuit it is and their corrupted twins."""
        clean = self.explained(indices)
        if self.options.corrupt == "text":
            return clean, self.pictures(indices)
        kind, seed = self.options.corrupt, self.options.seed
        masks = None
        if kind == "mask" and self.masks is not None:
            masks = read_masks(self.masks, self.photos, indices, self.graph.model.card)
        pool: Tensor | None = None
        if kind in ("mean", "resample") and self.others:
            # photos of other classes are replaced by photos of the class, so that no photo is its own twin
            pool = self.pictures(self.others if set(indices) <= {*self.find, *self.judge} else self.find)
        return clean, corrupt(kind, clean, others=pool, masks=masks, seed=seed)


def plan_circuit(
    model: Model, unit: Unit, photos: Photos, options: CircuitOptions, certify: CertifyOptions | None,
    masks: Path | None, progress: Progress = silent,
) -> CircuitPlan:  # fmt: skip
    """Reads the graph of a unit and chooses photos.

    For a class these are photos of the class that the network recognises, in their order. Where no photo has a label, those
    that it takes for the class count. For any other unit they are the photos that drive it most. Where a
    word is written on photos, they are photos of other classes that it moves most. From four on, half of them
    find the circuit and the others judge it.

    Args:
        model: the network.
        unit: of this network.
        photos: to choose from.
        options: how the circuit is found.
        certify: how it is certified, or None.
        masks: folder of masks, for the corruption "mask".
        progress: is called with (what, done, total).

    Raises:
        UserError: the graph cannot be read, or there are no photos to find the circuit on.
    """
    if options.corrupt == "mask" and masks is None:
        raise UserError("--corrupt mask needs --masks FOLDER: a mask for each photo, white where the object is")
    graph = read_graph(model, unit, nodes=options.nodes, groups=options.groups)
    if options.corrupt == "text":
        word_of(unit, options)
        chosen, others = attacked(graph, photos, options, progress)
    elif graph.target is not None:
        chosen, others = of_class(graph, photos, options, progress)
    else:
        chosen, others = driving(unit, photos, options, progress)
    half = min(options.n, (len(chosen) + 1) // 2) if len(chosen) >= LEAST_TO_SPLIT else min(options.n, len(chosen))
    find = tuple(chosen[:half])
    judge = tuple(chosen[half : half + options.n]) or find
    if not others and min(len(find), len(judge)) < 2 and options.corrupt in ("mean", "resample"):
        raise UserError(
            f"--corrupt {options.corrupt} needs another photo than the one that is explained, and {photos.source} has "
            "none; give more photos, or corrupt by blur"
        )
    if certify is not None and 1 - certify.deletion ** len(find) <= certify.tau:
        raise UserError(
            f"with {counted(len(find), 'photo')} a share of {certify.deletion ** len(find):.2g} of the subsets is empty, so no "
            f"edge can be certified as in at tau {certify.tau:g}; give more photos (--n) or a lower --deletion"
        )
    parts = {
        "what": "circuit", "version": VERSION, "model": model.card.identity, "unit": unit.identity,
        "options": options.parts(),
        "certify": asdict(certify) if certify else None,
        "photos": [[photos.sha256(i) for i in some] for some in (find, judge, others)],
        "masks": _mask_hashes(masks, [photos[i].name for i in (*find, *judge, *others)]) if masks else None,
    }  # fmt: skip
    return CircuitPlan(
        graph=graph, options=options, certify=certify, photos=photos, find=find, judge=judge, others=tuple(others),
        masks=masks, key=content_key(parts),
    )  # fmt: skip


def _mask_hashes(folder: Path, names: Sequence[str]) -> list[str]:
    masks = Masks.find(folder)
    return [sha256_of(file) if (file := masks.of(name)) is not None else "" for name in names]
