"""The measurements of a run as one table of Arrow: a row for each number, whatever kind of run it is.

The columns and their types are the same for every run, so that tables of several runs can be put together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import is_inside
from entoptic.base.records import is_a, read_json
from entoptic.errors import Unreadable, printable
from entoptic.methods.contract import Failure
from entoptic.metrics import METRICS
from entoptic.metrics.registry import VERIFIERS, needing
from entoptic.runs.pictures import Picture
from entoptic.runs.results import read_results
from entoptic.runs.set_evidence import SET_FILE

if TYPE_CHECKING:
    import pyarrow as pa

    from entoptic.runs.store import Run

PICTURE, SET, PLACE, RESULT, FAILURE = "picture", "set", "place", "result", "failure"
"""What a row is of: one picture; all inversions of a run together; a method's place on a frontier; a result that is no
picture; something that was asked for and is not there."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; each field is a column, and None is null.

    Attributes:
        kind: what it is of: `PICTURE`, `SET`, `PLACE`, `RESULT` or `FAILURE`.
        unit: its string.
        label: what people call the unit.
        layer: of the unit.
        model: the network under study.
        method: name of the method; of a place its title; of a result its kind.
        seed: of the run that made the picture.
        sample: 0 for the first picture of a unit and method.
        evidence: name of the measurement.
        scale: unit of the value ("logit", "%", …), "" for none.
        direction: "higher" or "lower" is better, "none" where neither is.
        value: the number, null where there is none.
        n: observations behind it.
        low: lower end of its 95 % interval.
        high: upper end; equal to `low` for a quantity that is exact.
        independent: whether networks measured it that the method never used; false where the network under study or the
            method itself did; null for a measurement that this installation does not know.
        note: why there is no value, or what to know about it.
        file: of the picture or record, below the run's folder.
        key: of the picture or result.
    """

    kind: str
    unit: str | None = None
    label: str | None = None
    layer: str | None = None
    model: str | None = None
    method: str | None = None
    seed: int | None = None
    sample: int | None = None
    evidence: str | None = None
    scale: str | None = None
    direction: str | None = None
    value: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    independent: bool | None = None
    note: str | None = None
    file: str | None = None
    key: str | None = None


_BATCH = 10_000
"""Rows that are held in Python at a time."""


def schema() -> pa.Schema:
    """Returns the columns of the table and their types."""
    import pyarrow as pa

    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    columns = {name: str(kind).split(" ")[0] for name, kind in Row.__annotations__.items()}
    return pa.schema([pa.field(name, kinds.get(kind, pa.string())) for name, kind in columns.items()])


def table_of_run(run: Run) -> pa.Table:
    """Returns the table of a whole run, failures and damaged files at its end.

    Args:
        run: the run.
    """
    damaged: list[Row] = []

    def pictures() -> Iterator[Picture]:
        for picture, problem in run.read():
            if picture is not None:
                yield picture
            else:
                damaged.append(Row(kind=FAILURE, note=problem))

    def rows() -> Iterator[Row]:
        yield from rows_of_pictures(pictures(), run.path)
        yield from _of_set(run)
        yield from _of_places(run)
        yield from _of_results(run)
        yield from (row_of_failure(failure) for failure in run.problems)
        yield from damaged  # known by now

    return table_of(rows())


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Returns rows as a table.

    Args:
        rows: in their order.
    """
    import pyarrow as pa

    found = schema()
    left = iter(rows)
    batches = []
    while batch := list(itertools.islice(left, _BATCH)):  # a column of Arrow is a small part of the same rows in Python
        columns = {name: [_cell(getattr(row, name)) for row in batch] for name in Row.__annotations__}
        batches.append(pa.record_batch([pa.array(columns[one.name], one.type) for one in found], schema=found))
    return pa.Table.from_batches(batches, schema=found).combine_chunks()


def _cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def rows_of_pictures(pictures: Iterable[Picture], folder: Path) -> Iterator[Row]:
    """Yields a row for each measurement of pictures.

    Args:
        pictures: of one run.
        folder: of that run.
    """
    for picture in pictures:
        record = picture.record
        about: dict[str, Any] = {
            "kind": PICTURE, "unit": picture.unit, "label": picture.label, "layer": _text(record.get("layer")),
            "model": str(record["model"]["name"]), "method": picture.method, "seed": _whole(picture.seed),
            "sample": _whole(picture.sample), "file": picture.path.relative_to(folder).as_posix(),
            "key": _text(record.get("key")),
        }  # fmt: skip
        for entry in record["evidence"]:
            yield _measured(entry, about)


def row_of_failure(failure: Failure) -> Row:
    """Returns the row of something that is not there.

    Args:
        failure: why.
    """
    return Row(kind=FAILURE, unit=failure.unit or None, method=failure.method or None, note=failure.text)


def _measured(entry: Mapping[str, Any], about: Mapping[str, Any], note: str | None = None) -> Row:
    """The row of one measurement of a record."""
    name = str(entry["name"])
    value: Any = entry.get("value")
    low, high = _ends(entry.get("interval"))
    found: dict[str, Any] = {
        "evidence": name, "scale": str(entry.get("scale") or ""), "direction": str(entry.get("direction") or "none"),
        "value": float(value) if is_a(value, float) else None, "n": _whole(entry.get("n")), "low": low, "high": high,
        "independent": _independent(name), "note": _text(entry.get("reason")) or note or _remark(entry),
    }  # fmt: skip
    return Row(**{**about, **found})


