"""What of a fetched run is not what its records say, and is therefore not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from entoptic.base.files import is_inside, sha256_of
from entoptic.base.records import read_json, read_tensors
from entoptic.errors import Unreadable
from entoptic.runs.pictures import Picture
from entoptic.runs.results import read_results
from entoptic.runs.store import Run

_CHANGED = "its bytes are not those of its record"


def take_out_damaged(folder: Path, names: Iterable[str]) -> list[str]:
    """Deletes what is damaged of a fetched run: files that cannot be read, and pictures that are not those of their records.

    A picture goes with its sidecar, so what stays is a run.

    Args:
        folder: of the run.
        names: of the files that it was fetched with; no other file is touched.

    Returns:
        The damaged files, each with what is wrong with it.
    """
    known = set(names)
    found: dict[str, str] = {}
    for name, reason, others in [*_unreadable(folder, sorted(known)), *_changed(Run(folder))]:
        found.setdefault(name, reason)
        for one in {name, *others} & known:
            if is_inside(folder / one, folder):
                (folder / one).unlink(missing_ok=True)
    return [f"{name}: {reason}" for name, reason in found.items()]


def _unreadable(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Files that hold no JSON or no tensors where their names say so; a sidecar takes its picture along."""
    for name in names:
        file = folder / name
        try:
            if name.endswith(".json"):
                read_json(file)
            elif name.endswith(".safetensors"):
                read_tensors(file)
        except Unreadable:
            yield (
                name,
                "it cannot be read",
                [f"{name.removesuffix('.json')}.png"] if name.startswith("pictures/") else [],
            )


def _changed(run: Run) -> Iterator[tuple[str, str, list[str]]]:
    """Pictures, maps and results whose bytes are not those of their records."""
    for sidecar in sorted(run.path.glob("pictures/*/*.json")):
        picture = sidecar.with_suffix(".png")
        names = [one.relative_to(run.path).as_posix() for one in (sidecar, picture)]
        try:
            record = read_json(sidecar)
        except Unreadable:
            continue
        if not picture.is_file():
            yield names[1], "it is missing", names
        elif run.finished(picture, str(record.get("key"))) is None:
            yield names[1], _CHANGED, names
        else:
            yield from _changed_maps(run, Picture(picture, record))
    for result, problem in read_results(run):
        if result is None:
            name, _, reason = problem.partition(": ")
            yield f"{name}/result.json", reason, []


def _changed_maps(run: Run, picture: Picture) -> Iterator[tuple[str, str, list[str]]]:
    for entry in (picture.record.get("maps") or {}).values():
        file, sha256 = run.map_file(entry), entry.get("sha256")
        if file is not None and sha256 and sha256_of(file) != sha256:
            yield file.relative_to(run.path).as_posix(), _CHANGED, []
