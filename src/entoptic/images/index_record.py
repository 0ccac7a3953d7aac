"""`IndexRecord`: the description of an activation index in `index.json`.

The keys in the file are those of `to_json`. The hash of a request is the key of its index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from entoptic.base.cache import content_key
from entoptic.base.files import check_inside, write_atomically
from entoptic.base.records import check_fields, list_of, read_json
from entoptic.errors import Unreadable, UserError
from entoptic.images.index_shards import UnitGroup

FORMAT = 1


class NonfiniteScores(TypedDict):
    """Photos that gave a score that is not finite: how many, and the names of the first."""

    photos: int
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class IndexRequest:
    """Everything that decides what is in an index.

    Attributes:
        weights: sha256 of the network's weights.
        preprocessing: of the network's card, as JSON holds it.
        photos: fingerprint of the photos.
        listing: hash of their names and contents in their order.
        groups: the units, layer after layer and readout after readout.
        k: strongest photos kept of each unit.
        bottom: weakest photos kept of each unit.
        reservoir: number of photos in the uniform sample.
        block: photos in a block, which is read without saving in between.
        blocks: number of blocks.
    """

    weights: str
    preprocessing: dict[str, Any]
    photos: str
    listing: str
    groups: tuple[UnitGroup, ...]
    k: int
    bottom: int
    reservoir: int
    block: int
    blocks: int

    @property
    def key(self) -> str:
        """Hash of the request."""
        return content_key(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns what the file holds of the request."""
        return {
            "format": FORMAT, "weights": self.weights, "preprocessing": self.preprocessing, "photos": self.photos,
            "listing": self.listing, "groups": [group.to_json() for group in self.groups], "k": self.k,
            "bottom": self.bottom, "reservoir": self.reservoir, "block": self.block, "blocks": self.blocks,
        }  # fmt: skip

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> IndexRequest | None:
        """Reads what `to_json` wrote; None where another version of Entoptic wrote it."""
        if held.get("format") != FORMAT:
            return None
        check_fields(held, _REQUEST, "the request")
        if (
            min(held["k"], held["bottom"], held["block"], held["blocks"]) < 1
            or held["reservoir"] < 0
            or not held["groups"]
        ):
            raise ValueError("the request has no units or no photos")
        groups = tuple(UnitGroup.from_json(group) for group in held["groups"])
        rest = {name: held[name] for name in cls.__dataclass_fields__ if name != "groups"}
        return cls(groups=groups, **rest)


_REQUEST = {
    "weights": str, "preprocessing": dict, "photos": str, "listing": str, "groups": list, "k": int, "bottom": int,
    "reservoir": int, "block": int, "blocks": int,
}  # fmt: skip


def difference(held: IndexRequest | None, asked: IndexRequest) -> str:
    """Describes what makes two requests differ, as the middle of a sentence."""
    if held is None:
        return "was written by another version of Entoptic, not that"
    if held.weights != asked.weights:
        return f"is of other weights ({held.weights[:12]}), not those ({asked.weights[:12]})"
    for name, what in (("preprocessing", "preprocessing"), ("photos", "photos"), ("listing", "names of the photos")):
        if getattr(held, name) != getattr(asked, name):
            return f"is of other {what}, not those"

    def every(request: IndexRequest, name: str) -> str:
        return ", ".join(dict.fromkeys(getattr(group, name) for group in request.groups))

    if every(held, "layer") != every(asked, "layer"):
        return f"has the layers {every(held, 'layer')}, not {every(asked, 'layer')}"
    if held.groups != asked.groups:
        return f"has the readouts {every(held, 'readout')}, not {every(asked, 'readout')}"
    for name in ("k", "bottom", "reservoir", "block"):
        if getattr(held, name) != getattr(asked, name):
            return f"has {name} = {getattr(held, name)}, not {getattr(asked, name)}"
    return "is of another request, not that"