def _independent(name: str) -> bool | None:
    """Whether other networks than the one under study measure it; methods use none of those, or leave them out."""
    return name in needing(VERIFIERS) if name in METRICS else None


def _remark(entry: Mapping[str, Any]) -> str | None:
    """What a value's detail says of how to read it."""
    detail = entry.get("detail")
    if not isinstance(detail, Mapping) or entry.get("value") is None:
        return None
    if detail.get("selected"):
        return "the picture was chosen among several by it or by what it is made of"
    return "upper bound" if detail.get("kl_is") == "upper_bound" else None


def _of_set(run: Run) -> Iterator[Row]:
    """Rows of all inversions of a run together, where they were measured as a set."""
    record = _read(run, run.path / SET_FILE)
    model, layer = _name(record.get("model")), _text(record.get("layer"))
    about = {"kind": SET, "layer": layer, "model": model, "method": "invert", "seed": _whole(record.get("seed")),
             "file": SET_FILE, "key": _text(record.get("key"))}  # fmt: skip
    judge = _name({"name": _map(record.get("distances")).get("features")})
    groups = [(record.get("means"), None, False), (_map(record.get("distances")).get("evidence"), judge, True)]
    groups += [(entries, name, name != model) for name, entries in _map(record.get("cross_match")).items()]
    for entries, network, independent in groups:
        for entry in _list(entries):
            if isinstance(entry, Mapping) and "name" in entry:
                note = f"of {network}" if network else None
                yield Row(**{**asdict(_measured(entry, about, note)), "independent": independent})


_PLACE_COLUMNS = {"mean": ("mean_score", "sd", "higher"), "nats": ("nats", "nats", "lower"),
                  "path_nats": ("path_nats", "nats", "lower"), "excess": ("excess_nats", "nats", "lower")}  # fmt: skip


def _of_places(run: Run) -> Iterator[Row]:
    """Rows of the methods' places beside the frontiers of a run."""
    for file in sorted((run.path / "frontier").glob("*.json")):
        record = _read(run, file)
        for place in _list(record.get("places")):
            if not isinstance(place, Mapping):
                continue
            about = {
                "kind": PLACE, "unit": _text(record.get("unit")), "label": _text(record.get("label")),
                "layer": _text(record.get("layer")), "model": _name(record.get("model")),
                "method": _text(place.get("title")), "seed": _whole(_map(record.get("asked")).get("seed")),
                "file": file.relative_to(run.path).as_posix(),
            }  # fmt: skip
            scores = place.get("scores")
            for name, (evidence, scale, direction) in _PLACE_COLUMNS.items():
                found = place.get(name)
                if not isinstance(found, Mapping):
                    continue
                bound = (
                    {"nats": "lower bound", "path_nats": "upper bound"}.get(name)
                    if place.get("kind") == "bounds"
                    else None
                )
                entry = {"name": evidence, "scale": scale, "direction": direction, **found}
                n = len(scores) if name == "mean" and isinstance(scores, list) else None
                yield Row(**{**asdict(_measured(entry, about, bound)), "independent": False, "n": n})
            kid = _map(place.get("naturalness")).get("kid")
            if isinstance(kid, Mapping):
                entry = {"name": "kid", "direction": "lower", **kid}
                yield Row(**{**asdict(_measured(entry, about, _text(kid.get("network")))), "independent": True})
        for failure in _list(record.get("failures")):
            unit, model = _text(record.get("unit")), _name(record.get("model"))
            yield Row(
                kind=FAILURE, unit=unit, model=model, note=str(failure), file=file.relative_to(run.path).as_posix()
            )


def _of_results(run: Run) -> Iterator[Row]:
    """Rows of the results of a run that are no pictures."""
    for result, problem in read_results(run):
        if result is None:
            yield Row(kind=FAILURE, note=problem)
            continue
        record = result.record
        about = {
            "kind": RESULT, "unit": _text(record.get("unit")) or result.name, "label": _text(record.get("label")),
            "layer": _text(record.get("layer")), "model": _name(record.get("model")), "method": result.kind,
            "seed": _whole(record.get("seed")), "file": result.path.relative_to(run.path).as_posix(),
            "key": _text(record.get("key")),
        }  # fmt: skip
        for entry in record["evidence"]:
            if isinstance(entry, Mapping) and "name" in entry:
                yield _measured(entry, about)


def _read(run: Run, file: Path) -> dict[str, Any]:
    """A record of the run, empty where there is none that can be read."""
    try:
        return read_json(file) if is_inside(file, run.path) else {}
    except Unreadable:
        return {}


def _ends(interval: Any) -> tuple[float | None, float | None]:
    if isinstance(interval, Sequence) and len(interval) == 2 and all(is_a(end, float) for end in interval):
        return float(interval[0]), float(interval[1])
    return None, None


def _whole(value: Any) -> int | None:
    """A whole number that a column of 64 bits holds, else None."""
    if not is_a(value, float) or abs(value) >= 2**63:
        return None
    return int(value)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _name(value: Any) -> str | None:
    return _text(value.get("name")) if isinstance(value, Mapping) else None
