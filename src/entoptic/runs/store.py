"""The run folder: one PNG and one JSON sidecar per picture, written atomically.

    RUN/run.json            what this run is
    RUN/metadata.jsonl      one row per picture, so that the folder loads as a Hugging Face imagefolder
    RUN/pictures/UNIT/METHOD-SAMPLE-KEY.png and .json
    RUN/maps/UNIT/METHOD-SAMPLE-KEY.MAP.png    maps over a picture: its transparency, where it drives the unit
    RUN/dictionaries/NAME.safetensors                      concepts that `steer` discovered for this run
    RUN/frontier/UNIT.json, .svg and .png, table.md        mean score against nats, and the methods' places
    RUN/results/KIND/NAME-KEY/                             results that are no pictures, see `entoptic.runs.results`
    RUN/files.json          hashes of what lies beside the pictures, see `entoptic.runs.listing`
    RUN/failures.json       why some pictures that were asked for are not there
    RUN/progress.json       how far the job is, or was, that wrote last, see `entoptic.runs.progress_file`
    RUN/context/UNIT/       context.json and small copies of the real photos that drive the unit most and least

`context` is the only folder that holds real photos beside what `retrieval` shows and `steer`'s maps named `photo`: leave
them out where those may not be published. A picture is done when its sidecar is there: it is written last, after its
PNG. Its key is a hash of everything that the pixels depend on, so the same request finds it again and a changed
parameter does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from entoptic.base.files import (
    LOCK,
    UNFINISHED,
    check_inside,
    delete_unfinished,
    file_exists,
    folder_exists,
    is_inside,
    json_bytes,
    listed,
    lock_folder,
    path_exists,
    sha256_of,
    user_path,
    write_atomically,
)
from entoptic.base.records import read_json
from entoptic.errors import Unreadable, UserError, counted, printable
from entoptic.methods.contract import Failure
from entoptic.runs.failures import read_failures
from entoptic.runs.film import KINDS
from entoptic.runs.hint_of_runs import hint_of_runs
from entoptic.runs.listing import MARK, SEAL, seal, set_aside, write_listing
from entoptic.runs.pictures import Picture, fault_of
from entoptic.runs.selection import Condition, Pictures

if TYPE_CHECKING:
    import pyarrow as pa

    from entoptic.plots.figure import Figure
    from entoptic.units.unit import Unit

FORMAT = 1
NOTED = ("unit", "method", "key", "command")
"""Entries of a sidecar that its PNG holds too, as texts."""


class Unwritable(UserError):
    """The run folder cannot be written: nothing more of the run can be stored."""


class Run:
    """A run folder: iterate over it for its pictures.

    Args:
        path: an existing folder with `run.json`, or where to make one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.problems: list[Failure] = []
        self.changed = False
        """Whether this process has written a file of it."""

    @property
    def failures(self) -> list[str]:
        """Why there is no picture of some units, in words; `problems` has it for programs."""
        return list(dict.fromkeys(failure.text for failure in self.problems))

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Args:
            path: the run folder.

        Raises:
            UserError: there is no run at `path`.
        """
        run = cls(path)
        if not file_exists(run.path / "run.json"):
            raise UserError(f"{path} is no run folder (it has no run.json){hint_of_runs(path)}")
        run.problems = read_failures(run)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {counted(len(self), 'picture')})"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Picture]:
        for picture, _ in self.read():
            if picture is not None:
                yield picture

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice | str) -> Pictures: ...
    def __getitem__(self, index: int | slice | str) -> Picture | Pictures:
        """Returns a picture by its place, or the pictures of a unit: `run["logits:207"]`, `run['logits:"church"']`.

        Args:
            index: a place, or a string of the unit grammar, also with a range (`run["blocks.6:0-63"]`).

        Raises:
            UserError: there is no picture of that unit, with the nearest.
        """
        return self.pictures[index]

    @property
    def pictures(self) -> Pictures:
        """All pictures of the run, read once."""
        return Pictures(self, self)

    def filter(
        self,
        *,
        unit: str | Unit | Iterable[str | Unit] | None = None,
        method: str | Iterable[str] | None = None,
        evidence: Condition | Iterable[Condition] = (),
    ) -> Pictures:
        """Returns the pictures of some units and methods that keep some conditions; see `Pictures.filter`."""
        return self.pictures.filter(unit=unit, method=method, evidence=evidence)

    def table(self) -> pa.Table:
        """Returns every measurement as a row of a table; `.to_pandas()` makes it a data frame where pandas is installed.

        The columns are `kind`, `unit`, `label`, `layer`, `model`, `method`, `seed`, `sample`, `evidence`, `scale` (unit of
        the value), `direction` ("higher" or "lower" is better, or "none"), `value`, `n`, `low` and `high` (of the 95 %
        interval), `independent`, `note`, `file` and `key`. They are the same for every run.

        `independent` is true where networks measured that the method never used, and false where the network under study or
        the method itself did. `kind` is "picture", "place" (of a method beside a frontier), "set" (all inversions together),
        "result", or "failure" for what was asked for and is not there.
        """
        from entoptic.runs.table import table_of_run

        return table_of_run(self)

    def figure(
        self,
        *,
        columns: int | None = None,
        captions: bool | str | Sequence[str] = False,
        width: float = 5.5,
        title: str = "",
        with_photos: bool = False,
    ) -> Figure:
        """Returns a figure of the pictures for a paper: `run.figure(captions=True).save("grid.pdf")`.

        Args:
            columns: pictures beside each other. None makes a grid of units by methods where there are several methods,
                else rows of at most five.
            captions: names of measurements to print below each picture with their intervals, or True for the most telling
                one that all pictures share.
            width: of the figure, in inches; 5.5 is the text of a page in one column.
            title: above the pictures.
            with_photos: put the run's copy of the photo, where there is one, before the pictures that were made from it.

        Raises:
            UserError: there is no picture, there are too many, or a measurement is not known.
        """
        return self.pictures.figure(
            columns=columns, captions=captions, width=width, title=title, with_photos=with_photos
        )

    def _repr_html_(self) -> str:
        failed = "".join(f"<p>failed: {html.escape(f)}</p>" for f in self.failures)
        return f"{self.pictures._repr_html_()}{failed}"

    def read(self) -> Iterator[tuple[Picture | None, str]]:
        """Every sidecar: (picture, "") or (None, "NAME: what is wrong with it"). Nothing outside the run is read."""
        for sidecar in sorted(self.path.glob("pictures/*/*.json")):
            name, picture = str(sidecar.relative_to(self.path)), sidecar.with_suffix(".png")
            if not is_inside(sidecar, self.path):
                yield None, f"{name}: it is a link to what lies outside of the run"
                continue
            try:
                record = read_json(sidecar)
            except Unreadable as error:
                yield None, f"{name}: cannot be read ({error})"
                continue
            if wrong := fault_of(record):
                yield None, f"{name}: cannot be read ({wrong})"
            elif not file_exists(picture):
                yield None, f"{name}: its picture {picture.name} is missing"
            elif not is_inside(picture, self.path):
                yield None, f"{name}: its picture is a link to what lies outside of the run"
            else:
                yield Picture(picture, record), ""

    def sidecars(self) -> int:
        """Returns how many sidecars there are, readable or not. None is read: it is for progress over many."""
        return sum(1 for _ in self.path.glob("pictures/*/*.json"))

    def map_file(self, entry: Any) -> Path | None:
        """Returns where the map of a sidecar's entry is; None where there is no such file inside the run."""
        name = entry.get("file") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or "\0" in name:
            return None
        file = self.path / name
        return file if is_inside(file, self.path) and file_exists(file) else None

    # --- writing ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, about: dict[str, Any]) -> Iterator[None]:
        """Holds the run for this process; `metadata.jsonl` is brought up to date at the end, also after an error.

        Raises:
            UserError: the folder cannot be written, holds something else, or another process is writing the run.
        """
        if path_exists(self.path) and not folder_exists(self.path):
            raise UserError(f"{self.path} is a file; give --out a folder")
        if folder_exists(self.path) and not file_exists(self.path / "run.json"):
            others = [one.name for one in listed(self.path) if one.name != LOCK and one.suffix != UNFINISHED]
            if others:
                raise UserError(
                    f"{self.path} holds other files ({', '.join(sorted(others)[:3])}) and is no run; "
                    f"give --out an empty folder, for instance {self.path / 'run'}"
                )
        with lock_folder(self.path):
            check_inside(self.path / "metadata.jsonl", self.path)
            delete_unfinished(self.path, "**/")
            with set_aside(self):
                if not file_exists(self.path / "run.json"):
                    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    record = {"format": FORMAT, "created": created, MARK: True, **about}
                    self.put(self.path / "run.json", json_bytes(record))
                try:
                    yield
                finally:
                    self._write_metadata()

    def file(self, folder: str, stem: str) -> Path:
        """Where the PNG of a picture belongs."""
        return Path(self.path, "pictures", folder, f"{stem}.png")  # one call: a plan has many

    def finished(self, file: Path, key: str) -> dict[str, Any] | None:
        """The sidecar of a finished picture with this key and intact pixels, else None."""
        if not file_exists(file):
            return None
        sidecar = file.with_suffix(".json")
        if not (is_inside(file, self.path) and is_inside(sidecar, self.path)):
            return None
        try:
            record = read_json(sidecar)
            if fault_of(record) or record.get("key") != key or not record.get("complete"):
                return None
            return record if record["image"].get("sha256") == sha256_of(file) else None
        except (OSError, Unreadable):
            return None

    def put(self, file: Path, content: bytes | Callable[[Path], object]) -> None:
        """Writes one file of the run, atomically and nowhere else.

        Raises:
            Unwritable: the folder cannot be written.
            UserError: a symbolic link leads elsewhere.
        """
        check_inside(file, self.path)
        with writable(self.path):
            write_atomically(file, content)
        self.changed = True

    def write(
        self, file: Path, pixels: np.ndarray, record: dict[str, Any], *, maps: Mapping[str, np.ndarray] | None = None
    ) -> Picture:
        """Stores one picture: its maps and its PNG first, the sidecar last, each atomically.

        Args:
            maps: by name, h×w×2 (grey and alpha) or h×w×4 (RGB and alpha) uint8, to be laid over the picture or to
                take its place; h×w may be smaller.
        """
        record["maps"] = {name: self.write_map(file, name, pixels) for name, pixels in (maps or {}).items()}
        info = PngInfo()
        for name in NOTED:
            info.add_text(f"entoptic:{name}", printable(str(record.get(name, ""))))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
        data = buffer.getvalue()
        record["image"] = {
            "file": file.name, "sha256": hashlib.sha256(data).hexdigest(),
            "width": pixels.shape[1], "height": pixels.shape[0],
        }  # fmt: skip
        record[SEAL] = seal(record)
        sidecar = json_bytes(record)  # before the PNG: a record that cannot be written leaves no picture
        self.put(file, data)
        self.put(file.with_suffix(".json"), sidecar)
        return Picture(file, record)

    def write_map(self, file: Path, name: str, pixels: np.ndarray) -> dict[str, str]:
        """Stores one map of a picture, h×w×2 or h×w×4 uint8; returns what its sidecar says of it under `maps`."""
        buffer = io.BytesIO()
        Image.fromarray(pixels, "LA" if pixels.shape[2] == 2 else "RGBA").save(buffer, "PNG")
        path = self.path / "maps" / file.parent.name / f"{file.stem}.{name}.png"
        self.put(path, buffer.getvalue())
        return {
            "file": path.relative_to(self.path).as_posix(),
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        }

    def film(self, file: Path, kind: str) -> Path:
        """Where the film of a picture is, if there is one: `RUN/films`.

        Args:
            file: of the picture.
            kind: of the film, a key of `entoptic.runs.film.KINDS`.
        """
        return self.path / "films" / file.parent.name / f"{file.stem}{KINDS[kind]}"

    def context(self, folder: str) -> dict[str, Any] | None:
        """What was stored about the real photos of a unit, or None."""
        file = self.path / "context" / folder / "context.json"
        try:
            return read_json(file) if is_inside(file, self.path) else None
        except Unreadable:
            return None

    def write_context(self, folder: str, record: dict[str, Any], files: Mapping[str, bytes]) -> None:
        """Stores what surrounds a unit's pictures in place of what was there, `context.json` last."""
        place = self.path / "context" / folder
        before = set(_texts(self.context(folder)))  # only what the record before named is its own to delete
        for name, data in files.items():
            self.put(place / name, data)
        self.put(place / "context.json", json_bytes(record))
        with writable(self.path):
            for left in place.iterdir():
                if left.name in before and left.name not in files and file_exists(left):
                    left.unlink()

    def write_frontier(self, files: Mapping[str, bytes]) -> None:
        """Stores the files of `RUN/frontier`, in their order; others there stay."""
        for name, data in files.items():
            self.put(self.path / "frontier" / name, data)

    def write_record(self, file: Path, record: dict[str, Any]) -> Picture:
        """Stores the sidecar of a picture whose PNG is there. One of a version that kept no hash of it stays without."""
        if SEAL in record:
            record[SEAL] = seal(record)
        self.put(file.with_suffix(".json"), json_bytes(record))
        return Picture(file, record)

    def row(self, picture: Picture) -> dict[str, Any]:
        """Returns what `metadata.jsonl` holds of a picture. Its hash makes the file a list of what the run is made of."""
        record = picture.record
        row = {
            "file_name": picture.path.relative_to(self.path).as_posix(), "unit": record["unit"],
            "label": record.get("label"), "model": record["model"]["name"], "method": record["method"],
            "seed": record.get("seed"), "sample": record["sample"], "key": record.get("key"),
            "sha256": record["image"].get("sha256"),
        }  # fmt: skip
        return row | {e["name"]: e.get("value") for e in record.get("evidence", [])}

    def _write_metadata(self) -> None:
        def write(part: Path) -> None:
            with part.open("wb") as file:
                for picture in self:
                    row = json.dumps(self.row(picture), ensure_ascii=False)
                    file.write(f"{row}\n".encode("utf-8", "backslashreplace"))

        with contextlib.suppress(Unwritable):
            self.put(self.path / "metadata.jsonl", write)
            write_listing(self)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Content of `run.json`.

        Raises:
            Unreadable: it is damaged.
        """
        return read_json(self.path / "run.json")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns the errors of a read-only or full disk into one sentence."""
    try:
        yield
    except PermissionError as error:
        raise Unwritable(f"{path} cannot be written ({error.strerror}: {error.filename}); give another --out") from None
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be written ({error.strerror}); pictures that are finished are safe, "
            "make room or give another --out and start again"
        ) from None
