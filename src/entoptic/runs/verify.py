"""Recomputing the evidence of a run from its files, to see whether the numbers still hold."""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from entoptic.base.files import sha256_of
from entoptic.base.gradients import with_gradients
from entoptic.base.records import why
from entoptic.base.unread import names_unread
from entoptic.errors import NotAvailable, Unreadable, counted
from entoptic.metrics.registry import METRICS, TRACE, needing
from entoptic.models.model import Model
from entoptic.runs.circuit_check import circuit_drift
from entoptic.runs.difference import PICTURES, Difference
from entoptic.runs.listing import SEAL, changed_since_listed, was_edited
from entoptic.runs.people import changed_people
from entoptic.runs.recompute import Recompute, Recomputed
from entoptic.runs.results import read_results, result_records
from entoptic.runs.same import same_numbers
from entoptic.runs.store import Picture, Run
from entoptic.runs.verify_files import changed_about, changed_context, last_job_finished, left_alone, wrong_image

if TYPE_CHECKING:
    from entoptic.inversion.inverter import Inverter

TOLERANCE = 1e-3
"""Relative difference below which two measurements count as the same: kernels round differently by machine."""


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        pictures: how many were recomputed.
        numbers: how many measurements were compared.
        drift: one line per file that changed or measurement that no longer comes out.
        skipped: one line per measurement that could not be recomputed, with the reason.
        notes: what no measurement depends on and cannot be checked, with the reason: the run is of an earlier version, or
            was interrupted.
    """

    pictures: int = 0
    numbers: int = 0
    drift: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    incomplete: bool = False
    """Whether a whole part, such as the table of a benchmark, was not compared."""
    files: set[str] = field(default_factory=set, repr=False)
    """Files that `drift` is about, by their paths in the run, pictures without an ending: none is spoken of twice."""

    def differs(self, *found: Difference) -> None:
        """Adds what differs in files."""
        self.drift += [one.text for one in found]
        self.files |= {one.file for one in found}

    def picture_differs(self, stem: str, *texts: str) -> None:
        """Adds what differs in a picture, its sidecar or its row."""
        self.drift += texts
        if texts:
            self.files |= {stem, PICTURES}

    def leaves_out(self, what: str) -> None:
        """Adds a whole part that was not compared, so that the verdict says so."""
        self.skipped.append(what)
        self.incomplete = True

    @property
    def ok(self) -> bool:
        """Nothing drifted."""
        return not self.drift

    def __str__(self) -> str:
        right = "as recorded, but not all was compared" if self.incomplete else "all as recorded"
        verdict = right if self.ok else f"{len(self.drift)} differ{'s' if len(self.drift) == 1 else ''}"
        return f"{counted(self.pictures, 'picture')}, {counted(self.numbers, 'number')} recomputed: {verdict}" + (
            f", {len(self.skipped)} not recomputed" if self.skipped else ""
        )

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.drift + self.skipped + self.notes)
        return f"<p>{html.escape(str(self))}</p><ul>{lines}</ul>"


@names_unread
@with_gradients
def verify(
    run: str | Path | Run,
    *,
    model: Model | None = None,
    photos: Any = None,
    inverter: Inverter | None = None,
    prior: str | None = None,
    device: str = "auto",
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Recomputes every measurement of a run from its PNG files.

    Args:
        run: a run, or its folder.
        model: needed where the run is of a module that has no loadable name.
        photos: where the photos are now, if not where the sidecars say.
        inverter: of pictures that `invert` made, where it has no loadable name.
        prior: where the inverters' prior is now, if not where the sidecars or the inverters' cards say.
        device: "auto", "cpu", "cuda:1", ….
        on_picture: called with (done, total) before each picture.

    Returns:
        What differs, and what could not be recomputed.

    Raises:
        UserError: no such run, or its network cannot be loaded or has other weights.
    """
    opened = Run.open(run.path if isinstance(run, Run) else run)
    found, total = Verification(), opened.sidecars()
    recompute = Recompute(opened, model, photos, inverter, prior, device)
    without_hash, edited = 0, list[Path]()
    for done, (picture, problem) in enumerate(opened.read()):
        on_picture(done, total)
        if picture is None:
            found.differs(Difference(PICTURES, problem))
            continue
        name, before = picture.path.name, len(found.drift)
        without_hash += SEAL not in picture.record
        edited += [picture.path] if was_edited(picture.record) else []
        try:
            found.drift += [f"{name}: {wrong}" for wrong in changed_files(opened, picture)]
            fresh = recompute.evidence(picture)
            found.drift += [f"{name}: {wrong}" for wrong in fresh.drift]
            found.skipped += fresh.notes
            if fresh.evidence:
                compare(picture.record, name, fresh, found)
        except (NotAvailable, Unreadable) as error:
            found.skipped.append(f"{name}: {error}")
        except (MemoryError, torch.OutOfMemoryError) as error:
            found.skipped.append(f"{name}: out of memory ({why(error)})")
        except (
            LookupError, TypeError, AttributeError, ValueError, OSError, ArithmeticError, RuntimeError, AssertionError
        ) as error:  # fmt: skip
            found.drift.append(f"{name}: its sidecar or picture is damaged ({type(error).__name__}: {why(error)})")
        if len(found.drift) > before:
            found.files |= {picture.path.stem, PICTURES}
    without_hash += compare_results(opened, found)
    answers, unsealed = changed_people(opened.path)
    found.differs(*answers)
    without_hash += unsealed
    finished = last_job_finished(opened)
    found.differs(*changed_about(opened), *changed_context(opened))
    for one in left_alone(opened) if finished else ():
        found.picture_differs(Path(one.file).stem, one.text)
    compare_metadata(opened, found, finished)
    for path in edited:
        if path.stem not in found.files:
            told = f"{path.name}: its sidecar was changed after it was written ({SEAL} differs)"
            found.picture_differs(path.stem, told)
    compare_listing(opened, found, finished)
    if without_hash:
        found.notes.append(
            f"{counted(without_hash, 'record')} of a version that kept no hash of {'it' if without_hash == 1 else 'them'}: edits "
            "of what nothing is computed from (versions, trace) are not found"
        )
    found.skipped += public_copy(opened)
    on_picture(total, total)
    return found


