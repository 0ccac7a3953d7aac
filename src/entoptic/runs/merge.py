"""Merging runs: what several processes or machines made becomes one run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from entoptic.base.files import is_inside
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError
from entoptic.methods.contract import Failure, FailureCode
from entoptic.runs.failures import read_failures, write_failures
from entoptic.runs.people import FILE as PEOPLE_FILE
from entoptic.runs.people import merge_people, read_people
from entoptic.runs.results import read_results
from entoptic.runs.store import Picture, Run


def merge_runs(runs: Sequence[str | Path | Run], out: str | Path, *, progress: Progress = silent) -> Run:
    """Copies the finished pictures, results and people's answers of several runs into one; what is there already is kept.

    Pictures are told by their keys, so parts of one request make the run that one process would have made. Damaged or
    unfinished pictures are left where they are, and named in the merged run's `problems`.

    Args:
        runs: folders of runs.
        out: folder of the run that they become; it may be one of them, or hold some of the pictures already.
        progress: is called with (what, done, total).

    Returns:
        The merged run.

    Raises:
        UserError: there is no run in one of the folders, or `out` cannot be written.
    """
    sources = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    if not sources:
        raise UserError("no run was named; give the folders of at least one")
    merged = Run(out)
    failures = [failure for run in [merged, *sources] for failure in read_failures(run)]
    with merged.writing(sources[0].about):
        if failures:
            write_failures(merged, failures)
        for source in sources:
            if source.path.resolve() == merged.path.resolve():
                continue
            total = source.sidecars()
            for done, (picture, problem) in enumerate(source.read(), 1):
                if picture is None:
                    merged.problems.append(_left(source, problem))
                elif not _adopt(merged, source, picture):
                    name = picture.path.relative_to(source.path)
                    merged.problems.append(_left(source, f"{name}: it is damaged or not finished"))
                progress(f"merging {source.path.name}", done, total)
            for result, _ in read_results(source):
                if result is not None:
                    for entry in [*result.record["files"].values(), {"file": result.path.name}]:
                        _copy(source, result.path.parent / entry["file"], merged)
            for folder in ("context", "dictionaries", "frontier", "films"):
                for file in sorted((source.path / folder).glob("**/*")):
                    if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                        _copy(source, file, merged)
        others = [one.path for one in sources if one.path.resolve() != merged.path.resolve()]
        merged.problems += _merge_people(merged, others)
    return merged


def _merge_people(merged: Run, others: Sequence[Path]) -> list[Failure]:
    """Carries what people answered along; a file that is damaged is named and stays where it is."""
    problems, whole = [], []
    for folder in others:
        try:
            read_people(folder)
            whole.append(folder)
        except UserError as error:
            problems.append(Failure(code=FailureCode.UNREADABLE, text=f"{folder}: {PEOPLE_FILE}: {error}"))
    try:
        merge_people(merged.path, whole)
    except UserError as error:  # the merged run's own
        problems.append(Failure(code=FailureCode.UNREADABLE, text=f"{merged.path}: {error}"))
    return problems


def _left(source: Run, why: str) -> Failure:
    return Failure(code=FailureCode.UNREADABLE, text=f"{source.path}: {why}")


def _adopt(merged: Run, source: Run, picture: Picture) -> bool:
    """Copies one picture with its maps, the sidecar last; nothing outside the source is read.

    Returns:
        Whether the merged run has it now.
    """
    key = str(picture.record.get("key"))
    file = merged.path / picture.path.relative_to(source.path)
    if merged.finished(file, key) is not None:
        return True
    if source.finished(picture.path, key) is None:
        return False
    maps = [source.map_file(entry) for entry in (picture.record.get("maps") or {}).values()]
    of_maps = [
        one for one in maps if one is not None and is_inside(one, source.path / "maps") and ".." not in one.parts
    ]
    if len(of_maps) < len(maps):
        return False
    for one in (*of_maps, picture.path, picture.path.with_suffix(".json")):
        _copy(source, one, merged, replace=True)
    return True


def _copy(source: Run, file: Path, merged: Run, *, replace: bool = False) -> None:
    """Copies one file of a run to its place in another; nothing outside of the two is read or written."""
    target = merged.path / file.relative_to(source.path)
    if is_inside(file, source.path) and (replace or not target.exists()):
        merged.put(target, lambda part: shutil.copyfile(file, part))
