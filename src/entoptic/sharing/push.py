"""Shares a run: a public copy of it, its card and what to cite go to a place; what is there already is not sent again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from entoptic.base.files import write_atomically
from entoptic.base.progress import Progress, silent
from entoptic.errors import UserError, counted
from entoptic.gallery.site import build
from entoptic.runs.export import export_run
from entoptic.runs.people import FILE as PEOPLE_FILE
from entoptic.runs.scrub import Scrubber
from entoptic.runs.store import Run, Unwritable
from entoptic.sharing.card import Summary, dataset_card, space_card
from entoptic.sharing.places import Place, check_names, open_place
from entoptic.sharing.withheld import FILE as WITHHELD
from entoptic.sharing.withheld import as_lines, withheld

MOST_FILES, MOST_BYTES = 500, 200_000_000
"""Of one commit: an interruption costs at most so much."""
_REPO_FILES = 100_000
"""Files that the hub advises a repository to have at most."""
_INDEX = (
    '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Entoptic</title>'
    '<meta http-equiv="refresh" content="0; url=gallery/index.html"><a href="gallery/index.html">The gallery</a></html>\n'
)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was shared, or would be.

    Attributes:
        address: where it is.
        files: of the shared run.
        size: of all of them, in bytes.
        sent: files that were not there yet.
        sent_size: of those, in bytes.
        withheld: photos that are hashes and captions only.
        left_out: what of the run is not shared, in words.
        damaged: how many of these are damaged in the run.
        names: of the files that were not there yet.
    """

    address: str
    files: int
    size: int
    sent: int
    sent_size: int
    withheld: int
    left_out: list[str] = field(default_factory=list)
    damaged: int = 0
    names: tuple[str, ...] = ()


def push(
    run: str | Path | Run,
    to: str | Place,
    *,
    dry_run: bool = False,
    with_photos: bool = False,
    space: bool = False,
    private: bool = False,
    licence: str = "",
    progress: Progress = silent,
) -> Pushed:
    """Shares a run on the Hugging Face hub or in a folder, without paths of this machine and without real photos.

    A push that broke off is completed by the same call: files that are there with the same bytes are not sent again.

    Args:
        run: the run, or its folder.
        to: `hf:USER/NAME` or `folder:PATH`.
        dry_run: only say what would be sent.
        with_photos: share real photos too; mind their licences.
        space: share the gallery as a static Space, in place of a dataset.
        private: make a repository that only its owner sees.
        licence: of the pictures, as the hub spells it, such as cc-by-4.0.
        progress: is called with (what, done, total).

    Returns:
        What was sent.

    Raises:
        UserError: there is no run, the place is none, or it refuses.
    """
    place = open_place(to, space=space) if isinstance(to, str) else to
    source = run if isinstance(run, Run) else Run.open(run)
    with _temporary() as folder:
        stage = folder / "run"
        with _preparing(folder):
            summary = _stage(
                source, stage, place.public, with_photos=with_photos, space=space, licence=licence, progress=progress
            )
        files = {
            file.relative_to(stage).as_posix(): file
            for file in sorted(stage.rglob("*"))
            if _is_shared(file, stage, space)
        }
        check_names(list(files))
        if len(files) > _REPO_FILES and place.name.startswith("hf:"):
            summary.left_out.append(
                f"nothing, but {len(files):,} files are more than the {_REPO_FILES:,} that the hub advises"
            )
        there = place.listing()
        missing = {name: file for name, file in files.items() if name not in there or not there[name].is_of(file)}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        if missing and not dry_run:
            place.prepare(private=private)
            done = 0
            for batch in _batches(missing, sizes):
                place.send(batch, f"Entoptic: {counted(len(batch), 'file')}")
                done += len(batch)
                progress(f"sending to {place.name}", done, len(missing))
        return Pushed(
            address=place.address, files=len(files), size=sum(sizes.values()), sent=len(missing),
            sent_size=sum(sizes[name] for name in missing), withheld=summary.withheld, left_out=summary.left_out,
            damaged=summary.damaged, names=tuple(missing),
        )  # fmt: skip


@contextmanager
def _temporary() -> Iterator[Path]:
    """Yields a folder for the copy that is sent."""
    try:
        made = tempfile.TemporaryDirectory(prefix="entoptic-push-")
    except OSError as error:
        raise UserError(
            f"there is no folder for temporary files ({error.strerror or error}); TMPDIR names one"
        ) from None
    with made as folder:
        yield Path(folder)


@contextmanager
def _preparing(folder: Path) -> Iterator[None]:
    """Turns what goes wrong while the copy is written into one sentence: it is no fault of the run or of the place."""
    try:
        yield
    except (Unwritable, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        raise UserError(
            f"the copy that is shared cannot be written in {folder.parent} ({getattr(cause, 'strerror', None) or error}); "
            "make room there, or let TMPDIR name another folder"
        ) from None


def _stage(
    source: Run, stage: Path, name: str, *, with_photos: bool, space: bool, licence: str, progress: Progress
) -> Summary:
    """Writes everything that is shared into a folder; returns what the card says of it."""
    made = export_run(source, stage, with_photos=with_photos, progress=progress)
    copy = Run.open(stage)
    summary = Summary(
        title=str(copy.about.get("title") or "A run of Entoptic"), left_out=list(made.left_out), damaged=made.damaged
    )
    for picture in copy:
        summary.add(picture)
    scrubber = Scrubber()
    if not with_photos:
        rows = as_lines(withheld(source, copy, scrubber))
        summary.withheld = rows.count(b"\n")
        if rows:
            write_atomically(stage / WITHHELD, rows)
    card = space_card(summary, name) if space else dataset_card(summary, name, licence)
    write_atomically(stage / "README.md", card.encode("utf-8", "backslashreplace"))
    write_atomically(stage / "CITATION.bib", summary.cited.bibtex().encode("utf-8", "backslashreplace"))
    if space:
        build(stage)
        write_atomically(stage / "index.html", _INDEX.encode())
    return summary


def _is_shared(file: Path, stage: Path, space: bool) -> bool:
    parts = file.relative_to(stage).parts
    return file.is_file() and not any(part.startswith(".") for part in parts) and (space or parts[0] != "gallery")


def _batches(files: Mapping[str, Path], sizes: Mapping[str, int]) -> Iterator[dict[str, Path]]:
    """Files in groups of one commit each: a sidecar after its picture, what describes the run at the end."""
    batch: dict[str, Path] = {}
    size = 0
    for name in sorted(files, key=_order):
        if batch and (len(batch) >= MOST_FILES or size + sizes[name] > MOST_BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = files[name]
        size += sizes[name]
    if batch:
        yield batch


def _order(name: str) -> tuple[int, str]:
    """Sidecars after pictures, the run's own records after all, run.json last: what is half there is no run yet."""
    last = {"metadata.jsonl": 2, PEOPLE_FILE: 2, "README.md": 3, "run.json": 4}
    return (last.get(name, 1 if name.endswith(".json") else 0), name)


def check_licence(text: str) -> str:
    """Checks a licence's name: it stands in the head of the card.

    Raises:
        UserError: it is no such name.
    """
    if text and not all(one.isalnum() or one in ".-+" for one in text):
        raise UserError(f'"{text[:80]}" is no licence as the hub spells them, such as cc-by-4.0')
    return text
