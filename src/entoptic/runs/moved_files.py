"""Finds what a run names by relative paths, whatever the working directory is now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from entoptic.base.files import path_exists, sha256_of
from entoptic.errors import UserError
from entoptic.images.index import ActivationIndex
from entoptic.images.photos import Photos
from entoptic.models.sources import SOURCES

_UP = 4
"""Folders around a run in which something is looked for: a run lies in `runs/NAME` of a project, as a rule."""


class MovedFiles:
    """Finds the files and folders that a run names. Where several places have one of that name, the recorded hash decides.

    What was found is remembered.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._known: dict[tuple[str, str], str] = {}

    def photos(self, source: str, fingerprint: str | None) -> str:
        """Finds a set of photos.

        Args:
            source: as it was recorded.
            fingerprint: `Photos.fingerprint` of it, or None where it is not known.
        """
        return self._remembered(source, fingerprint, lambda place: Photos.open(place).fingerprint() == fingerprint)

    def index(self, source: str, key: str | None) -> str:
        """Finds an index.

        Args:
            source: as it was recorded.
            key: of the index, or None where it is not known.
        """
        return self._remembered(source, key, lambda place: ActivationIndex.open(place).key == key)

    def photo(self, source: str, sha256: str) -> str:
        """Finds a photo's file.

        Args:
            source: as it was recorded.
            sha256: of its bytes.
        """
        return self._remembered(source, sha256, lambda place: sha256_of(Path(place)) == sha256)

    def _remembered(self, source: str, expected: str | None, fits: Callable[[str], bool]) -> str:
        wanted = (source, expected or "")
        if wanted not in self._known:
            self._known[wanted] = find_moved(source, self._run, fits if expected else None)
        return self._known[wanted]


def find_moved(source: str, run: Path, fits: Callable[[str], bool] | None = None, inside: Sequence[Path] = ()) -> str:
    """Finds the place that a relative path means: in the run, beside it, in a folder around it, or in the working directory.

    Args:
        source: that a record names; a name such as `hf:REPO` and an absolute path that nothing else fits come back as they are.
        run: the run's folder.
        fits: whether what lies at a place is what was recorded; it is asked where there are several places. None where nothing
            is known of it.
        inside: further places, of copies in the run; looked at first.

    Returns:
        The first place that fits. Where none does: the path as it is if something is there, else the first place where
        something is.
    """
    try:
        places = _places(source, run, inside)
    except (OSError, ValueError, RuntimeError):  # no path can be so
        return source
    if fits is not None and len(places) > 1:
        for place in places:
            if _fits(place, fits):
                return place
    return source if source in places or not places else places[0]


def _places(source: str, run: Path, inside: Sequence[Path]) -> list[str]:
    """The places where something is, each once: a place that the path itself leads to is written like the path."""
    path, places = Path(source), list(inside)
    if not _is_name(source):
        places += [] if path.is_absolute() else [folder / path for folder in list(run.resolve().parents)[:_UP]]
        places.append(path)
    found: dict[Path, str] = {}
    for place in places:
        if path_exists(place):
            found[place.resolve()] = source if place is path else str(place)  # an entry keeps its rank
    return list(found.values())


def _is_name(source: str) -> bool:
    """Whether a text names something to load, as `hf:REPO` and `https://…` do; `photos:v2` is a path."""
    return "://" in source or (":" in source and source.partition(":")[0] in SOURCES)


def _fits(place: str, fits: Callable[[str], bool]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is left out of another project's photos
            return fits(place)
    except (UserError, OSError, ValueError):  # something else lies there
        return False
