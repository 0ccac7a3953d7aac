"""The static site of a run: one index, one page for each unit. It needs no server and no build step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from entoptic.base.files import check_inside, check_own, user_path, write_atomically
from entoptic.errors import UserError
from entoptic.gallery.cards import make_cards
from entoptic.gallery.explain import Reading
from entoptic.gallery.formats import exact_text
from entoptic.gallery.panel import read_frontier
from entoptic.gallery.read_run import StoredRun, read_run
from entoptic.gallery.unit_pages import UnitPage, group_by_unit, method_order, variants
from entoptic.gallery.unit_photos import read_unit_photos

UNITS_PER_PAGE = 60
ASSETS = ("style.css", "common.js", "index.js", "unit.js", "icon.svg")
GENERATOR = "entoptic gallery"
MARK = ".entoptic-gallery"
"""A file that tells a folder that the gallery has written."""
_GENERATED = f'content="{GENERATOR}"'.encode()
MAX_LEFT_OUT = 500
"""Most files that the index lists as left out."""


def build(run_folder: Path, out: Path | None = None) -> Path:
    """Writes the gallery of a run.

    Files whose content has not changed are left alone. Pages of units that are gone are removed. Pictures that cannot be
    shown are listed on the index with the reason.

    Args:
        run_folder: with `pictures/<slug>/*.png`, each beside its `.json` sidecar, and `run.json`.
        out: where the site goes, `RUN/gallery` by default. Pictures are linked by relative path and never copied.

    Returns:
        The path of its `index.html`.

    Raises:
        UserError: there is no such folder, no picture to show, or nothing can be written.
    """
    run_folder = user_path(run_folder)
    given = out is not None
    out = user_path(out) if out is not None else run_folder / "gallery"
    run = read_run(run_folder)
    try:
        if not given:
            check_inside(out, run_folder)
        check_own(out, marks=set() if _is_foreign(out) else {MARK, "index.html"}, what="gallery")
    except UserError as error:
        raise UserError(f'cannot write the gallery to "{out}": {error}') from None
    try:
        root = quote(Path(os.path.relpath(run_folder.resolve(), out.resolve())).as_posix())
    except ValueError:  # two drives of a Windows machine have no relative path between them
        raise UserError(f'the gallery "{out}" must lie on the same drive as the run "{run_folder}"') from None
    try:
        return _write_site(run, group_by_unit(run.pictures), run_folder, root, out)
    except OSError as error:
        raise UserError(f'cannot write the gallery to "{out}": {error.strerror or error}') from error


def _write_site(run: StoredRun, pages: Sequence[UnitPage], run_folder: Path, root: str, out: Path) -> Path:
    """Writes all files of the site. root: relative path from the site to the run, quoted."""
    _write(out / MARK, "Written by `entoptic gallery`, which may write this folder again.\n")
    environment = _environment()
    for asset in ASSETS:
        text = resources.files("entoptic.gallery").joinpath("templates", asset).read_text(encoding="utf-8")
        _write(out / asset, text)
    template = environment.get_template("unit.html")
    for before, page, after in zip([None, *pages[:-1]], pages, [*pages[1:], None], strict=True):
        variables = _unit_variables(page, run_folder, root)
        _write(out / f"{page.name}.html", template.render(run=run, before=before, after=after, **variables))
    data = json.dumps(_index_data(pages, f"{root}/pictures"), separators=(",", ":"), allow_nan=False)
    _write(out / "data.js", f"window.ENTOPTIC = {data};\n")
    index = environment.get_template("index.html").render(
        run=run,
        models=sorted({page.first.model for page in pages}),
        pages=pages,
        pictures=sum(len(page.pictures) for page in pages),
        methods=sorted({one.method for page in pages for one in page.pictures}, key=method_order),
        left_out=run.left_out[:MAX_LEFT_OUT],
        left_out_count=len(run.left_out),
    )
    # The index comes last: it never names a page that is not there yet.
    path = out / "index.html"
    _write(path, index)
    _remove_stale_pages(out, {f"{page.name}.html" for page in pages})
    return path


def _is_foreign(out: Path) -> bool:
    """Whether a folder's index.html is of something else: another site must not be overwritten."""
    index = out / "index.html"
    if (out / MARK).exists() or not index.is_file():
        return False
    with open(index, "rb") as stream:
        return _GENERATED not in stream.read(1024)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("entoptic.gallery", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["exact_text"] = exact_text
    return environment


def _write(path: Path, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    check_inside(path, path.parent)
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    write_atomically(path, content)


def _remove_stale_pages(out: Path, current: set[str]) -> None:
    """Removes pages of units that are gone, and no file that a gallery has not written."""
    for path in out.glob("unit-*.html"):
        if path.name in current or path.is_symlink() or not path.is_file():
            continue
        with open(path, "rb") as stream:
            is_ours = _GENERATED in stream.read(1024)
        if is_ours:
            path.unlink()


def _unit_variables(page: UnitPage, run_folder: Path, root: str) -> dict[str, Any]:
    """The variables of the template `unit.html`, beside the run and the pages before and after."""
    rows: dict[str, Reading] = {}
    for picture in page.pictures:
        for reading in picture.readings:
            rows.setdefault(reading.name, reading)
    return {
        "page": page,
        "first": page.first,
        "cards": make_cards(page.pictures, run_folder, root),
        "rows": list(rows.values()),
        "photos": read_unit_photos(run_folder, page.first.folder, page.first.weights, root),
        "frontier": read_frontier(run_folder, page.first.folder, page.first.weights),
    }


def _index_data(pages: Sequence[UnitPage], base: str) -> dict[str, Any]:
    """What `index.js` draws from. Pictures are lists without keys, because a run may hold ten thousand."""
    titles: dict[str, str] = {}
    for page in pages:
        for picture in page.pictures:
            titles.setdefault(picture.method, picture.method_title)
    methods = sorted(titles, key=method_order)
    index_of = {method: index for index, method in enumerate(methods)}
    units = []
    for page in pages:
        first = page.first
        variant_by_anchor = variants(page.pictures)
        pictures = []
        for one in page.pictures:
            head = one.headline
            chip = [head.chip, head.chip_note, head.tone, head.sentence] if head else []
            start = [index_of[one.method], one.sample, one.anchor, quote(one.file), one.width, one.height]
            pictures.append([*start, variant_by_anchor.get(one.anchor, ""), *chip])
        units.append(
            {
                "id": page.name,
                "href": page.href,
                "unit": first.unit,
                "label": first.label,
                "model": first.model,
                "layer": str(first.sidecar.get("layer") or ""),
                "folder": quote(first.folder),
                "pictures": pictures,
            }
        )
    return {
        "base": base,
        "perPage": UNITS_PER_PAGE,
        "manyModels": len({page.first.model for page in pages}) > 1,
        "methods": [[method, titles[method]] for method in methods],
        "units": units,
    }
