"""What other installed packages add, by entry points that they name in their `pyproject.toml`.

    [project.entry-points."entoptic.methods"]
    my-method = "my_package.my_method"

What cannot be loaded is one warning that names the package; everything else works without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, MutableMapping
from importlib import metadata
from typing import Any

METHODS = "entoptic.methods"
"""Modules that register methods on import."""
METRICS = "entoptic.metrics"
"""Modules that register metrics on import."""
MODELS = "entoptic.models"
"""Functions that load a network of a source: (name, pretrained) -> (module, card)."""
DICTIONARIES = "entoptic.dictionaries"
"""Functions that make a dictionary of a saved kind: (tensors, about) -> dictionary."""


def load_plugins(group: str, registered: MutableMapping[str, Any], withdraw: Callable[[], None] = lambda: None) -> None:
    """Imports the modules that packages offer under a group, in the order of their names.

    A module that fails, or takes the place of something that is registered already, leaves nothing behind.

    Args:
        group: `METHODS` or `METRICS`.
        registered: where the modules register by name.
        withdraw: takes back what a module registered elsewhere, after it failed.
    """
    for point in _points(group):
        before = dict(registered)
        try:
            point.load()
            if taken := [name for name, entry in before.items() if registered.get(name) is not entry]:
                raise ValueError(f"it takes the place of {taken[0]}, which is there already")
        except Exception as error:
            registered.clear()
            registered.update(before)
            withdraw()
            _warn(point, error)


def offered(group: str, taken: Iterable[str]) -> dict[str, Any]:
    """Returns the objects that packages offer under a group, by name.

    Args:
        group: `MODELS` or `DICTIONARIES`.
        taken: names that are there already.
    """
    found: dict[str, Any] = {}
    for point in _points(group):
        try:
            if point.name in found or point.name in taken:
                raise ValueError(f"it takes the place of {point.name}, which is there already")
            found[point.name] = point.load()
        except Exception as error:
            _warn(point, error)
    return found


def _points(group: str) -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=group), key=lambda point: (point.name, point.value))


def _warn(point: metadata.EntryPoint, error: Exception) -> None:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    text = " ".join(str(error).split())[:200]
    warnings.warn(
        f'the package {package} adds "{point.name}" to {point.group}, but it cannot be loaded and is left out '
        f"({type(error).__name__}: {text})",
        stacklevel=3,
    )
