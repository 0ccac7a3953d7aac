"""Merging runs: what several processes or machines made becomes one run."""

from __future__ import annotations

import filecmp
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from entoptic.base.files import is_inside
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError, counted
from entoptic.methods.contract import Failure, FailureCode
from entoptic.runs.failures import read_failures, write_failures
from entoptic.runs.frontier_table import table_of
from entoptic.runs.people import FILE as PEOPLE_FILE
from entoptic.runs.people import check_people, merge_people
from entoptic.runs.results import find_result, read_results
from entoptic.runs.store import Picture, Run

_NAMED = 5
"""Files that a warning names."""


def merge_runs(runs: Sequence[str | Path | Run], out: str | Path, *, progress: Progress = silent) -> Run:
    """Copies the finished pictures, results and people's answers of several runs into one; what is there already is kept.

    Pictures are told by their keys, so parts of one request make the run that one process would have made. Damaged or
    unfinished pictures and results are left where they are, and named in the merged run's `problems`. Where files of several
    runs have one name and other bytes, that of the first run stays, which a warning says. A failure that another run has made
    good is dropped.

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
    merging = _Merging(merged, progress)
    failed = {run.path.resolve(): read_failures(run) for run in [merged, *sources]}
    others = [
        run for path, run in {run.path.resolve(): run for run in sources}.items() if path != merged.path.resolve()
    ]
    with merged.writing(sources[0].about):
        if any(failed.values()):
            write_failures(merged, [failure for found in failed.values() for failure in found])
            merging.look_at(merged)
        for source in others:
            merging.take(source)
        if any(failed.values()):
            write_failures(merged, merging.that_hold(failed))
        if any(merged.path.glob("frontier/*.json")):
            merged.write_frontier({"table.md": table_of(merged, {}).encode("utf-8", "backslashreplace")})
        merged.problems += _merge_people(merged, [run.path for run in others])
    if other := [f"{name} ({', '.join(sorted(found))})" for name, found in merging.versions.items() if len(found) > 1]:
        warnings.warn(
            f"the pictures were made with several versions of {' and '.join(other)}; those of one request then agree to rounding",
            stacklevel=2,
        )
    if merging.differing:
        names = sorted(merging.differing)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warnings.warn(
            f"{counted(len(names), 'file')} of several runs {'has' if len(names) == 1 else 'have'} other bytes in each, and "
            f"that of the first was kept: {', '.join(names[:_NAMED])}{more}",
            stacklevel=2,
        )
    return merged


class _Merging:
    """What is taken into a run, and what of it was there already with other bytes.

    Args:
        merged: the run that is being written.
        progress: is called with (what, done, total).
    """

    def __init__(self, merged: Run, progress: Progress) -> None:
        self.merged, self._progress = merged, progress
        self.differing: set[str] = set()
        self.versions: dict[str, set[str]] = {}
        self._made: dict[Path, set[tuple[str, str]]] = {}

    def look_at(self, run: Run) -> None:
        """Takes note of what a run has made."""
        self._made[run.path.resolve()] = {(picture.unit, picture.method) for picture in run}

    def take(self, source: Run) -> None:
        """Copies what the merged run does not have."""
        merged, total = self.merged, source.sidecars()
        made = self._made.setdefault(source.path.resolve(), set())
        for done, (picture, problem) in enumerate(source.read(), 1):
            if picture is None:
                merged.problems.append(_left(source, problem))
            elif self._adopt(source, picture):
                made.add((picture.unit, picture.method))
                self._versions(picture)
            else:
                name = picture.path.relative_to(source.path)
                merged.problems.append(_left(source, f"{name}: it is damaged or not finished"))
            self._progress(f"merging {source.path.name}", done, total)
        for result, problem in read_results(source):
            if result is None:
                merged.problems.append(_left(source, problem))
            elif find_result(merged, result.kind, result.name, str(result.record["key"])) is None:
                for entry in [*result.record["files"].values(), {"file": result.path.name}]:
                    self._copy(source, result.path.parent / entry["file"], replace=True)
        for place in sorted(
            (source.path / "context").glob("*")
        ):  # a record and the photos that it names, or none of them
            if not (merged.path / place.relative_to(source.path) / "context.json").is_file():
                self._copy_all(source, place)
            else:
                self._copy(source, place / "context.json")
        for folder in ("dictionaries", "frontier", "films"):
            self._copy_all(source, source.path / folder)

    def that_hold(self, failed: Mapping[Path, Sequence[Failure]]) -> list[Failure]:
        """Returns the failures that no other run has made good: one that has such pictures and no such failure.

        Args:
            failed: of each run, by its folder.
        """
        kept: list[Failure] = []
        for path, failures in failed.items():
            good: set[tuple[str, str]] = set()
            for other, made in self._made.items():
                if other != path:
                    both = made | {(unit, "") for unit, _ in made}
                    good |= both - {(one.unit, one.method) for one in failed.get(other, ())}
            kept += [one for one in failures if not one.unit or (one.unit, one.method) not in good]
        return kept

    def _adopt(self, source: Run, picture: Picture) -> bool:
        """Copies one picture with its maps, the sidecar last; nothing outside the source is read.

        Returns:
            Whether the merged run has it now.
        """
        key, merged = str(picture.record.get("key")), self.merged
        file = merged.path / picture.path.relative_to(source.path)
        if (held := merged.finished(file, key)) is not None:
            if held["image"].get("sha256") != picture.record["image"].get("sha256"):
                self.differing.add(picture.path.relative_to(source.path).as_posix())
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
            self._copy(source, one, replace=True)
        return True

    def _versions(self, picture: Picture) -> None:
        """Takes note of what a picture was made with."""
        held = picture.record.get("versions")
        for name, version in held.items() if isinstance(held, dict) else ():
            self.versions.setdefault(str(name), set()).add(str(version))

    def _copy_all(self, source: Run, folder: Path) -> None:
        for file in sorted(folder.glob("**/*")):
            if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                self._copy(source, file)

    def _copy(self, source: Run, file: Path, *, replace: bool = False) -> None:
        """Copies one file of a run to its place in the other; nothing outside of the two is read or written."""
        name = file.relative_to(source.path)
        target = self.merged.path / name
        if not file.is_file() or not is_inside(file, source.path):
            return
        if replace or not target.exists():
            self.merged.put(target, lambda part: shutil.copyfile(file, part))
        elif name.as_posix() != "frontier/table.md" and not filecmp.cmp(file, target, shallow=False):
            self.differing.add(name.as_posix())


def _merge_people(merged: Run, others: Sequence[Path]) -> list[Failure]:
    """Carries what people answered along; a file that is damaged is named and stays where it is."""
    problems, whole = [], []
    for folder in others:
        try:
            check_people(folder)
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