def _version(record: Mapping[str, Any]) -> int:
    """The version of the evidence in a sidecar, 0 where it does not say."""
    measured = record.get("measured_with")
    found = measured.get("evidence") if isinstance(measured, Mapping) else None
    return found if isinstance(found, int) else 0


def public_copy(run: Run) -> list[str]:
    """Returns what is to be said of a run that `export` made: one line, or none for any other run."""
    try:
        copied = run.about.get("exported")
    except Unreadable:  # what is wrong with it is said where it is shown
        return []
    if not isinstance(copied, Mapping):
        return []
    gone = "paths" if copied.get("photos") else "paths and photos"
    return [f"this is a public copy without {gone}: what depends on them can be checked in the run that it was made of"]


def compare_results(run: Run, found: Verification) -> int:
    """Compares the records of results that are no pictures with their files; returns how many keep no hash of themselves."""
    without_hash, right = 0, set[str]()
    for result, problem in read_results(run):
        if result is None:
            found.drift.append(problem)
            continue
        without_hash += SEAL not in result.record
        wrong = circuit_drift(result) if result.kind == "circuit" else []
        if not wrong and was_edited(result.record):
            name = result.path.parent.name
            wrong = [f"{name}: its record was changed after it was written ({SEAL} differs)"]
        found.drift += wrong
        right |= set() if wrong else {result.path.relative_to(run.path).as_posix()}
    found.files |= {path.relative_to(run.path).as_posix() for path in result_records(run)} - right
    return without_hash


