"""Reads the pictures of a run with their sidecars and checks them; names those that cannot be shown, with the reason."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from entoptic.base.files import folder_exists, is_inside
from entoptic.base.records import read_json, why
from entoptic.errors import Unreadable, UserError
from entoptic.gallery.explain import Reading, explain, headline
from entoptic.gallery.packed import PackedSidecar
from entoptic.runs.people import FILE as PEOPLE_FILE
from entoptic.runs.people import read_people

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SHOWN_SIZE = 224
"""Small pictures are enlarged by a whole number of times, up to so many pixels."""
_PNG_HEADER = 24  # bytes up to the end of width and height


@dataclass(frozen=True, kw_only=True)
class StoredPicture:
    """One picture of a run with its sidecar, both checked.

    Attributes:
        folder: name of its folder below `RUN/pictures`.
        file: name of its file there.
        width: of the file, in pixels.
        height: of the file, in pixels.
        sidecar: the record beside the file.
    """

    folder: str
    file: str
    width: int
    height: int
    sidecar: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """The unit's string in the unit grammar."""
        return str(self.sidecar["unit"])

    @property
    def label(self) -> str:
        """What the unit is called, or "" where it has no name but its string."""
        label = str(self.sidecar.get("label") or "").strip()
        return "" if label == self.unit else label

    @property
    def model(self) -> str:
        """The name of the network under study."""
        return str(mapping_or_empty(self.sidecar.get("model")).get("name") or "an unnamed model")

    @property
    def weights(self) -> str:
        """The sha256 of the network's weights, or "" where the record lacks it."""
        return str(mapping_or_empty(self.sidecar.get("model")).get("weights_sha256") or "")

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.sidecar["method"])

    @property
    def method_title(self) -> str:
        """The method's title, or its name where the record lacks a title."""
        return str(self.sidecar.get("method_title") or self.method)

    @property
    def sample(self) -> int:
        """The number of the sample, from 0."""
        return int(self.sidecar["sample"])

    @property
    def key(self) -> str:
        """The hash of everything that the picture depends on."""
        return str(self.sidecar["key"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The method's config with the run's seed."""
        return {**mapping_or_empty(self.sidecar.get("config")), "seed": self.sidecar.get("seed")}

    @cached_property
    def anchor(self) -> str:
        """The picture's id in its page."""
        return re.sub(r"[^\w.-]", "-", f"{self.method}-{self.sample}-{self.key[:8]}")

    @property
    def alt(self) -> str:
        """The picture's text for readers who cannot see it."""
        if isinstance(self.sidecar.get("alt"), str):  # of a picture that does not show what a unit looks for
            return self.sidecar["alt"]
        name = f"{self.unit} ({self.label})" if self.label else self.unit
        if self.unit.startswith("fmap("):
            return f"A picture with the map {self.unit} of {self.model}, sample {self.sample}"
        return f"What {name} of {self.model} looks for, by {self.method}, sample {self.sample}"

    @property
    def enlargement(self) -> int:
        """How many times as large as its file the picture is shown: 1, or more where it is small."""
        return max(1, SHOWN_SIZE // max(self.width, self.height, 1))

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Its measurements in words, in the order of the sidecar. Those of a page are kept, not those of a run."""
        return _recent_readings(self)

    @property
    def headline(self) -> Reading | None:
        """The measurement to show under a small copy of the picture, or None."""
        return headline(self.readings)

    @cached_property
    def glance(self) -> Glance:
        """What the index says of it."""
        measured = [one for one in self.readings if one.number is not None]
        head = self.headline
        return Glance(
            names=_same(tuple((one.name, one.title, one.arrow) for one in measured)),
            numbers=tuple(float(one.number) for one in measured if one.number is not None),
            caption=_same((head.chip, head.chip_note, head.tone) if head else ("nothing measured", "", "")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """What the index says of a picture.

    Attributes:
        names: name, title and arrow of each measurement that has a number.
        numbers: of those.
        caption: text, note and mark under the picture.
    """

    names: tuple[tuple[str, str, str], ...]
    numbers: tuple[float, ...]
    caption: tuple[str, str, str]


_READINGS = 256
"""Pictures whose measurements in words are kept."""
_recent: OrderedDict[int, tuple[StoredPicture, tuple[Reading, ...]]] = OrderedDict()


def _recent_readings(picture: StoredPicture) -> tuple[Reading, ...]:
    held = _recent.get(id(picture))
    if held is None:
        items = picture.sidecar.get("evidence") or ()
        held = (picture, tuple(explain(item, label=picture.label) for item in items))
        _recent[id(picture)] = held  # with the picture, so that no other has its id
        if len(_recent) > _READINGS:
            _recent.popitem(last=False)
    return held[1]


@lru_cache(maxsize=65_536)
def _same(value: Any) -> Any:
    """The first of equal values: thousands of pictures share one."""
    return value


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file of a run that is not shown.

    Attributes:
        name: of the file, below the run's folder or its `pictures`.
        reason: why, for people.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """What the gallery shows of a run.

    Attributes:
        title: for people.
        created: date of the run, or "".
        pictures: at least one, by folder and file.
        left_out: files that cannot be shown.
    """

    title: str
    created: str
    pictures: tuple[StoredPicture, ...]
    left_out: tuple[LeftOut, ...]


def read_run(run_folder: Path) -> StoredRun:
    """Returns the pictures of a run that can be shown, and what is left out.

    Args:
        run_folder: with `pictures/<slug>/*.png`, each beside its `.json` sidecar, and `run.json`.

    Raises:
        UserError: there is no such folder, it cannot be read, or no picture in it can be shown.
    """
    if not folder_exists(run_folder):
        raise UserError(f'no run folder "{run_folder}"; expected a folder written by `entoptic see --out`')
    try:
        pictures, left_out = _read_pictures(run_folder / "pictures")
    except OSError as error:
        raise UserError(f'cannot read the run "{run_folder}": {error.strerror or error}') from error
    if not pictures:
        cause = f": {left_out[0].name} is left out ({left_out[0].reason})" if left_out else ""
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise UserError(
            f'no picture to show in "{run_folder}"{cause}{more}; expected '
            f"{Path('pictures') / 'UNIT' / '*.png'} with their sidecars, as `entoptic see --out` writes them"
        )
    try:
        pictures = _with_people(pictures, run_folder)
    except UserError as error:
        left_out = [LeftOut(name=PEOPLE_FILE, reason=_reason(error)), *left_out]
    fallback = run_folder.resolve().name
    try:
        record = _read_inside(run_folder / "run.json", run_folder)
    except Unreadable as error:
        record = {}
        left_out = [LeftOut(name="run.json", reason=_reason(error)), *left_out]
    return StoredRun(
        title=str(record.get("title") or fallback),
        created=str(record.get("created") or ""),
        pictures=tuple(pictures),
        left_out=tuple(left_out),
    )


def _with_people(pictures: list[StoredPicture], run_folder: Path) -> list[StoredPicture]:
    """The pictures with what people answered about their unit and method behind their own evidence."""
    answered = read_people(run_folder)
    found = []
    for one in pictures:
        told = answered.get((one.model, one.unit, one.method), ())
        if not told:
            found.append(one)
            continue
        evidence = [*(one.sidecar.get("evidence") or ()), *told]
        found.append(replace(one, sidecar=PackedSidecar({**one.sidecar, "evidence": evidence})))
    for one in found:
        _ = one.glance
    return found


class _CannotBeShown(Exception):
    """Why one picture cannot be shown."""


def _read_pictures(folder: Path) -> tuple[list[StoredPicture], list[LeftOut]]:
    pictures: list[StoredPicture] = []
    left_out: list[LeftOut] = []
    stem_of: dict[tuple[str, str, str, str], str] = {}
    entries = folder.iterdir() if folder.is_dir() else ()
    for unit_folder in sorted(entry for entry in entries if entry.is_dir()):
        # Hidden files are unfinished writes of another process.
        names = {entry.name for entry in os.scandir(unit_folder) if not entry.name.startswith(".")}
        stems = sorted({name.rpartition(".")[0] for name in names if name.endswith((".png", ".json"))})
        for stem in stems:
            try:
                picture = _read_picture(unit_folder, stem, names)
                identity = (picture.folder, picture.model, picture.unit, picture.key)
                if identity in stem_of:
                    raise _CannotBeShown(f"the same picture as {stem_of[identity]}")
                stem_of[identity] = stem
                pictures.append(picture)
            except _CannotBeShown as reason:
                suffix = ".png" if f"{stem}.png" in names else ".json"
                left_out.append(LeftOut(name=f"{unit_folder.name}/{stem}{suffix}", reason=str(reason)))
    return pictures, left_out


def _read_picture(folder: Path, stem: str, names: set[str]) -> StoredPicture:
    if f"{stem}.json" not in names:
        raise _CannotBeShown("its sidecar is missing")
    try:
        sidecar = _read_inside(folder / f"{stem}.json", folder.parent.parent)
    except Unreadable as error:
        raise _CannotBeShown(f"its sidecar cannot be read: {_reason(error)}") from None
    _check_sidecar(sidecar)
    file = sidecar["image"]["file"]
    if file != f"{stem}.png":
        raise _CannotBeShown(f'its sidecar names another file, "{file}"')
    if file not in names:
        raise _CannotBeShown("there is a sidecar but no picture")
    if not (folder / file).is_file() or not is_inside(folder / file, folder.parent.parent):
        raise _CannotBeShown("the picture is no file of this run, but a link to something else")
    width, height = _png_size(folder / file)
    stated = (sidecar["image"].get("width", width), sidecar["image"].get("height", height))
    if stated != (width, height):
        raise _CannotBeShown(f"the picture is {width} × {height} pixels, its sidecar says {stated[0]} × {stated[1]}")
    picture = StoredPicture(folder=folder.name, file=file, width=width, height=height, sidecar=PackedSidecar(sidecar))
    try:
        _ = picture.glance
    except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError):
        raise _CannotBeShown("the evidence in its sidecar cannot be read") from None
    return picture


def _png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the header of a PNG file."""
    try:
        with open(path, "rb", buffering=0) as stream:
            header = stream.read(_PNG_HEADER)
    except OSError as error:
        raise _CannotBeShown(f"the picture cannot be read: {why(error)}") from None
    if header[:8] != _PNG_SIGNATURE or len(header) < _PNG_HEADER:
        raise _CannotBeShown("the picture is not a PNG file")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def _check_sidecar(sidecar: Any) -> None:
    """Raises `_CannotBeShown` where a sidecar lacks what a page needs, or holds it in another form."""
    if not isinstance(sidecar, dict):
        raise _CannotBeShown("its sidecar does not hold a JSON object")
    for name in ("unit", "method", "key"):
        if not isinstance(sidecar.get(name), str) or not sidecar[name]:
            raise _CannotBeShown(f'its sidecar has no "{name}"')
    if not isinstance(sidecar.get("sample"), int):
        raise _CannotBeShown('its sidecar has no "sample" number')
    if not isinstance(mapping_or_empty(sidecar.get("image")).get("file"), str):
        raise _CannotBeShown('its sidecar has no "image" with a "file"')
    evidence = sidecar.get("evidence") or []
    if not isinstance(evidence, list):
        raise _CannotBeShown('"evidence" in its sidecar is not a list')
    for item in evidence:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise _CannotBeShown("its sidecar holds a measurement without a name")
        value = item.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise _CannotBeShown(f'"{item["name"]}" in its sidecar is not a number')


def _read_inside(file: Path, run_folder: Path) -> dict[str, Any]:
    """Reads the JSON object in a file of the run, and nothing behind a link out of it."""
    if not is_inside(file, run_folder) and file.exists():
        raise Unreadable("it is a link to what lies outside of the run")
    return read_json(file)


def _reason(error: UserError) -> str:
    """What is wrong with a file, without its name."""
    return str(error).partition(" cannot be read: ")[2] or str(error).partition(" that can be read: ")[2] or str(error)


def mapping_or_empty(value: Any) -> Mapping[str, Any]:
    """Returns a JSON object, or an empty one where the value is none."""
    return value if isinstance(value, Mapping) else {}


def list_or_empty(value: Any) -> list[Any]:
    """Returns a JSON array, or an empty one where the value is none."""
    return value if isinstance(value, list) else []
