"""Where runs are shared: `hf:USER/NAME` on the hub, or `folder:PATH`. What both can do is one small protocol."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from entoptic.errors import UserError, nearest

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_KINDS = ("hf", "folder")
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{one}{i}" for one in ("com", "lpt") for i in range(1, 10))})
"""Names that Windows keeps for devices."""
_LONGEST = 255


@dataclass(frozen=True, kw_only=True)
class SharedFile:
    """A file at a place.

    Attributes:
        name: path there, with slashes.
        size: in bytes.
        sha256: of its bytes, "" where the place does not tell.
        blob: sha1 by which git knows it, "" where the place does not tell.
    """

    name: str
    size: int
    sha256: str = ""
    blob: str = ""

    def is_of(self, file: Path) -> bool:
        """Returns whether a file here has the same bytes. Size and hash are compared, whichever the place tells."""
        if not file.is_file() or file.is_symlink() or file.stat().st_size != self.size:
            return False
        if self.sha256:
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
        return bool(self.blob) and git_blob(file) == self.blob


class Place(Protocol):
    """Where a run is shared.

    Attributes:
        name: as it was given.
        public: its name without folders of this machine, for what is shared.
        address: for people.
    """

    name: str
    public: str
    address: str

    def listing(self) -> dict[str, SharedFile]:
        """Returns the files that are there, by name; none where there is nothing yet."""
        ...

    def prepare(self, *, private: bool) -> None:
        """Makes the place where it is not there."""
        ...

    def send(self, files: Mapping[str, Path], message: str) -> None:
        """Stores files at once: all of them, or none."""
        ...

    def fetch(self, file: SharedFile, target: Path) -> None:
        """Writes a file of the place to a path here."""
        ...


def open_place(text: str, *, space: bool = False) -> Place:
    """Returns the place that a text names.

    Args:
        text: `hf:USER/NAME` or `folder:PATH`.
        space: whether it is a static Space of the hub, not a dataset.

    Raises:
        UserError: it is written otherwise, with the nearest form.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _KINDS or not rest:
        hint = nearest(kind, _KINDS) if colon else ""
        raise UserError(f'"{text[:80]}" is no place to share; it is hf:USER/NAME or folder:PATH{hint}')
    if kind == "folder":
        from entoptic.sharing.folder_place import FolderPlace

        return FolderPlace(rest)
    if not _REPO.fullmatch(rest) or ".." in rest or "--" in rest or rest.endswith((".git", ".", "-")):
        raise UserError(
            f'"{rest[:80]}" is no repository of the hub; it is USER/NAME, letters, digits, ".", "-" and "_"'
        )
    from entoptic.sharing.hub_place import HubPlace

    return HubPlace(rest, space=space)


def check_name(name: str) -> str:
    """Checks that a shared file's name stays in the folder that it is written to, on any system.

    Args:
        name: as the place tells it.

    Returns:
        The name.

    Raises:
        UserError: it leads out of the folder, is hidden, or no system has such a name.
    """
    parts = name.split("/")
    wrong = (
        "\\" in name or "\0" in name or ":" in name or not name.isprintable() or PurePosixPath(name).is_absolute()
        or any(not part or part.startswith(".") or part.endswith((".", " ")) for part in parts)
        or any(part.partition(".")[0].lower() in _DEVICES or len(part.encode("utf-8", "replace")) > _LONGEST for part in parts)
    )  # fmt: skip
    if wrong:
        raise UserError(f"the name of a shared file is not safe: {name[:80]!r}; nothing was written")
    return name


def check_names(names: Sequence[str]) -> None:
    """Checks the names of all files; see `check_name`. Two that differ by case alone are refused too."""
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(check_name(name).casefold(), name)
        if other != name:
            raise UserError(
                f"two shared files differ by case alone: {other[:80]!r} and {name[:80]!r}; nothing was written"
            )


def git_blob(file: Path) -> str:
    """Returns the sha1 by which git knows the content of a file."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
