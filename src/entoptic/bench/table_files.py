"""The files of a benchmark's table: how they are written, and whether they are still what was written.

FOLDER/bench.json   tells the folder of a benchmark, and of which recipe
FOLDER/files.json   written last: hashes of the others, and of the code that laid them out
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from entoptic.base.files import check_inside, is_inside, json_bytes, write_atomically, writing_to
from entoptic.base.records import read_json
from entoptic.bench import columns, draw, full, page, results, small, standard, tables, tuning
from entoptic.bench.results import Results
from entoptic.errors import Unreadable
from entoptic.runs.difference import Difference
from entoptic.runs.listing import content_hash

MARK = "bench.json"
"""A file that tells a folder of a benchmark, and of which recipe."""
LISTING = "files.json"
"""A file that holds hashes of the others, for `verify`."""
LISTED = "listing"
"""Entry of MARK that says that there is one."""
FILES = ("table.json", "table.csv", "table.md", "plot.svg", "index.html")
"""What a benchmark writes of its table."""
_CODE: tuple[ModuleType, ...] = (columns, draw, full, page, results, small, standard, tables, tuning)
"""What lays these files out, and the recipes with their words."""


@dataclass
class Found:
    """What was found of the files of a table.

    Attributes:
        folder: of the benchmark.
        recipe: its name in MARK, None where that cannot be read.
        wrong: which of them are not those that were written.
        notes: what cannot be told.
        same_code: whether they were laid out by the code that is here now.
    """

    folder: Path
    recipe: str | None = None
    wrong: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    same_code: bool = False


def write(table: Results, folder: Path) -> None:
    """Writes the files of a table. While it writes there is no list of them.

    Args:
        table: it.
        folder: where they go.
    """
    files = {"table.json": json_bytes(table.to_json()), **laid_out(table), "index.html": encoded(page.page(table))}
    with writing_to(folder, "finished pictures are kept"):
        check_inside(folder / LISTING, folder).unlink(missing_ok=True)
    for name, content in files.items():
        put(folder, name, content)
    hashes = {name: content_hash(folder / name) for name in files}
    put(folder, LISTING, json_bytes({"files": hashes, "code": code()}))
    put(folder, MARK, json_bytes({"benchmark": table.recipe["name"], LISTED: 1}))


def laid_out(table: Results) -> dict[str, bytes]:
    """Returns the files that follow from the table alone, by their names.

    Args:
        table: it.
    """
    made = {
        "table.csv": tables.csv_table(table),
        "table.md": tables.markdown(table),
        "plot.svg": draw.draw(table).svg(),
    }
    return {name: encoded(text) for name, text in made.items()}


def put(folder: Path, name: str, content: bytes) -> None:
    """Writes one file of a benchmark's folder.

    Args:
        folder: of the benchmark.
        name: of the file.
        content: its bytes.
    """
    check_inside(folder / name, folder)
    with writing_to(folder, "finished pictures are kept"):
        write_atomically(folder / name, content)


@functools.cache
def code() -> str:
    """Returns a hash of the code that lays the files out; "" where it cannot be read."""
    together = hashlib.sha256()
    for one in _CODE:
        try:
            together.update(Path(one.__file__ or "").read_bytes().replace(b"\r\n", b"\n"))
        except OSError:
            return ""
    return together.hexdigest()


def check_files(folder: Path) -> Found:
    """Compares the files of a table with the list of them.

    Args:
        folder: of the benchmark.
    """
    found = Found(folder=folder)
    try:
        mark = read_json(folder / MARK)
        is_listed, found.recipe = LISTED in mark, mark.get("benchmark")
    except (Unreadable, TypeError, AttributeError) as error:
        found.wrong.append(Difference(MARK, f"{MARK} is damaged ({error})"))
        return found
    if not (folder / LISTING).is_file():
        if is_listed:
            found.wrong.append(Difference(LISTING, f"{LISTING} is not there, and the benchmark wrote one"))
        else:
            found.notes.append(
                f"{LISTING} is not there: the benchmark was interrupted, or is of a version that kept no list; edits of "
                "index.html and of words in the other files are not found"
            )
        return found
    try:
        held = read_json(folder / LISTING)
        named: Mapping[str, str] = dict(held["files"])
        found.same_code = bool(code()) and held.get("code") == code()
    except (Unreadable, LookupError, AttributeError, TypeError, ValueError) as error:
        found.wrong.append(Difference(LISTING, f"{LISTING} is damaged ({error})"))
        return found
    found.wrong += _changed(folder, named)
    return found


def _changed(folder: Path, named: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys((*FILES, *named)):
        file = folder / name
        if name not in FILES:
            yield Difference(name, f"{LISTING} lists {name}, which is no file of a table")
        elif not is_inside(file, folder) or not file.is_file():
            yield Difference(name, f"{name} is not there")
        elif name not in named:
            yield Difference(name, f"{LISTING} does not list {name}")
        elif content_hash(file) != named[name]:
            yield Difference(name, f"{name} was changed after it was written (its sha256 differs)")


def compare_files(made: Mapping[str, bytes], found: Found) -> None:
    """Compares files with what follows from the table. What is known to be wrong is not said twice.

    Args:
        made: what they should be, by their names.
        found: takes what differs: as wrong where the same code laid them out, else as a note.
    """
    known = {one.file for one in found.wrong}
    for name, content in made.items():
        file = found.folder / name
        if name in known or not file.is_file() or file.read_bytes().replace(b"\r\n", b"\n") == content:
            continue
        if found.same_code:
            found.wrong.append(Difference(name, f"{name} is not what this version makes of the table"))
        else:
            found.notes.append(
                f"{name} is not what this version makes of the table: another version laid it out, or it was edited"
            )


def encoded(text: str) -> bytes:
    """Returns the text of a file as bytes. A folder's name that is no UTF-8 is escaped, so that no table is lost to it."""
    return text.encode("utf-8", "backslashreplace")
