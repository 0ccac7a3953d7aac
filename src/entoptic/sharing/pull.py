"""Fetches a shared run. Nothing is written outside of the folder, and a fetch that broke off goes on where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from entoptic.base.files import (
    check_inside,
    check_own,
    file_exists,
    folder_exists,
    json_bytes,
    lock_folder,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.progress import Progress, silent
from entoptic.base.records import read_json
from entoptic.errors import NotAvailable, Unreadable, UserError, counted
from entoptic.sharing.damage import take_out_damaged
from entoptic.sharing.places import Place, SharedFile, check_names, open_place

MARK = ".entoptic-pull.json"
"""Says where a folder's run was fetched from, so that the same fetch may write it again."""
_FOLDERS = frozenset({"pictures", "maps", "films", "context", "dictionaries", "frontier", "results"})
_FILES = (".json", ".jsonl", ".md", ".bib", ".txt")


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What was fetched, or would be.

    Attributes:
        path: folder of the run.
        files: of the run.
        size: of all of them, in bytes.
        fetched: files that were not here yet.
        fetched_size: of those, in bytes.
        ignored: files of the place that are no part of a run, such as pages.
        damaged: files that are not what they are listed or recorded as, with what is wrong; they were not kept.
    """

    path: Path
    files: int
    size: int
    fetched: int
    fetched_size: int
    ignored: int
    damaged: tuple[str, ...] = ()


def pull(
    source: str | Place,
    out: str | Path,
    *,
    dry_run: bool = False,
    progress: Progress = silent,
    before: Callable[[Pulled], object] = lambda told: None,
) -> Pulled:
    """Fetches a run from the Hugging Face hub or a folder.

    Every file must have the bytes that it is listed with, and every picture those of its record. What has not is named and
    not kept; the rest is.

    Args:
        source: `hf:USER/NAME` or `folder:PATH`.
        out: folder of the run; empty, not there, or one that the same run was fetched to.
        dry_run: only say what would be fetched.
        progress: is called with (what, done, total).
        before: is called with what will be fetched, before anything is.

    Returns:
        What was fetched.

    Raises:
        UserError: there is no run, a file's name is not safe, the folder holds something else, or there is no room.
    """
    place = open_place(source) if isinstance(source, str) else source
    folder = user_path(out)
    listed = place.listing()
    if "run.json" not in listed:
        raise NotAvailable(
            f"{place.name} is no shared run (it has no run.json), or it is private and the token is missing"
        )
    wanted = [one for name, one in listed.items() if _is_of_run(name)]
    check_names([one.name for one in wanted])
    _check_folder(folder, place.name)
    missing = [one for one in wanted if not one.is_of(folder / one.name)]
    size = sum(one.size for one in missing)
    pulled = Pulled(
        path=folder, files=len(wanted), size=sum(one.size for one in wanted), fetched=len(missing), fetched_size=size,
        ignored=len(listed) - len(wanted),
    )  # fmt: skip
    before(pulled)
    if dry_run:
        return pulled
    _check_room(folder, size)
    with lock_folder(folder):
        with writing_to(folder):
            write_atomically(check_inside(folder / MARK, folder), json_bytes({"from": place.name}))
        damaged = []
        for done, one in enumerate(sorted(missing, key=_order), 1):
            target = check_inside(folder / one.name, folder)
            place.fetch(one, target)
            if not one.is_of(target):
                target.unlink(missing_ok=True)
                damaged.append(f"{one.name}: it came with other bytes than it is listed with; fetch again")
            progress(f"fetching {place.name}", done, len(missing))
        gone = {line.partition(": ")[0] for line in damaged}
        found = take_out_damaged(folder, [one.name for one in wanted if one.name not in gone])
        damaged += [line for line in found if line.partition(": ")[0] not in gone]
    return replace(pulled, damaged=tuple(damaged))


def _is_of_run(name: str) -> bool:
    """Whether a run has such a file. Pages are not fetched: they are made here, and nobody else's scripts run."""
    if "\\" in name or name.startswith("/") or ".." in name.split("/"):
        return True  # never ignored in silence: its name is refused
    first, slash, _ = name.partition("/")
    return first in _FOLDERS if slash else name.endswith(_FILES) and not name.startswith(".")


def _check_folder(folder: Path, name: str) -> None:
    check_own(folder, marks={MARK}, what="run that was pulled")
    try:
        held = read_json(folder / MARK).get("from") if file_exists(folder / MARK) else name
    except Unreadable:
        held = None
    if held != name:
        raise UserError(f"{folder} holds a run from {held or 'elsewhere'}; give another --out")


def _check_room(folder: Path, size: int) -> None:
    there = next(one for one in (folder, *folder.resolve().parents) if folder_exists(one))
    if shutil.disk_usage(there).free < size:
        raise UserError(f"{folder} has no room for {megabytes(size)}; make room or give another --out")


def _order(one: SharedFile) -> tuple[int, str]:
    """A sidecar after its picture, run.json last: what is half there is no run."""
    return (2 if one.name == "run.json" else 1 if one.name.endswith(".json") else 0, one.name)


def megabytes(size: int) -> str:
    """Returns a size as people say it: `12.3 MB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else counted(size, "byte")
