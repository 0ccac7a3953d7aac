"""What a run is made of, so that `verify` finds what no measurement depends on: a command, a version, a trace, a film.

RUN/files.json      written last by each job: hashes of the files beside the pictures, and of all sidecars together

Each sidecar and each result's record holds a hash of itself besides, which tells which of them was changed. While a job
writes, the list is set aside: a run without it was interrupted, or is of a version before there was one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import UNFINISHED, file_exists, is_inside, json_bytes, path_exists, sha256_of
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, counted
from entoptic.runs.difference import PICTURES, Difference

if TYPE_CHECKING:
    from entoptic.runs.store import Run

FILE = "files.json"
MARK = "listing"
"""Entry of `run.json` that says that the run has such a list."""
SEAL = "record_sha256"
"""Entry of a sidecar, or of a result's record: the hash of all others."""
_FORMAT = 1
_ASIDE = f".{FILE}{UNFINISHED}"
"""What the list is called while a job writes the run."""
_PLACES = (
    "failures.json", "metadata.jsonl", "inversion.json", "names.json", "names.safetensors", "frontier/*", "dictionaries/*",
    "films/*/*", "context/*/context.json", "results/*/*/result.json",
)  # fmt: skip
_DATED = ("run.json", "progress.json", "report.html", "report.json")
"""Files that hold times, so that two jobs of the same request do not agree in them."""
_TEXT = frozenset({".json", ".jsonl", ".md", ".csv", ".svg", ".html"})


def seal(record: Mapping[str, Any]) -> str:
    """Returns the hash of a record's content, however it is laid out in its file.

    Args:
        record: that JSON can hold; what it says of its own hash does not count.
    """
    plain = json.loads(json_bytes({name: value for name, value in record.items() if name != SEAL}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def was_edited(record: Mapping[str, Any]) -> bool:
    """Returns whether a record says another hash of itself than it has; False where it says none."""
    return SEAL in record and record[SEAL] != seal(record)


@contextlib.contextmanager
def set_aside(run: Run) -> Iterator[None]:
    """Takes the list of a run out of the way while it is written, and puts it back where nothing was written.

    Args:
        run: that this process holds.
    """
    from entoptic.runs.store import writable

    file, aside = run.path / FILE, run.path / _ASIDE
    with writable(run.path):
        if file_exists(file) or file.is_symlink():
            os.replace(file, aside)
    try:
        yield
    finally:
        if file_exists(aside) and not path_exists(file) and not run.changed:
            with contextlib.suppress(OSError):
                os.replace(aside, file)
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_listing(run: Run) -> None:
    """Writes down what a run is made of.

    Args:
        run: that is being written (inside `run.writing`), whose other files are as they will be.
    """
    number, records = _records(run)
    run.put(run.path / FILE, json_bytes({
        "format": _FORMAT, "pictures": number, "records_sha256": records, "files": _hashes(run, _PLACES),
        "dated": _hashes(run, _DATED),
    }))  # fmt: skip


def changed_since_listed(run: Run, *, finished: bool) -> tuple[list[Difference], list[str]]:
    """Compares the files of a run with its list.

    Args:
        run: the run.
        finished: whether the job that wrote it last said that it finished.

    Returns:
        What differs, and what cannot be told, in words.
    """
    file = run.path / FILE
    if not path_exists(file) and not file.is_symlink():
        if not _is_listed(run):
            return [], [
                "the run is of a version that kept no list of its files: edits of failures.json and of films are not found"
            ]
        if finished and not path_exists(run.path / _ASIDE):
            told = f"{FILE} is not there, and the job that wrote the run finished: it was taken out"
            return [Difference(FILE, told)], []
        return [], [f"{FILE} is not there: the run was interrupted, or is being written, or it was taken out"]
    try:
        if not is_inside(file, run.path):
            raise Unreadable("it is a link to what lies outside of the run")
        record = read_json(file)
        known = {name: sha256 for part in ("files", "dated") for name, sha256 in record[part].items()}
        number, records = record["pictures"], record["records_sha256"]
    except (Unreadable, LookupError, TypeError, AttributeError) as error:
        return [Difference(FILE, f"{FILE} cannot be read ({error})")], []
    now = _hashes(run, (*_PLACES, *_DATED))
    wrong = [
        Difference(
            name,
            f"{name} was changed after the job that wrote it"
            if name in now
            else f"{name} is gone, and {FILE} lists it",
        )
        for name, sha256 in known.items()
        if now.get(name) != sha256
    ]
    wrong += [Difference(name, f"{name} was put in: {FILE} does not list it") for name in now if name not in known]
    if (number, records) != (found := _records(run)):
        told = (
            f"the sidecars are not those that {FILE} lists: {counted(found[0], 'picture')} now, {number} then"
            if number != found[0]
            else f"a sidecar was changed after {FILE} listed it"
        )
        wrong.append(Difference(PICTURES, told))
    return wrong, []


def _records(run: Run) -> tuple[int, str]:
    """How many pictures there are, and a hash of all their sidecars."""
    number, together = 0, hashlib.sha256()
    for picture in run:
        number += 1
        name = picture.path.relative_to(run.path).as_posix()
        together.update(f"{name}\n{seal(picture.record)}\n".encode("utf-8", "surrogateescape"))
    return number, together.hexdigest()


def _hashes(run: Run, places: Iterable[str]) -> dict[str, str]:
    """Hashes of the files in some places of a run, by name."""
    found = sorted({file for place in places for file in run.path.glob(place)})
    return {
        file.relative_to(run.path).as_posix(): content_hash(file)
        for file in found
        if file_exists(file) and not file.name.startswith(".") and is_inside(file, run.path)
    }


def content_hash(file: Path) -> str:
    """Returns the sha256 of a file; that of a text is the same with line ends of any system.

    Args:
        file: a text by its ending (JSON, Markdown, CSV, SVG, HTML), else anything.
    """
    if file.suffix not in _TEXT:
        return sha256_of(file)
    found = hashlib.sha256()
    with file.open("rb") as lines:
        for line in lines:
            found.update(line.replace(b"\r\n", b"\n"))
    return found.hexdigest()


def _is_listed(run: Run) -> bool:
    try:
        return MARK in run.about
    except Unreadable:  # what is wrong with it is said where it is shown
        return False
