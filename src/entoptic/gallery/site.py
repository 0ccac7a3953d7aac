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
from entoptic.base.unread import names_unread
from entoptic.errors import UserError
from entoptic.gallery.cards import make_cards
from entoptic.gallery.explain import Reading
from entoptic.gallery.formats import exact_text
from entoptic.gallery.index_data import index_data
from entoptic.gallery.kinds import heading, kind_of, page_lede
from entoptic.gallery.local_paths import shown
from entoptic.gallery.neighbours import similar_units
from entoptic.gallery.panel import read_frontier
from entoptic.gallery.read_run import StoredRun, read_run
from entoptic.gallery.unit_pages import UnitPage, group_by_unit, method_order
from entoptic.gallery.unit_photos import read_unit_photos
from entoptic.names import read_names, suggestion_for

ASSETS = (
    "style.css", "index.css", "unit.css", "print.css", "common.js", "paged_list.js", "index.js", "index_rows.js",
    "unit.js", "large.js", "icon.svg",
)  # fmt: skip
UNITS_WITHOUT_SCRIPT = 24
"""Most units that the index shows where scripts are off; the pages of all units show the others."""
UNITS_ON_A_LIST = 1000
"""Most units on one of the pages of all units."""
GENERATOR = "entoptic gallery"
MARK = ".entoptic-gallery"
"""A file that tells a folder that the gallery has written."""
_GENERATED = f'content="{GENERATOR}"'.encode()
MAX_LEFT_OUT = 500
"""Most files that the index lists as left out."""


@names_unread
def build(run_folder: Path, out: Path | None = None, *, names: Path | None = None) -> Path:
    """Writes the gallery of a run.

    Files whose content has not changed are left alone. Pages of units that are gone are removed. Pictures that cannot be
    shown are listed on the index with the reason.

    Args:
        run_folder: with `pictures/<slug>/*.png`, each beside its `.json` sidecar, and `run.json`.
        out: where the site goes, `RUN/gallery` by default. Pictures are linked by relative path and never copied.
        names: a file of suggested names (see `entoptic.name`), or a folder with one; None looks in the run's folder.

    Returns:
        The path of its `index.html`.

    Raises:
        UserError: there is no such folder, no picture to show, nothing can be written, or the names cannot be read.
    """
    run_folder = user_path(run_folder)
    if names is not None:
        names = read_names(names).path
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
        return _write_site(run, group_by_unit(run.pictures), run_folder, root, out, names or run_folder)
    except OSError as error:
        raise UserError(f'cannot write the gallery to "{out}": {error.strerror or error}') from error


def _write_site(run: StoredRun, pages: Sequence[UnitPage], run_folder: Path, root: str, out: Path, names: Path) -> Path:
    """Writes all files of the site. root: relative path from the site to the run, quoted; names: file or folder of names."""
    write_page(out / MARK, "Written by `entoptic gallery`, which may write this folder again.\n")
    environment = page_environment()
    for asset in ASSETS:
        text = resources.files("entoptic.gallery").joinpath("templates", asset).read_text(encoding="utf-8")
        write_page(out / asset, text)
    models = sorted({page.first.model for page in pages})
    has_frontier = (run_folder / "frontier").is_dir()
    head = heading(kind_of(pages, has_frontier=has_frontier), run.title, models)
    photos = {page.name: read_unit_photos(run_folder, page.first.folder, page.first.weights, root) for page in pages}
    suggested = {page.name: suggestion_for(names, page.first.unit, page.first.weights) for page in pages}
    similar = similar_units(pages, photos)
    template = environment.get_template("unit.html")
    for before, page, after in zip([None, *pages[:-1]], pages, [*pages[1:], None], strict=True):
        variables = _unit_variables(page, run_folder, root)
        text = template.render(
            run=run,
            head=head,
            before=before,
            after=after,
            root=root,
            photos=photos[page.name],
            similar=similar.get(page.name, ()),
            suggestion=suggested[page.name],
            **variables,
        )
        write_page(out / f"{page.name}.html", text)
    data = json.dumps(
        index_data(pages, f"{root}/pictures", photos, head, suggested),
        ensure_ascii=False, separators=(",", ":"), allow_nan=False,
    )  # fmt: skip
    write_page(out / "data.js", f"window.ENTOPTIC = {data};\n")
    about = {"run": run, "head": head, "pages": pages, "root": root}
    lists = _write_lists(out, environment, about, pages)
    index = environment.get_template("index.html").render(
        **about,
        models=models,
        most=UNITS_WITHOUT_SCRIPT,
        most_listed=UNITS_ON_A_LIST,
        pictures=sum(len(page.pictures) for page in pages),
        methods=sorted({one.method for page in pages for one in page.pictures}, key=method_order),
        small=sum(one.enlargement > 1 for page in pages for one in page.pictures),
        left_out=run.left_out[:MAX_LEFT_OUT],
        left_out_count=len(run.left_out),
    )
    # The index comes last: it never names a page that is not there yet.
    path = out / "index.html"
    write_page(path, index)
    _remove_stale_pages(out, {f"{page.name}.html" for page in pages} | set(lists))
    return path


