"""`entoptic merge`: one index from shards of it, or one run from several."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.base.files import file_exists
from entoptic.cli.options import Debug
from entoptic.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one index from shards of it, or one run from several."""

    title: ClassVar[str] = "make one index from shards of it, or one run from several"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic index builtin:lite0 --photos photos --layers bn2 --shard 0/2 --out a",
        "entoptic index builtin:lite0 --photos photos --layers bn2 --shard 1/2 --out b",
        "entoptic merge a b --out runs/merged",
    )

    folders: Positional[Annotated[tuple[Path, ...], arg(metavar="FOLDER")]]
    """folders of shards, or of runs; all of one kind"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the merged index or run"""
    debug: Debug = False


def run_merge(options: Merge) -> int:
    """Runs `entoptic merge`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.cli.output import finish_run
    from entoptic.images.build_index import merge_indexes
    from entoptic.runs.merge import merge_runs
    from entoptic.runs.results import results_in

    if _are_runs(options.folders):
        started = time.monotonic()
        with reporter() as report:
            run = merge_runs(options.folders, options.out, progress=report.progress)
        for failure in run.failures:
            print(f"not merged: {failure}", file=sys.stderr)
        if results := results_in(run):
            print(f"{results} in {run.path}")
            if not run.sidecars():
                print(f"no pictures; `entoptic gallery {shlex.quote(str(run.path))}` makes the pages of results")
                return 2 if run.failures else 0
        return finish_run(run, started)
    print(merge_indexes(options.folders, options.out))
    return 0


def _are_runs(folders: Sequence[Path]) -> bool:
    """Whether the folders are runs; else they are indexes.

    Raises:
        UserError: a folder is neither, or they are not of one kind.
    """
    from entoptic.base.files import user_path
    from entoptic.images.index import MARK
    from entoptic.runs.hint_of_runs import hint_of_runs

    kinds: dict[str, Path] = {}
    for folder in folders:
        kind = next((name for name in ("run.json", MARK) if file_exists(user_path(folder) / name)), None)
        if kind is None:
            near = hint_of_runs(folder, ("run.json", MARK))
            raise UserError(f"{folder} is neither a run nor an index (it has no run.json and no {MARK}){near}")
        kinds.setdefault(kind, folder)
    if len(kinds) > 1:
        raise UserError(
            f"{kinds['run.json']} is a run and {kinds[MARK]} an index; merge takes runs or shards of an index, not both"
        )
    return "run.json" in kinds