def compare_listing(run: Run, found: Verification, finished: bool) -> None:
    """Compares the files of a run with their list. What is known to be wrong already is not said twice."""
    wrong, notes = changed_since_listed(run, finished=finished)
    known = set(found.files) | (
        {"metadata.jsonl"} if found.drift else set()
    )  # its rows repeat what the other files say
    found.differs(*(one for one in wrong if one.file not in known))
    found.notes += notes


def changed_files(run: Run, picture: Picture) -> list[str]:
    """Returns which of a picture's files are not those that its sidecar names, in words."""
    wrong = []
    if sha256_of(picture.path) != picture.record["image"]["sha256"]:
        wrong.append("the picture was changed after it was measured (its sha256 differs)")
    wrong += wrong_image(picture)
    for what, entry in (picture.record.get("maps") or {}).items():
        path = run.map_file(entry)
        if path is None or sha256_of(path) != entry["sha256"]:
            wrong.append(f"its map {what} is missing or was changed")
    return wrong


def compare(record: Mapping[str, Any], name: str, fresh: Recomputed, found: Verification) -> None:
    """Compares a sidecar's evidence with what was measured afresh; what differs goes to `found.drift`."""
    found.pictures += 1
    recorded, from_trace = {e["name"] for e in record["evidence"]}, needing(TRACE)
    # A picture that was measured before there was a metric lacks it, and nothing was taken away.
    known = {one for one in fresh.evidence if one not in METRICS or METRICS[one].since <= _version(record)}
    found.drift += [
        f"{name}: {gone} is missing from the sidecar" for gone in fresh.evidence if gone in known - recorded
    ]
    for old in record["evidence"]:
        metric, value = old["name"], old["value"]
        reason = fresh.not_comparable.get(metric)
        if reason is not None:
            found.skipped += [f"{name}: {reason}"] if reason else []
            continue
        if metric in METRICS and not METRICS[metric].recomputable:
            found.skipped.append(f"{name}: {metric} cannot be measured from the files")
            continue
        if metric in METRICS and METRICS[metric].changed > _version(record):
            found.skipped.append(f"{name}: {metric} was measured as an earlier version defined it")
            continue
        if metric not in fresh.evidence:
            found.drift.append(f"{name}: {metric} is no measurement of this version")
            continue
        now = fresh.evidence[metric]
        share = metric in METRICS and METRICS[metric].unit == "%" and now.n > 1
        close = partial(_share_close, n=now.n) if share else _close
        # What a sampler recorded of its distribution is not in a picture: only that the evidence still says the same.
        found.numbers += metric not in from_trace
        if not close(value, now.value) or not _close_all(
            old.get("interval"), now.interval, 100 / now.n if share else 0.0
        ):
            found.drift.append(f"{name}: {metric} says {_show(value)}, recomputed {_show(now.value)}")
        elif old.get("n") != now.n:
            found.drift.append(f"{name}: {metric} says n = {old.get('n')}, recomputed n = {now.n}")
        elif old.get("direction") != now.direction and value is not None:
            found.drift.append(f"{name}: {metric} says that {old.get('direction')} is better, which it is not")
        elif value is not None and (old.get("scale"), old.get("reason")) != (now.scale, now.reason):
            said = "scale" if old.get("scale") != now.scale else "reason"
            found.drift.append(
                f'{name}: {metric} says that its {said} is "{old.get(said)}", and it is "{getattr(now, said)}"'
            )
        else:
            wrong = _wrong_details(old.get("detail"), now.to_json()["detail"])
            found.drift += [f"{name}: {metric} says {what}" for what in wrong]


