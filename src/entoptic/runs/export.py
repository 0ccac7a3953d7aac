"""A public copy of a run: pictures, records and drawings without paths of this machine and, by default, without photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entoptic.base.files import LOCK, folder_exists, is_inside, json_bytes, listed, path_exists, user_path
from entoptic.base.progress import Progress, silent
from entoptic.base.records import read_json, read_tensors
from entoptic.errors import Unreadable, UserError
from entoptic.methods import METHODS
from entoptic.methods.contract import Failure
from entoptic.plots.frontier import draw
from entoptic.runs.failures import write_failures
from entoptic.runs.frontier_table import table_of
from entoptic.runs.people import FILE as PEOPLE_FILE
from entoptic.runs.people import check_people, people_to_publish
from entoptic.runs.pictures import Picture, read_pixels
from entoptic.runs.results import FOLDER as RESULTS
from entoptic.runs.results import results_in
from entoptic.runs.scrub import Scrubber
from entoptic.runs.set_evidence import SET_FILE
from entoptic.runs.store import Run
from entoptic.runs.verify_files import numbers_sha256
from entoptic.units.unit import slug

EXPORTED = "exported"
"""Entry of a copy's `run.json` and sidecars: what was taken out."""
_PHOTO_MAPS = frozenset({"photo"})


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A public copy of a run.

    Attributes:
        path: its folder.
        pictures: how many it holds.
        left_out: what of the run is not part of it, in words.
        damaged: how many of these are damaged in the run.
        photos: whether it holds real photos.
    """

    path: Path
    pictures: int
    left_out: list[str] = field(default_factory=list)
    damaged: int = 0
    photos: bool = False

    def __str__(self) -> str:
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"{self.pictures} picture{'' if self.pictures == 1 else 's'} in {self.path}{left}"


def export_run(
    run: str | Path | Run, out: str | Path, *, with_photos: bool = False, progress: Progress = silent
) -> Exported:
    """Copies a run without paths of this machine and without real photos.

    Sidecars keep their keys and numbers. Files keep their names, and folders go: of photos, indexes, priors, inverters,
    dictionaries and networks, in commands and sentences too. A photo is named by its file and the first digits of its hash.

    Args:
        run: the run, or its folder.
        out: a folder that is not there, or is empty.
        with_photos: whether real photos are copied: pictures by `retrieval`, pictures of a prior of stored photos, and the
            small copies beside pictures.
        progress: is called with (what, done, total).

    Returns:
        The copy, with what was left out of it.

    Raises:
        UserError: there is no run, nothing of it can be copied, or `out` holds something or cannot be written. Nothing is
            left behind then.
    """
    source = run if isinstance(run, Run) else Run.open(run)
    folder = user_path(out)
    if path_exists(folder) and (not folder_exists(folder) or any(one.name != LOCK for one in listed(folder))):
        raise UserError(f"{folder} holds something already; give --out a folder that is empty or not there")
    there = path_exists(folder)
    export = _Export(source, Run(folder), with_photos)
    chosen = export.chosen()
    if not chosen:
        raise UserError(f"nothing of {source.path} can be copied: {export.why_nothing()}")
    try:
        with export.copy.writing(export.about()):
            for done, picture in enumerate(chosen, 1):
                export.picture(picture)
                progress("copying", done, len(chosen))
            export.rest()
    except BaseException:
        _clear(folder, keep=there)
        raise
    (folder / LOCK).unlink(missing_ok=True)  # it names this machine
    return Exported(
        path=folder, pictures=len(export.places), left_out=export.left_out, damaged=export.damaged, photos=with_photos
    )


@dataclass
class _Export:
    """One export: the run, its copy, and what was found so far."""

    source: Run
    copy: Run
    with_photos: bool
    left_out: list[str] = field(default_factory=list)
    damaged: int = 0
    places: dict[str, str] = field(default_factory=dict)
    """where a picture's file is in the copy, by where it was"""
    scrubber: Scrubber = field(default_factory=Scrubber)

    def chosen(self) -> list[Picture]:
        """Pictures that are copied; the others go to `left_out`."""
        for folder in (self.source.path.resolve(), self.copy.path.resolve(), Path.cwd(), Path.home()):
            self.scrubber.learn_folder(folder)
        found = []
        for picture, problem in self.source.read():
            if picture is None:
                self._lose(self.scrubber.text(problem))
                continue
            self.scrubber.learn(picture.record)
            if reason := self._photo(picture):
                self.left_out.append(f"{picture.path.name}: {reason}")
            elif self.source.finished(picture.path, str(picture.record.get("key"))) is None:
                if picture.record.get("complete"):
                    self._lose(f"{picture.path.name}: its pixels were changed")
                else:
                    self.left_out.append(f"{picture.path.name}: it is unfinished")
            else:
                found.append(picture)
        return found

    def _lose(self, what: str) -> None:
        """Leaves out what is damaged."""
        self.left_out.append(what)
        self.damaged += 1

    def why_nothing(self) -> str:
        """Why no picture is copied, in words."""
        reasons = self.left_out[:3]
        if results := results_in(self.source):
            reasons.append(
                f"it holds {results} and no picture that can be copied; a public copy leaves results out, since their files may "
                "hold photos and paths"
            )
        elif not reasons:
            reasons.append(
                "it has no picture yet" if not self.source.problems else "none of its pictures could be made"
            )
        return "; ".join(reasons)

    def _photo(self, picture: Picture) -> str:
        """Why a picture counts as a photo, "" where it is none or photos are wanted."""
        card, prior = METHODS.get(picture.method), picture.record.get("prior")
        if self.with_photos:
            return ""
        if card is None:
            return f"whether {picture.method} shows photos is not known here, where it is not installed"
        if card.reads == {"scores"}:
            return "it is a real photo"
        if "photo_sha256" in card.config.__dataclass_fields__:
            return "it was made from a photo, which it still shows"
        return "its prior is a set of photos" if isinstance(prior, str) and prior.startswith("photos:") else ""

    def about(self) -> dict[str, Any]:
        """What the copy's `run.json` says."""
        about = dict(self.source.about)
        self.scrubber.learn(about)
        plain = self.scrubber.record(about)
        return plain | {EXPORTED: {"photos": self.with_photos, "paths": False}}

    def picture(self, picture: Picture) -> None:
        """Copies one picture with its maps."""
        record = picture.record
        plain = self.scrubber.record(record)
        if picture.method == "invert":  # its label is the photo's name
            plain["label"] = self.scrubber.known.get(str(_map(record.get("photo")).get("path")), plain.get("label"))
        plain[EXPORTED] = sorted(name for name in record if plain.get(name) != record[name])
        maps = {}
        for name, entry in (record.get("maps") or {}).items():
            file = self.source.map_file(entry)
            if name in _PHOTO_MAPS and not self.with_photos:
                plain[EXPORTED] = sorted({*plain[EXPORTED], "maps"})
                continue
            try:
                if file is None:
                    raise Unreadable("it is missing")
                maps[name] = read_pixels(file, "LA" if _is_grey(file) else "RGBA")
            except Unreadable as error:
                self._lose(f"{picture.path.name}: its map {name} ({self.scrubber.text(str(error))})")
        file = self.copy.file(slug(plain["unit"]), picture.path.stem)
        made = self.copy.write(file, picture.array, plain, maps=maps)
        old, new = (
            one.path.relative_to(run.path).as_posix() for one, run in ((picture, self.source), (made, self.copy))
        )
        self.places[old] = new

    def rest(self) -> None:
        """Copies what else the run holds."""
        self._frontier()
        self._dictionaries()
        if record := self._read(self.source.path / SET_FILE):
            self.copy.put(self.copy.path / SET_FILE, json_bytes(self.scrubber.record(record)))
        self._people()
        if self.source.problems:
            failures = [
                Failure(
                    unit=self.scrubber.unit(one.unit), method=one.method, code=one.code,
                    text=self.scrubber.record(one.text, "text"),
                )
                for one in self.source.problems
            ]  # fmt: skip
            write_failures(self.copy, failures)
        if self.with_photos:
            self._context()
        if (self.source.path / RESULTS).is_dir():
            self.left_out.append(f"{RESULTS}: results that are no pictures; their files may hold photos and paths")

    def _people(self) -> None:
        try:
            check_people(self.source.path)
        except UserError as error:
            self._lose(self.scrubber.text(str(error)))
            return
        if record := self._read(self.source.path / PEOPLE_FILE):
            self.copy.put(self.copy.path / PEOPLE_FILE, json_bytes(people_to_publish(record, self.scrubber.record)))

    def _frontier(self) -> None:
        files: dict[str, bytes] = {}
        records: dict[str, Mapping[str, Any]] = {}
        for path in sorted((self.source.path / "frontier").glob("*.json")):
            record = self._read(path)
            if not record:
                self._lose(f"frontier/{path.name}: it cannot be read")
                continue
            self.scrubber.learn(record)
            plain = self.scrubber.record(record)
            for place, before in zip(_list(plain.get("places")), _list(record.get("places"))):
                if isinstance(place, dict) and isinstance(before.get("pictures"), list):
                    place["pictures"] = [self.places[one] for one in before["pictures"] if one in self.places]
            stem = plain["slug"] = slug(str(plain.get("unit")))
            records[f"{stem}.json"] = plain
            files[f"{stem}.json"] = json_bytes(plain)
            if plain.get("frontier"):
                try:
                    drawing = draw(plain)
                except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                    self.left_out.append(f"frontier/{path.name}: its drawing, since its numbers are damaged")
                    continue
                files[f"{stem}.svg"] = drawing.svg("frontier").encode("utf-8", "backslashreplace")
                files[f"{stem}.png"] = drawing.png()
        if records:
            files["table.md"] = table_of(self.copy, records).encode("utf-8", "backslashreplace")
            self.copy.write_frontier(files)

    def _dictionaries(self) -> None:
        from safetensors.torch import save

        for path in sorted((self.source.path / "dictionaries").glob("*.safetensors")):
            try:
                if not is_inside(path, self.source.path):
                    raise Unreadable("it is a link to what lies outside of the run")
                held = read_tensors(path)
                about = self.scrubber.record(held.about())
            except Unreadable as error:
                self._lose(f"dictionaries/{path.name}: {self.scrubber.text(str(error))}")
                continue
            metadata = {"entoptic": json.dumps(about, ensure_ascii=False)} if about else {}
            self.copy.put(self.copy.path / "dictionaries" / path.name, save(held.tensors, metadata))

    def _context(self) -> None:
        for place in sorted((self.source.path / "context").glob("*/context.json")):
            record = self.source.context(place.parent.name)
            if not record:
                continue
            self.scrubber.learn(record)
            plain = self.scrubber.record(record)
            files = {}
            for file in sorted(place.parent.iterdir()):
                if file.suffix in (".jpg", ".png") and file.is_file() and is_inside(file, self.source.path):
                    files[file.name] = file.read_bytes()
            for entry in [one for name in ("strongest", "weakest") for one in _list(plain.get(name))]:
                if isinstance(entry, dict):
                    entry["photo"] = str(entry.get("photo") or "").replace("\\", "/").rpartition("/")[2]
            if "numbers_sha256" in plain:
                plain["numbers_sha256"] = numbers_sha256(plain)
            self.copy.write_context(slug(str(plain.get("unit"))), plain, files)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return read_json(path) if is_inside(path, self.source.path) else {}
        except Unreadable:
            return {}


def _is_grey(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.mode in ("L", "LA", "1")
    except (OSError, SyntaxError, ValueError):
        return False  # reading it says what is wrong


def _clear(folder: Path, *, keep: bool) -> None:
    """Deletes what an export that failed has written; the folder was empty, or not there, before."""
    if not folder_exists(folder):
        return
    for one in folder.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one, ignore_errors=True)
        elif one.name != LOCK or not keep:
            one.unlink(missing_ok=True)
    if not keep:
        folder.rmdir()


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
