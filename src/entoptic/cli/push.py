"""`entoptic push` and `entoptic pull`: share a run, and fetch one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from entoptic.cli.options import Debug, RunToRead
from entoptic.errors import UserError, counted


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on the Hugging Face hub or in a folder: a copy without local paths and photos, its card, what to cite."""

    title: ClassVar[str] = "share a run on the Hugging Face hub, or in a folder"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic push runs/first folder:shared --dry-run",
        "entoptic push runs/first folder:shared",
    )

    run: RunToRead
    to: Positional[Annotated[str, arg(metavar="PLACE")]]
    """hf:USER/NAME or folder:PATH"""
    space: bool = False
    """share the gallery as a static Space instead of a dataset"""
    private: bool = False
    """make a repository that only its owner sees"""
    licence: Annotated[str, arg(metavar="NAME")] = ""
    """licence of the pictures, as the hub spells it, such as cc-by-4.0"""
    with_photos: bool = False
    """share real photos too; mind their licences"""
    dry_run: bool = False
    """say what would be sent and how large it is, and send nothing"""
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Fetch a shared run from the Hugging Face hub or a folder; only files of a run are taken, and the gallery is made here."""

    title: ClassVar[str] = "fetch a shared run"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic pull folder:shared --out runs/pulled --dry-run",
        "entoptic pull folder:shared --out runs/pulled",
    )

    source: Positional[Annotated[str, arg(metavar="PLACE")]]
    """hf:USER/NAME or folder:PATH"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the run, which is not there or empty, or holds a part of the same"""
    dry_run: bool = False
    """say what would be fetched and how large it is, and fetch nothing"""
    debug: Debug = False


def run_push(options: Push) -> int:
    """Runs `entoptic push`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.sharing.pull import megabytes
    from entoptic.sharing.push import check_licence, push

    with reporter() as report:
        made = push(
            options.run,
            options.to,
            dry_run=options.dry_run,
            with_photos=options.with_photos,
            space=options.space,
            private=options.private,
            licence=check_licence(options.licence),
            progress=report.progress,
        )
    for line in made.left_out:
        print(f"left out: {line}")
    if made.withheld:
        print(f"{counted(made.withheld, 'photo')} as hashes and captions in withheld.jsonl")
    whole = f"{counted(made.files, 'file')}, {megabytes(made.size)}"
    if options.dry_run:
        for name in made.names[:20]:
            print(f"would send: {name}")
        more = f" (and {len(made.names) - 20} more)" if len(made.names) > 20 else ""
        print(f"{whole}; {made.sent} to send{more}, {megabytes(made.sent_size)}, to {made.address}")
    else:
        print(f"{whole}; {made.sent} sent, {megabytes(made.sent_size)}; look at {made.address}")
    return 2 if made.damaged else 0


def run_pull(options: Pull) -> int:
    """Runs `entoptic pull`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.gallery.site import build
    from entoptic.runs.store import Run
    from entoptic.sharing.pull import Pulled, megabytes, pull

    def tell(told: Pulled) -> None:
        ignored = f"; {told.ignored} that are no part of a run stay there" if told.ignored else ""
        whole = f"{counted(told.files, 'file')}, {megabytes(told.size)}"
        print(f"{whole}: {told.fetched} to fetch, {megabytes(told.fetched_size)}{ignored}", flush=True)

    with reporter() as report:
        made = pull(options.source, options.out, dry_run=options.dry_run, progress=report.progress, before=tell)
    if options.dry_run:
        return 0
    for line in made.damaged:
        print(f"not kept: {line}", file=sys.stderr)
    run = Run.open(made.path)
    try:
        print(f"{counted(len(run), 'picture')} in {run.path}; look at {build(run.path)}")
    except UserError as error:
        print(f"no gallery: {error}")
    return 2 if made.damaged else 0
