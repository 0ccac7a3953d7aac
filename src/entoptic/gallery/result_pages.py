"""What the pages of results share: their folder, their names, their links, and the page that lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from entoptic.base.files import check_inside, check_own
from entoptic.errors import UserError
from entoptic.gallery.site import MARK, page_environment, write_page
from entoptic.names import read_names
from entoptic.runs.results import Result
from entoptic.runs.store import Run
from entoptic.units.unit import slug


class ResultPage(Protocol):
    """A result, ready for its page."""

    @property
    def file(self) -> str:
        """Name of the page."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Of the result."""


@contextmanager
def writing_pages(folder: Path, assets: Sequence[str] = ()) -> Iterator[Path]:
    """Opens `FOLDER/gallery` for pages, with the files that they share.

    Args:
        folder: of a run or an index.
        assets: names of templates that go there as they are.

    Yields:
        The folder of the pages.

    Raises:
        UserError: the folder is not the gallery's own, or cannot be written.
    """
    out = folder / "gallery"
    try:
        check_inside(out, folder)
        check_own(out, marks={MARK, "index.html"}, what="gallery")
        write_page(out / MARK, "Written by `entoptic gallery`, which may write this folder again.\n")
        for asset in assets:
            write_page(out / asset, resources.files("entoptic.gallery").joinpath("templates", asset).read_text("utf-8"))
        yield out
    except OSError as error:
        raise UserError(f'cannot write the pages to "{out}": {error.strerror or error}') from error


def write_result_pages(
    run: Run, pages: Sequence[ResultPage], *, template: str, listing: str, assets: Sequence[str],
    beside: Mapping[str, str] | None = None, problems: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Writes a page for each result of one kind into `RUN/gallery`, and one that lists them.

    Args:
        run: that holds the results.
        pages: to write.
        template: of a page.
        listing: name of the page that lists them, and of its template.
        assets: names of templates that go there as they are.
        beside: texts of further files by name.
        problems: why further results of the run cannot be shown.

    Returns:
        The pages.

    Raises:
        UserError: the pages cannot be written.
    """
    environment = page_environment()
    with writing_pages(run.path, assets) as out:
        has_index = (out / "index.html").is_file()
        for name, text in (beside or {}).items():
            write_page(out / name, text)
        for page in pages:
            text = environment.get_template(template).render(page=page, record=page.record, has_index=has_index)
            write_page(out / page.file, text)
        title = run.about.get("title", run.path.name)
        text = environment.get_template(listing).render(pages=pages, title=title, problems=problems)
        write_page(out / listing, text)
    return [out / page.file for page in pages]


def place_of_names(run: Run, names: Path | None) -> Path:
    """Returns where suggested names of units are looked up.

    Args:
        run: whose pages show them.
        names: a file of suggested names, or a folder with one; None for the run's folder, where there may be none.

    Raises:
        UserError: the file that was given cannot be read.
    """
    return run.path if names is None else read_names(names).path or names


def page_name(kind: str, result: Result) -> str:
    """Returns the file name of the page of a result.

    Args:
        kind: of the result.
        result: with its folder.
    """
    return f"{kind}-{slug(result.name)}-{result.path.parent.name[-8:]}.html"


def page_of(result: Result) -> Path:
    """Returns where the page of a result is, in the gallery of its run."""
    return result.path.parents[3] / "gallery" / page_name(result.kind, result)


def result_links(run: Run, result: Result) -> dict[str, str]:
    """Returns links from the pages of a run to the files of a result, by name.

    Args:
        run: whose pages link.
        result: with the files.
    """
    root = quote(Path(os.path.relpath(result.path.parent, run.path / "gallery")).as_posix())
    return {name: f"{root}/{quote(str(entry['file']))}" for name, entry in result.record["files"].items()}
