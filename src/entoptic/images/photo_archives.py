"""Photos in archives (zip, tar, tar.gz, tar.bz2, tar.xz), read member by member; nothing is unpacked to the disk."""

from __future__ import annotations

import bisect
import bz2
import gzip
import lzma
import re
import stat
import tarfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from entoptic.errors import UserError
from entoptic.images.decode import check_bytes, kind_of, short_reason
from entoptic.images.formats import ending, extensions, first_few, listed_extensions
from entoptic.images.label_tables import LABELS, METADATA, LabelTable
from entoptic.images.photo_folders import others_left_out
from entoptic.images.photo_records import Photo, PhotoSource, Skipped, labels_of

_CACHED_BYTES = 128 * 2**20
_MOST_KEPT = _CACHED_BYTES // 8
_MOST_HEADER = 16 * 2**20  # of one member of a tar: names and the like
_MOST_UNPACKED = 2**30  # or, where that is more, so many times the size of the archive:
_MOST_TIMES = 100


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One entry of an archive.

    Attributes:
        name: as the archive has it, with "/" between its parts.
        size: in bytes, as the archive says.
        why: why it cannot be used; an empty string where it can.
        key: what the archive finds its bytes by.
    """

    name: str
    size: int
    why: str
    key: Any


class _Archive:
    """What zip and tar have in common; see `ImageStore`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        state = path.stat()
        self._stamp = state.st_size, state.st_mtime_ns
        self.rows: list[_Member] = []
        self.ends_early = ""

    def stamp(self, row: int) -> tuple[int, int] | None:
        return self._stamp

    def path(self, row: int) -> Path | None:
        return None

    def encoded(self, row: int) -> bytes:
        return self.read(self.rows[row])

    def read(self, member: _Member) -> bytes:
        """Reads one member; what its packing does to it is told as damage.

        Raises:
            OSError: the archive cannot be read.
            ValueError: the member is damaged or encrypted.
        """
        check_bytes(member.size)
        try:
            data = self._read(member)
        except FileNotFoundError:
            raise
        except Exception as error:  # each packing raises errors of its own
            raise ValueError(f"damaged in the archive: {short_reason(error)}") from None
        if len(data) < member.size:
            raise ValueError("cut off at the end of the archive")
        return data

    def members(self) -> Iterator[_Member]:
        """Lists the files in the archive, and what else is no folder."""
        raise NotImplementedError

    def _read(self, member: _Member) -> bytes:
        raise NotImplementedError