def _write_lists(out: Path, environment: Environment, about: dict[str, Any], pages: Sequence[UnitPage]) -> list[str]:
    """Writes the pages of all units, for readers without scripts; returns their names."""
    count = max(1, -(-len(pages) // UNITS_ON_A_LIST))
    names = ["units.html", *(f"units-{number}.html" for number in range(2, count + 1))]
    template = environment.get_template("units.html")
    for number, name in enumerate(names):
        here = pages[number * UNITS_ON_A_LIST : (number + 1) * UNITS_ON_A_LIST]
        write_page(out / name, template.render(**about, here=here, names=names, number=number + 1))
    return names


def _is_foreign(out: Path) -> bool:
    """Whether a folder's index.html is of something else: another site must not be overwritten."""
    index = out / "index.html"
    if (out / MARK).exists() or not index.is_file():
        return False
    with open(index, "rb") as stream:
        return _GENERATED not in stream.read(1024)


def page_environment() -> Environment:
    """Returns the templates of the pages: everything is escaped, and a name that is not there is an error."""
    environment = Environment(
        loader=PackageLoader("entoptic.gallery", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["exact_text"] = exact_text
    return environment


def write_page(path: Path, text: str) -> None:
    """Writes a file of the gallery, unless it holds the text already."""
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
    for path in [*out.glob("unit-*.html"), *out.glob("units-*.html")]:
        if path.name in current or path.is_symlink() or not path.is_file():
            continue
        with open(path, "rb") as stream:
            is_ours = _GENERATED in stream.read(1024)
        if is_ours:
            path.unlink()


def _unit_variables(page: UnitPage, run_folder: Path, root: str) -> dict[str, Any]:
    """The variables of the template `unit.html`, beside the run and the pages before and after."""
    first = page.first
    rows: dict[str, Reading] = {}
    for picture in page.pictures:
        for reading in picture.readings:
            if rows.get(reading.name) is None or rows[reading.name].value is None:
                rows[reading.name] = reading
    frontier = read_frontier(run_folder, first.folder, first.weights)
    kind = kind_of([page], has_frontier=frontier is not None)
    layer, readout = (str(first.sidecar.get(name) or "") for name in ("layer", "readout"))
    return {
        "page": page,
        "first": first,
        "lede": page_lede(kind, first.model, layer, readout),
        "cards": make_cards(page.pictures, run_folder, root),
        "rows": [row for row in rows.values() if row.value is not None],
        "missing": [row for row in rows.values() if row.value is None],
        "example": _example(page),
        "frontier": frontier,
    }


def _example(page: UnitPage) -> Reading | None:
    """The measurement with the fewest counted, whose interval is explained on the page; None where all are exact."""
    readings = [one for picture in page.pictures for one in picture.readings if one.interval_words and one.n.isdigit()]
    return min(readings, key=lambda one: int(one.n), default=None)
