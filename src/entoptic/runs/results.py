"""Results of a run that are no pictures (circuits, patterns, maps, answers of people): a record with files and evidence.

    RUN/results/KIND/NAME-KEY/result.json      the record
    RUN/results/KIND/NAME-KEY/FILE             its files, with their sha256 in the record

They keep the contract of pictures: a key is a hash of everything that the result depends on, the record is written last,
the same request finds it again, and `verify` finds a changed byte.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entoptic.base.files import is_inside, json_bytes, sha256_of
from entoptic.base.records import read_json
from entoptic.base.unread import hear_again
from entoptic.errors import Unreadable, UserError, counted
from entoptic.metrics.evidence import Evidence
from entoptic.runs.listing import SEAL, seal
from entoptic.runs.store import FORMAT, Run
from entoptic.units.unit import slug

FOLDER, RECORD = "results", "result.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished result of a run.

    Attributes:
        path: of its record.
        record: the record's content: `kind`, `name`, `key`, `evidence`, `files`, and what its kind adds.
    """

    path: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """What it is, for instance "circuit"."""
        return str(self.record["kind"])

    @property
    def name(self) -> str:
        """Its name among those of its kind."""
        return str(self.record["name"])

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Measurements by name."""
        return {e["name"]: e for e in self.record["evidence"]}

    def file(self, name: str) -> Path:
        """Returns where one of its files is.

        Raises:
            UserError: it has no such file.
        """
        if name not in self.record["files"]:
            raise UserError(f"{self.name} has no file {name}; there are {', '.join(self.record['files']) or 'none'}")
        return self.path.parent / str(self.record["files"][name]["file"])

    def changed(self) -> list[str]:
        """Returns the names of its files that are missing, lie elsewhere or are not those of its record."""

        def intact(name: str, sha256: str) -> bool:
            file = self.file(name)
            return is_inside(file, self.path.parent) and file.is_file() and sha256_of(file) == sha256

        return [name for name, entry in self.record["files"].items() if not intact(name, entry["sha256"])]


def write_result(
    run: Run,
    kind: str,
    name: str,
    key: str,
    *,
    files: Mapping[str, bytes],
    evidence: Sequence[Evidence] = (),
    about: Mapping[str, Any] | None = None,
) -> Result:
    """Stores a result: its files first, the record last, each atomically.

    Args:
        run: that is being written (inside `run.writing`).
        kind: what it is, for instance "circuit".
        name: among those of its kind.
        key: hash of everything that it depends on.
        files: content by name, for instance {"edges.safetensors": …}.
        evidence: its measurements.
        about: further JSON-able entries of the record.
    """
    path = _path(run, kind, name, key)
    entries = {n: {"file": slug(n), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    record = dict(about or {}) | {
        "format": FORMAT, "kind": kind, "name": name, "key": key, "complete": True, "files": entries,
        "evidence": [e.to_json() for e in evidence],
    }  # fmt: skip
    record[SEAL] = seal(record)
    for n, data in files.items():
        run.put(path.parent / entries[n]["file"], data)
    run.put(path, json_bytes(record))
    return Result(path=path, record=record)


def find_result(run: Run, kind: str, name: str, key: str) -> Result | None:
    """Returns a finished result of this key whose files are intact, else None."""
    path = _path(run, kind, name, key)
    record = _read(path, run)
    if record is None or record["key"] != key:
        return None
    found = Result(path=path, record=record)
    if found.changed():
        return None
    hear_again(str(record.get("photos")), record.get("unread"))
    return found


def read_results(run: Run, kind: str = "*") -> Iterator[tuple[Result | None, str]]:
    """Yields every result of a kind: (result, "") or (None, "NAME: what is wrong with it")."""
    for path in result_records(run, kind):
        name = path.parent.relative_to(run.path).as_posix()
        record = _read(path, run)
        if record is None:
            yield None, f"{name}: cannot be read"
            continue
        result = Result(path=path, record=record)
        wrong = result.changed()
        yield (None, f"{name}: its file {wrong[0]} is missing or was changed") if wrong else (result, "")


def result_records(run: Run, kind: str = "*") -> list[Path]:
    """Returns the record files of all results of a kind, readable or not.

    Args:
        run: the run.
        kind: of the results; "*" for all.
    """
    return sorted((run.path / FOLDER).glob(f"{slug(kind) if kind != '*' else kind}/*/{RECORD}"))


def results_in(run: Run) -> str:
    """Returns what results lie in a run, in words such as "2 results (1 of kind atlas, 1 of kind circuit)"; "" without any.

    None is read.

    Args:
        run: the run.
    """
    found = Counter(path.parent.parent.name for path in result_records(run))
    kinds = ", ".join(f"{number} of kind {kind}" for kind, number in sorted(found.items()))
    return f"{counted(found.total(), 'result')} ({kinds})" if found else ""


def _path(run: Run, kind: str, name: str, key: str) -> Path:
    return run.path / FOLDER / slug(kind) / f"{slug(name)}-{key[:12]}" / RECORD


def _read(path: Path, run: Run) -> dict[str, Any] | None:
    try:
        record = read_json(path) if is_inside(path, run.path) else {}
    except Unreadable:
        return None
    return record if is_record(record) else None


def is_record(record: Mapping[str, Any]) -> bool:
    """Returns whether a record is that of a finished result, all of whose files lie in its folder."""
    kinds = {"kind": str, "name": str, "key": str, "files": dict, "evidence": list}
    if not record.get("complete") or not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    files = record["files"].values()
    return all(isinstance(e, dict) and isinstance(e.get("sha256"), str) and _plain(e.get("file")) for e in files)


def _plain(name: Any) -> bool:
    """Whether a file's name stays in its folder."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..", RECORD)
