"""Parts of `overcomplete` (MIT, the extra `dictionaries`), imported only where they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from entoptic.errors import NotAvailable


def overcomplete_part(module: str, name: str) -> Any:
    """Returns a class of `overcomplete`.

    Args:
        module: inside the package, such as "optimization.nmf".
        name: of the class.

    Raises:
        NotAvailable: the package is not installed, or does not load.
    """
    try:
        with _old_colour_maps():
            found = importlib.import_module(f"overcomplete.{module}")
    except ModuleNotFoundError as error:
        raise NotAvailable(
            f"this kind of dictionary needs overcomplete (no module {error.name}): pip install 'entoptic[dictionaries]'"
        ) from None
    except (ImportError, AttributeError, OSError) as error:
        raise NotAvailable(f"overcomplete is installed but does not load ({type(error).__name__}: {error})") from None
    return getattr(found, name)


@contextmanager
def _old_colour_maps() -> Iterator[None]:
    """Gives matplotlib the function `cm.get_cmap` while overcomplete 0.3 loads: its plots ask for it, and 3.9 took it away."""
    try:
        cm: Any = importlib.import_module("matplotlib.cm")
        maps: Any = importlib.import_module("matplotlib").colormaps
    except ImportError:
        yield
        return
    if hasattr(cm, "get_cmap"):
        yield
        return
    cm.get_cmap = lambda name=None, lut=None: maps[name]
    try:
        yield
    finally:
        del cm.get_cmap
