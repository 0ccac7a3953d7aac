"""A folder to share runs in: the same as the hub, without the hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from entoptic.base.files import (
    check_inside,
    check_own,
    file_exists,
    folder_exists,
    is_inside,
    sha256_of,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.records import read_json
from entoptic.errors import NotAvailable, UserError
from entoptic.runs.export import EXPORTED
from entoptic.sharing.places import SharedFile


class FolderPlace:
    """A folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str) -> None:
        self.path = user_path(path)
        self.name, self.public, self.address = f"folder:{path}", f"folder:{self.path.name}", str(self.path)

    def listing(self) -> dict[str, SharedFile]:
        """Returns its files by name, hidden ones and links left out."""
        found = {}
        for file in sorted(self.path.rglob("*")) if folder_exists(self.path) else ():
            name = file.relative_to(self.path).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not hidden and not file.is_symlink() and file_exists(file) and is_inside(file, self.path):
                found[name] = SharedFile(name=name, size=file.stat().st_size, sha256=sha256_of(file))
        return found

    def prepare(self, *, private: bool) -> None:
        """Checks that the folder is empty, not there, or one that a run was pushed to; a run itself is left alone."""
        about = self.path / "run.json"
        if file_exists(about) and EXPORTED not in read_json(about):
            raise UserError(
                f"{self.path} is a run itself, which a shared copy would overwrite; name an empty folder, "
                f"for instance folder:{self.path}-shared"
            )
        check_own(self.path, marks={"run.json"}, what="shared run", option="PLACE", prefix="folder:")

    def send(self, files: Mapping[str, Path], message: str) -> None:
        """Copies files, each whole or not at all."""
        with writing_to(self.path):
            for name, file in files.items():
                target = check_inside(self.path / name, self.path)
                write_atomically(target, lambda part, file=file: shutil.copyfile(file, part))  # type: ignore[misc]

    def fetch(self, file: SharedFile, target: Path) -> None:
        """Copies a file from it."""
        source = self.path / file.name
        if not is_inside(source, self.path):
            raise NotAvailable(f"{file.name} of {self.address} is a link to what lies elsewhere")
        with writing_to(target.parent):
            write_atomically(target, lambda part: shutil.copyfile(source, part))
