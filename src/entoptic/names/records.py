"""`Names`: suggested names of units with what speaks for them, and the small file that holds them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from entoptic.base.files import file_exists, folder_exists, json_bytes, user_path
from entoptic.base.records import check_fields, list_of, read_json
from entoptic.errors import NotAvailable, Unreadable, UserError, counted

FORMAT = 1
FILE = "names.json"
WAYS = ("map", "clip")


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A name that a unit may have. It is a suggestion, never the truth.

    Attributes:
        unit: in the unit grammar.
        name: the word; "" where the unit gave none.
        score: how well the word fits on the photos that it was chosen on: a cosine, or for CLIP a log-odds.
        rho: Spearman's correlation of the word's score with the unit's activation on other photos; None for a silent unit.
        low: lower end of its 95 % interval.
        high: upper end.
        n: of those other photos.
        p: share of random words that predict the unit at least as well, the word itself counted.
        shuffled: rho of the same word under a map trained on shuffled class names; None where there was none.
        shown: whether it predicts enough to be shown.
        reason: why it is not shown, "" where it is.
        others: next best words with their scores.
    """

    unit: str
    name: str
    score: float
    rho: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    shuffled: float | None
    shown: bool
    reason: str
    others: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        if self.rho is None or self.low is None or self.high is None:
            return f"no name ({self.reason})"
        told = f"rho {self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"
        return f"suggested name: {self.name}, {told}" if self.shown else f"no name ({self.reason}; best: {told})"


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well the map repeats the network's outputs on photos that it was not trained on.

    Attributes:
        agreement: share of photos with the same most likely class.
        divergence: mean KL of the network's probabilities from the map's, in nats.
        floor: the same KL from the mean probabilities: what a map that knows nothing of a photo reaches.
        n: photos.
    """

    agreement: float
    divergence: float
    floor: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Names:
    """Suggested names of units of one network.

    Attributes:
        key: hash of everything but the units that they depend on.
        model: name of the network.
        weights: what identifies the network, see `Card.identity`.
        way: "map" (into a text encoder's space) or "clip".
        encoder: name of the text encoder or CLIP model.
        encoder_identity: hash of its weights.
        vocabulary: `source`, `sha256`, `words` (how many), `remove`, `removed`.
        photos: name of the photos' folder or file.
        named_on: photos that names were chosen on.
        judged_on: other photos that judge them.
        seed: of all draws.
        fidelity: of the map; None for CLIP.
        suggestions: one a unit.
        unread: names of photos that could not be read.
        path: of their file, None before they are written.
    """

    key: str
    model: str
    weights: str
    way: str
    encoder: str
    encoder_identity: str
    vocabulary: Mapping[str, Any]
    photos: str
    named_on: int
    judged_on: int
    seed: int
    fidelity: Fidelity | None
    suggestions: tuple[Suggestion, ...]
    unread: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.suggestions)

    def __iter__(self) -> Iterator[Suggestion]:
        return iter(self.suggestions)

    def of(self, unit: object) -> Suggestion | None:
        """Returns what was found for a unit, shown or not; None where it was not asked for.

        Args:
            unit: a unit or its string.
        """
        return self._by_unit.get(str(unit))

    @cached_property
    def _by_unit(self) -> dict[str, Suggestion]:
        return {one.unit: one for one in self.suggestions}

    @property
    def refused(self) -> float:
        """Share of the units whose name is not shown."""
        return sum(not one.shown for one in self.suggestions) / max(1, len(self.suggestions))

    def with_more(self, more: Names) -> Names:
        """Returns these names and those of another call with the same key; where both name a unit, the other's counts."""
        new = {one.unit for one in more.suggestions}
        return replace(more, suggestions=(*(one for one in self if one.unit not in new), *more.suggestions))

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the file."""
        record = {"format": FORMAT, "kind": "names", "note": "suggestions with scores, never the truth"} | asdict(self)
        del record["path"]
        return record | {"vocabulary": dict(self.vocabulary)}

    def to_bytes(self) -> bytes:
        """Returns the bytes of the file."""
        return json_bytes(self.to_json())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{html.escape(one.unit)}</code></td><td>{html.escape(one.name if one.shown else '')}</td>"
            f"<td>{html.escape(_numbers(one))}</td></tr>"
            for one in self.suggestions
        )
        return (
            f"<p>Suggested names of {counted(len(self), 'unit')} of {html.escape(self.model)}, {self.refused:.0%} refused</p>"
            f"<table><tr><th>unit</th><th>suggested name</th><th>rho [95 %], n</th></tr>{rows}</table>"
        )


def _numbers(one: Suggestion) -> str:
    if one.rho is None:
        return one.reason
    return f"{one.rho:.2f} [{one.low:.2f}, {one.high:.2f}], {one.n}" + ("" if one.shown else f" ({one.reason})")


def read_names(path: str | Path) -> Names:
    """Reads a file of names, or that of a run's folder.

    Args:
        path: of the file, or of a folder with `names.json`.

    Raises:
        NotAvailable: there is none.
        Unreadable: it is damaged or of another version.
    """
    file = user_path(path)
    file = file / FILE if folder_exists(file) else file
    if not file_exists(file):
        raise NotAvailable(f"there is no file of names {file}; `entoptic name` makes one")
    record = read_json(file)
    kinds = {
        "format": int, "kind": str, "key": str, "model": str, "weights": str, "way": str, "encoder": str, "encoder_identity": str,
        "vocabulary": dict, "photos": str, "named_on": int, "judged_on": int, "seed": int, "fidelity": dict | None,
    }  # fmt: skip
    check_fields(record, kinds, file)
    if record["format"] != FORMAT or record["kind"] != "names":
        raise Unreadable(f"{file} is no file of names of format {FORMAT}")
    if not list_of(record.get("suggestions"), dict):
        raise Unreadable(f'{file} is damaged: its "suggestions" are no list of records')
    fidelity = None
    if (told := record["fidelity"]) is not None:
        check_fields(told, {"agreement": float, "divergence": float, "floor": float, "n": int}, file)
        fidelity = Fidelity(**{name: told[name] for name in ("agreement", "divergence", "floor", "n")})
    suggestions = tuple(_suggestion(one, file) for one in record["suggestions"])
    if not list_of(unread := record.get("unread", []), str):  # not in files of earlier versions
        raise Unreadable(f'{file} is damaged: its "unread" are no list of names')
    plain = {name: record[name] for name in kinds if name not in ("format", "kind", "fidelity")}
    return Names(**plain, fidelity=fidelity, suggestions=suggestions, unread=tuple(unread), path=file)


def _suggestion(record: dict[str, Any], file: Path) -> Suggestion:
    kinds = {
        "unit": str, "name": str, "score": float, "rho": float | None, "low": float | None, "high": float | None, "n": int,
        "p": float | None, "shuffled": float | None, "shown": bool, "reason": str, "others": list,
    }  # fmt: skip
    check_fields(record, kinds, file)
    others = []
    for one in record["others"]:
        if not (
            isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int | float)
        ):
            raise Unreadable(f'{file} is damaged: its "others" are no pairs of word and score')
        others.append((one[0], float(one[1])))
    if record["shown"] and None in (record["rho"], record["low"], record["high"]):
        raise Unreadable(f"{file} is damaged: {record['unit'][:80]} is shown without a correlation")
    return Suggestion(**{name: record[name] for name in kinds if name != "others"}, others=tuple(others))


def suggestion_for(place: str | Path, unit: object, weights: str = "") -> Suggestion | None:
    """Looks up the suggested name of a unit; pages of every kind call this.

    Args:
        place: a file of names, or the folder of a run.
        unit: a unit or its string.
        weights: sha256 of the network that the unit is of; names of another network do not count. "" for any.

    Returns:
        The suggestion where there is one that is shown; None otherwise, also where the file is missing or damaged.
    """
    try:
        file = user_path(place)
        file = file / FILE if folder_exists(file) else file
        stamp = file.stat()
        names = _read_again(file, stamp.st_mtime_ns, stamp.st_size)
    except (OSError, UserError):
        return None
    if weights and weights != names.weights:
        return None
    found = names.of(unit)
    return found if found is not None and found.shown else None


@lru_cache(maxsize=8)
def _read_again(file: Path, changed: int, size: int) -> Names:
    return read_names(file)