def compare_metadata(run: Run, found: Verification, finished: bool = False) -> None:
    """Compares `metadata.jsonl` with the sidecars: it lists every picture with its hash and its numbers.

    A picture that was taken out with its sidecar, or made again behind them, differs from its row there. Where the last job
    finished, all rows were there.
    """
    file = run.path / "metadata.jsonl"
    absent = found.drift if finished else found.skipped
    try:
        rows, twice = _metadata_rows(file)
    except FileNotFoundError:
        absent.append(
            "metadata.jsonl is not there, and the job that wrote the run finished: it was taken out"
            if finished
            else "metadata.jsonl is not there: the run was interrupted, or it was taken out"
        )
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found.drift.append(f"metadata.jsonl is damaged ({type(error).__name__})")
        return
    for name in twice:
        found.picture_differs(Path(name).stem, f"{name}: metadata.jsonl lists it twice")
    gone, missing = set(rows), []
    differing: dict[str, dict[str, Any]] = {}
    for picture in run:
        own = run.row(picture)
        name = own["file_name"]
        gone.discard(name)
        if Path(name).stem in found.files:
            continue
        held = rows.get(name)
        if held is None:
            missing.append(name)
            continue
        if held == _digest(own) or _digest(_without_sha256(own)) == held:
            continue
        differing[name] = own
    for name, row in _metadata_rows_of(file, differing).items():
        own = differing[name]
        wrong = [key for key in {**own, **row} if row.get(key) != own.get(key) and (key != "sha256" or key in row)]
        texts = [f"{name}: its {key} in metadata.jsonl is not that of its sidecar" for key in wrong]
        found.picture_differs(Path(name).stem, *texts)
    for name in (one for one in rows if one in gone):
        # A sidecar that is there and cannot be read was named already.
        if Path(name).stem not in found.files and not os.path.lexists((run.path / name).with_suffix(".json")):
            found.picture_differs(Path(name).stem, f"{name}: metadata.jsonl lists it, and it is gone")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        absent.append(
            f"metadata.jsonl does not list {missing[0]}{more}: "
            + (
                "the job that wrote the run finished, so that the row was taken out, or the picture put in"
                if finished
                else "the run was interrupted; the same command completes it"
            )
        )


def _metadata_rows(file: Path) -> tuple[dict[str, bytes], list[str]]:
    """A digest of every row of `metadata.jsonl` by its file, and the files with several rows.

    The rows of a large run do not fit into the memory.
    """
    rows: dict[str, bytes] = {}
    twice = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip("\n"):
                row = json.loads(line)
                if row["file_name"] in rows:
                    twice.append(row["file_name"])
                rows[row["file_name"]] = _digest(row)
    return rows, twice


def _metadata_rows_of(file: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """The last row of each of some files in `metadata.jsonl`."""
    found: dict[str, dict[str, Any]] = {}
    if names:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip("\n") and (row := json.loads(line))["file_name"] in names:
                    found[row["file_name"]] = row
    return found


def _digest(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _without_sha256(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as versions before wrote it, which held no hash."""
    return {name: value for name, value in row.items() if name != "sha256"}


def _share_close(a: float | None, b: float | None, n: int) -> bool:
    """Whether two shares of n things in % are the same, or one of the things fell on the other side by rounding."""
    if a is None or b is None:
        return a is b
    apart = abs(float(a) - float(b))
    return apart <= TOLERANCE or abs(apart - 100 / n) <= TOLERANCE


def _wrong_details(old: Any, now: Mapping[str, Any]) -> list[str]:
    """What a record says in detail and the recomputed evidence does not, of numbers: names of files may have changed."""
    if not isinstance(old, Mapping):
        return ["no detail"]
    wrong = []
    for key, value in old.items():
        if isinstance(value, str | None):
            continue
        if key not in now:
            wrong.append(f"{key} = {value}, which is no part of it")
        elif not same_numbers(value, now[key], TOLERANCE):
            wrong.append(f"{key} = {value}, recomputed {now[key]}")
    return wrong


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _close_all(a: Any, b: Any, more: float) -> bool:
    """Whether two intervals are the same; `more` is what an end of a share's may move by."""
    pair = list(_pairs(a, b))
    return (a is None) == (b is None) and all(_close(x, y) or abs(x - y) <= more for x, y in pair)


def _pairs(a: Any, b: Any) -> Iterator[tuple[float, float]]:
    yield from zip(a or (), b or ())


def _show(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