@dataclass(frozen=True, kw_only=True)
class IndexOrigin:
    """Where an index comes from, for people; not part of its key.

    Attributes:
        model: name of the network.
        source: where the photos were.
        total: number of photos.
        labels: names of the logits, or None.
    """

    model: str
    source: str
    total: int
    labels: Sequence[str] | None

    def to_json(self) -> dict[str, Any]:
        """Returns what the file holds of the origin."""
        return {"model": self.model, "source": self.source, "total": self.total, "labels": self.labels}

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> IndexOrigin:
        """Reads what `to_json` wrote."""
        check_fields(held, {"model": str, "source": str, "total": int, "labels": list | None}, "its origin")
        if held["labels"] is not None and not list_of(held["labels"], str):
            raise ValueError("the labels are no names")
        return cls(model=str(held["model"]), source=str(held["source"]), total=held["total"], labels=held["labels"])


@dataclass(frozen=True, kw_only=True)
class IndexContents:
    """What was read for an index that is finished.

    Attributes:
        whole: whether all photos were read, not some shards only.
        n: number of photos that could be read.
        skipped: (name, reason) of the others.
        nonfinite: photos with scores that are not finite.
        sketch_error: rank error of the quantile sketches (see `QuantileSketch`).
        sketch_start: their seed.
        sampled: positions of the photos in the reservoir.
    """

    whole: bool
    n: int
    skipped: list[tuple[str, str]]
    nonfinite: NonfiniteScores
    sketch_error: int
    sketch_start: int
    sampled: list[int]

    def to_json(self) -> dict[str, Any]:
        """Returns what the file holds of the contents, beside the request and the origin."""
        return {
            "whole": self.whole, "n": self.n, "skipped": self.skipped, "nonfinite": self.nonfinite,
            "sketch": {"error": self.sketch_error, "start": self.sketch_start}, "sampled": self.sampled,
        }  # fmt: skip

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> IndexContents:
        """Reads what `to_json` wrote."""
        check_fields(held, {
            "whole": bool, "n": int, "skipped": list, "nonfinite": dict, "sketch": dict, "sampled": list,
        }, "its contents")  # fmt: skip
        check_fields(held["sketch"], {"error": int, "start": int}, "its sketch")
        check_fields(held["nonfinite"], {"photos": int, "names": list}, "its odd scores")
        if not list_of(held["sampled"], int) or not all(list_of(one, str) for one in held["skipped"]):
            raise ValueError("the photos are no positions or names")
        return cls(
            whole=bool(held["whole"]), n=int(held["n"]), skipped=[(name, why) for name, why in held["skipped"]],
            nonfinite=held["nonfinite"], sketch_error=held["sketch"]["error"], sketch_start=held["sketch"]["start"],
            sampled=held["sampled"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """The contents of `index.json`.

    Attributes:
        key: hash of the request.
        origin: where the index comes from.
        request: what was asked for; None where another version of Entoptic wrote the file.
        contents: what was read; None while the index is not finished.
    """

    key: str
    origin: IndexOrigin
    request: IndexRequest | None
    contents: IndexContents | None = None

    @property
    def finished(self) -> bool:
        """Whether the index can be read."""
        return self.contents is not None

    @classmethod
    def read(cls, file: Path) -> IndexRecord:
        """Reads a record.

        Raises:
            Unreadable: the file is damaged, or of something else.
        """
        try:
            held = read_json(file)
            if not isinstance(held["request"], dict) or not isinstance(held["finished"], bool):
                raise ValueError("no index")
            request = IndexRequest.from_json(held["request"])
            contents = IndexContents.from_json(held) if held["finished"] and request is not None else None
            check_fields(held, {"key": str, "about": dict}, file)
            if request is not None and request.key != held["key"]:
                raise ValueError("its key is of another request")
            return cls(key=held["key"], origin=IndexOrigin.from_json(held["about"]), request=request, contents=contents)
        except (UserError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Unreadable(f"{file} is damaged or not of an index; delete {file.parent} and make it again") from None

    def write(self, file: Path) -> None:
        """Writes the record atomically."""
        assert self.request is not None
        held = {
            "key": self.key, "finished": self.finished, "about": self.origin.to_json(),
            "request": self.request.to_json(), **(self.contents.to_json() if self.contents else {}),
        }  # fmt: skip
        write_atomically(
            check_inside(file, file.parent),
            (json.dumps(held, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"),
        )