class _Zip(_Archive):
    """A zip archive; threads unpack members at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = zipfile.ZipFile(path)

    def members(self) -> Iterator[_Member]:
        for info in self._file.infolist():
            if info.is_dir():
                continue
            kind = kind_of(info.external_attr >> 16) if stat.S_IFMT(info.external_attr >> 16) else "file"
            why = "" if kind == "file" else f"is {kind}, not a file"
            yield _Member(name=info.filename.replace("\\", "/"), size=info.file_size, why=why, key=info)

    def _read(self, member: _Member) -> bytes:
        return self._file.read(member.key)


class _Tar(_Archive):
    """A tar archive; a packed one is unpacked from its start as far as need be, and keeps what it passes, up to 128 MiB."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._open = _packing(path)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0
        self._stream: IO[bytes] | None = None
        self._order: list[_Member] = []

    def members(self) -> Iterator[_Member]:
        limit = None if self._open is _plain else max(_MOST_UNPACKED, _MOST_TIMES * self._stamp[0])
        with self._open(self._path) as stream:
            found = 0
            try:
                archive = tarfile.TarFile(fileobj=cast("IO[bytes]", _Listed(stream, limit)))
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # only names are kept of them
                    found += 1
                    if not info.isdir():
                        yield _tar_member(info)
                stream.seek(archive.offset)
                mark = stream.read(tarfile.BLOCKSIZE)  # zeros; tarfile also stops where a header is damaged or missing
                if any(mark) or not mark:
                    self.ends_early = "a damaged header" if mark else "its mark of the end is missing"
            except Exception as error:
                if not found:
                    raise
                self.ends_early = short_reason(error)

    def _read(self, member: _Member) -> bytes:
        if self._open is _plain:
            with open(self._path, "rb") as file:
                file.seek(member.key)
                return file.read(member.size)
        with self._lock:
            if member.key in self._cache:
                return self._cache[member.key]
            try:
                return self._unpack(member)
            except Exception:
                self._rewind()
                raise

    def _rewind(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _unpack(self, wanted: _Member) -> bytes:
        """Reads on to a member, from the start where it lies behind; members on the way are kept."""
        if not self._order:
            self._order = sorted(self.rows, key=_place)
        if self._stream is not None and self._stream.tell() > wanted.key:
            self._rewind()
        if self._stream is None:
            self._stream = self._open(self._path)
        first = bisect.bisect_left(self._order, self._stream.tell(), key=_place)
        last = bisect.bisect_left(self._order, wanted.key, key=_place)
        for member in self._order[first:last]:
            if member.size <= _MOST_KEPT and member.key not in self._cache:
                self._stream.seek(member.key)
                self._keep(member, self._stream.read(member.size))
        self._stream.seek(wanted.key)
        data = self._stream.read(wanted.size)
        self._keep(wanted, data)
        return data

    def _keep(self, member: _Member, data: bytes) -> None:
        if member.size <= _MOST_KEPT and len(data) == member.size:
            self._cache[member.key] = data
            self._cached += len(data)
            while self._cached > _CACHED_BYTES:
                self._cached -= len(self._cache.popitem(last=False)[1])


def _place(member: _Member) -> int:
    return member.key


def _plain(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _packing(path: Path) -> Callable[[Path], IO[bytes]]:
    """Returns what opens a tar archive, told by its first bytes."""
    with open(path, "rb") as file:
        start = file.read(6)
    packings: tuple[tuple[bytes, Any], ...] = (
        (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open),
    )  # fmt: skip
    return next((opener for magic, opener in packings if start.startswith(magic)), _plain)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    why = ""
    if info.issym() or info.islnk():
        why = "is a link, not a file"
    elif info.isfifo():
        why = "is a named pipe, not a file"
    elif info.ischr() or info.isblk():
        why = "is a device, not a file"
    elif info.issparse() or not info.isreg():
        why = "is packed in a way that is not read"
    return _Member(name=info.name, size=info.size, why=why, key=info.offset_data)


class _Listed:
    """What `tarfile` reads to list an archive: large headers, and data that unpacks to far more than the archive, are refused."""

    def __init__(self, stream: IO[bytes], limit: int | None) -> None:
        self._stream = stream
        self._limit = limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if self._limit is not None and position > self._limit:
            raise tarfile.ReadError(f"unpacks to more than {self._limit / 2**20:.0f} MiB (a decompression bomb?)")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


# --- opening --------------------------------------------------------------------------------------------------------


def open_archive(path: Path) -> PhotoSource:
    """Opens the photos of an archive, in the order of their names; a photo's label is the folder that it is in.

    Raises:
        UserError: it cannot be read, or holds no photos.
    """
    try:
        archive = _Zip(path) if _is_zip(path) else _Tar(path)
        sound, left_out = _sorted_out(archive.members())
    except Exception as error:  # each packing raises errors of its own
        raise UserError(f'"{path}" is not a readable archive: {short_reason(error)}') from None
    if archive.ends_early:
        left_out.append(Skipped(path.name, f"the archive cannot be read to its end: {archive.ends_early}"))
    known = extensions()
    members = {name: member for name, member in sound.items() if ending(name) in known}
    photos = {name: Photo(name, labels_of(PurePosixPath(name).parent.name)) for name in members}
    rest = [name for name in sound if name not in members]
    table = _table_among(rest)
    if table is not None:
        rest.remove(table)
        left_out += _add_table(archive, path, table, sound, photos)
    if not photos:
        found = f"; it holds {first_few(rest)}" if rest else f"; left out: {left_out[0].name}" if left_out else ""
        raise UserError(f'no photos in "{path}" (looked for {listed_extensions()}){found}')
    names = sorted(photos)
    archive.rows = [sound[name] for name in names]
    source = PhotoSource(archive, [photos[name] for name in names])
    for skipped in [*left_out, *others_left_out(sorted(rest))]:
        source.skip(skipped)
    return source


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK" or path.suffix.lower() == ".zip"


def _sorted_out(members: Iterable[_Member]) -> tuple[dict[str, _Member], list[Skipped]]:
    """Sort the members of an archive into those that can be read, by path, and those left out.

    A path that occurs again replaces the one before, as unpacking would do.
    """
    known = extensions()
    sound: dict[str, _Member] = {}
    left_out: list[Skipped] = []
    for member in members:
        parts = re.split(r"[/\\]", member.name)
        why = member.why
        if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:[/\\]", member.name):
            why = "leads out of the archive"
        elif "__MACOSX" in parts or any(part.startswith(".") and part != "." for part in parts):
            continue  # hidden
        if not why:
            try:
                check_bytes(member.size)
            except ValueError as error:
                why = str(error)
        if why:
            left_out.append(Skipped(member.name, why, ending(member.name) in known))
        else:
            sound[PurePosixPath(member.name).as_posix()] = member
    return sound, left_out


def _table_among(names: Iterable[str]) -> str | None:
    """Finds the table of labels that lies highest."""
    tables = [PurePosixPath(name) for name in names if PurePosixPath(name).name in (LABELS, *METADATA)]
    order = (LABELS, *METADATA)
    highest = min(tables, key=lambda table: (len(table.parts), order.index(table.name)), default=None)
    return None if highest is None else highest.as_posix()


def _add_table(
    archive: _Archive, path: Path, name: str, members: Mapping[str, _Member], photos: dict[str, Photo]
) -> list[Skipped]:
    """Adds what a table in an archive says to the photos; labels.csv takes the place of the folders' labels.

    Raises:
        UserError: labels.csv is no use.
    """
    folder, table_name = PurePosixPath(name).parent, PurePosixPath(name).name

    def below(photo: str) -> str:
        return photo if folder == PurePosixPath(".") else photo.removeprefix(f"{folder}/")

    is_labels = table_name == LABELS
    described = {below(one): Photo(below(one), () if is_labels else photo.labels) for one, photo in photos.items()}
    try:
        table = LabelTable.read(table_name, f"{path}/{name}", lambda: archive.read(members[name]))
        missing = table.describe(
            described, lambda file: "" if (folder / file).as_posix() in members else "is not in the archive"
        )
        if is_labels:
            table.check_some_exist(missing, list(described))
    except UserError as error:
        if is_labels:
            raise
        return [Skipped(name, str(error), False)]
    whole = {below(one): one for one in members}
    for key, photo in described.items():
        photos[whole[key]] = replace(photo, name=whole[key])
    return missing
