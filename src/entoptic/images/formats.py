"""Which files count as photos: the formats that Pillow can read here, with the plugins that are installed."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from PIL import Image, ImageFile

# Named first where a sentence lists formats; the rest is counted.
_COMMON = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_SAME_OPENER = {"MPO": "JPEG"}  # a JPEG with further pictures behind it
_NO_PIXELS = {"MPEG"}  # Pillow tells its size and no more
_NAMED = 3
_PLUGINS = {"pillow_heif": "HEIF", "pillow_avif": "AVIF", "pillow_jxl": "JXL"}
_tried: set[str] = set()


def load_plugins(*, again: bool = False) -> None:
    """Loads Pillow's common formats, in Pillow's order, and the plugins for further formats that are installed.

    Args:
        again: look also for plugins that were not there before.
    """
    Image.preinit()
    for plugin, name in _PLUGINS.items():
        if name in Image.OPEN or (plugin in _tried and not again):
            continue
        _tried.add(plugin)
        with contextlib.suppress(ImportError, OSError):
            module = importlib.import_module(plugin)
            if plugin == "pillow_heif":  # the others register themselves
                module.register_heif_opener()


def extensions() -> frozenset[str]:
    """Returns the endings of files that can be read, in lower case with their dot, from Pillow's own registry."""
    load_plugins(again=True)
    return frozenset(ending for ending, name in Image.registered_extensions().items() if _readable(name))


def _readable(name: str) -> bool:
    """Tells whether Pillow opens a format and, where it leaves the pixels to a handler, has one."""
    name = _SAME_OPENER.get(name, name)
    if name not in Image.OPEN or name in _NO_PIXELS:
        return False
    factory = Image.OPEN[name][0]
    if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile):
        return getattr(sys.modules[factory.__module__], "_handler", None) is not None
    return True


def ending(name: str | os.PathLike[str]) -> str:
    """Returns the ending of a file's name, in lower case with its dot."""
    name = os.fspath(name)
    place = name.rfind(".")
    return name[place:].lower() if place > name.rfind(os.sep) + 1 else ""


def listed_extensions() -> str:
    """Lists the common endings and count the others, for a sentence."""
    known = extensions()
    common = [one for one in _COMMON if one in known]
    return f"{' '.join(common)} and {len(known) - len(common)} more"


def first_few(names: Sequence[str]) -> str:
    """Lists the first names in quotes, and count the others."""
    listed = ", ".join(f'"{name}"' for name in names[:_NAMED])
    return listed + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
