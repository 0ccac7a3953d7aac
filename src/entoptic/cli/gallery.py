"""`entoptic gallery`: pages that show a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.files import paths_in
from entoptic.cli.options import Debug, RunToRead
from entoptic.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Make the static gallery of a run, or of the dictionaries in an index: pages that open from the disk, without a server."""

    title: ClassVar[str] = "make pages that show a run and open from the disk"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic gallery runs/first",
        "entoptic gallery runs/first --out pages",
    )

    run: RunToRead
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """where to write it (default: RUN/gallery)"""
    pictures: Annotated[tuple[Path, ...], arg(metavar="RUN")] = ()
    """for an index with dictionaries: runs with pictures of their features"""
    photos: Annotated[str | None, arg(metavar="PHOTOS")] = None
    """for an index: where its photos are now (default: where they were)"""
    context: bool = True
    """for an index: store small copies of each feature's strongest photos"""
    names: Annotated[Path | None, arg(metavar="FILE")] = None
    """suggested names of units, made by `entoptic name` (default: RUN/names.json, where it is)"""
    debug: Debug = False


def run_gallery(options: Gallery) -> int:
    """Runs `entoptic gallery`; returns the exit code."""
    from entoptic.gallery.atlas_page import write_atlas_pages
    from entoptic.gallery.circuit_page import write_circuit_pages
    from entoptic.gallery.commitment_page import write_commitment_pages
    from entoptic.gallery.dictionary_page import is_index, write_dictionary_pages
    from entoptic.gallery.pattern_page import write_pattern_pages
    from entoptic.gallery.site import build

    if is_index(options.run):
        if options.out is not None:
            raise UserError("--out does not go with an index: its pages are written to INDEX/gallery")
        for page in write_dictionary_pages(
            options.run, pictures=options.pictures, photos=options.photos, context=options.context
        ):
            print(page)
        return 0
    if options.pictures or options.photos is not None or not options.context:
        raise UserError(f"--pictures, --photos and --no-context go with an index, and {options.run} holds none")

    def holds(kind: str) -> bool:
        return options.out is None and bool(paths_in(options.run, f"results/{kind}/*/result.json"))

    results = {kind for kind in ("circuit", "patterns", "commitment", "atlas") if holds(kind)}
    if not results or paths_in(options.run, "pictures/*/*.json"):
        print(build(options.run, options.out, names=options.names))
    if "circuit" in results:
        print(write_circuit_pages(options.run, options.names)[0].with_name("circuits.html"))
    if "patterns" in results:
        print(write_pattern_pages(options.run, names=options.names)[0].with_name("patterns.html"))
    if "commitment" in results:
        print(*write_commitment_pages(options.run), sep="\n")
    if "atlas" in results:
        print(write_atlas_pages(options.run, names=options.names)[0].with_name("atlases.html"))
    return 0
