"""Pictures that earlier requests with other options left in a run, beside those that were asked for now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import is_inside
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, counted
from entoptic.runs.pictures import fault_of

if TYPE_CHECKING:
    from entoptic.runs.plan import Entry, Job
    from entoptic.runs.store import Run

_NAMED = 3
"""Options that differ, and kinds of earlier pictures, that the line names."""


def earlier_pictures(run: Run, asked: Sequence[tuple[Job, Sequence[Entry]]]) -> str:
    """Returns one line on pictures of the units and methods asked for that were made with other options; "" without any.

    Pictures of another seed, or of more samples, with the same options are no other ones.

    Args:
        run: that holds them.
        asked: what was asked for.
    """
    keys = {entry.key for _, entries in asked for entry in entries}
    found: Counter[str] = Counter()
    seen: set[Path] = set()
    for job, entries in asked:
        items = {(entry.item.seed, entry.item.sample) for entry in entries}
        for folder in dict.fromkeys(entry.file.parent for entry in entries):
            for sidecar, record in _others(run, folder, job.card.name, keys):
                if sidecar in seen:
                    continue
                told = _difference(record, asdict(job.config), job.config.came_later)
                if told or (record.get("seed"), record["sample"]) in items:
                    seen.add(sidecar)
                    found[told or "made by an earlier version, or with other photos or networks"] += 1
    if not found:
        return ""
    most = found.most_common(_NAMED)
    told = "; ".join(f"{what} ({number})" if len(found) > 1 else what for what, number in most)
    more = f"; and {counted(len(found) - _NAMED, 'other kind')}" if len(found) > _NAMED else ""
    number = found.total()
    return (
        f"{counted(number, 'earlier picture')} made with other options {'stays' if number == 1 else 'stay'} in {run.path}: "
        f"{told}{more}"
    )


def _others(run: Run, folder: Path, method: str, keys: set[str]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Sidecars in a unit's folder that are of a method and not among those asked for."""
    short = {key[:12] for key in keys}
    for sidecar in sorted(folder.glob("*.json")):
        name, _, key = sidecar.stem.rpartition("-")
        if name.rpartition("-")[0] != method or key in short or not is_inside(sidecar, run.path):
            continue
        try:
            record = read_json(sidecar)
        except Unreadable:
            continue
        if not fault_of(record) and record.get("key") not in keys:
            yield sidecar, record


def _difference(record: Mapping[str, Any], config: Mapping[str, Any], later: Mapping[str, Any]) -> str:
    """The options of a picture that are not those of a config, in words."""
    held = record.get("config")
    if not isinstance(held, Mapping):
        return ""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    differing = [
        f"{name} {_text(held.get(name, later.get(name)))}"
        for name, value in plain.items()
        if (name in held or name in later) and held.get(name, later.get(name)) != value
    ]
    gone = [f"{name} {_text(value)}" for name, value in held.items() if name not in plain]
    return ", ".join([*differing, *gone][:_NAMED])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else '""'
