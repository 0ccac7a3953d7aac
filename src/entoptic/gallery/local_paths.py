"""Takes the folders of the machine that made a run out of what its pages show."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

# An absolute path in angle brackets (photos of maps), in quotes (commands), in round brackets (dictionaries), or bare.
_DRIVE = r"(?:[A-Za-z]:)?"
_PATTERNS = (
    re.compile(rf"(?<=<){_DRIVE}[\\/][^<>]*[\\/](?=[^\\/<>])"),
    re.compile(rf"(?<=['\"]){_DRIVE}[\\/][^'\"<>]*[\\/](?=[^\\/'\"<>])"),
    re.compile(rf"(?<=\(){_DRIVE}[\\/][^()<>]*[\\/](?=[^\\/()<>])"),
    re.compile(rf"(?<![^\s=:,\[{{('\"]){_DRIVE}[\\/](?![\\/])(?:[^\\/\s<>()\"',;|]+[\\/])*(?=[^\\/\s])"),
)


def without_folders(text: str) -> str:
    """Returns a text whose absolute paths are cut down to their last part: `fmap(bn2)<photo.jpg>`.

    Args:
        text: any text that a page shows. Relative paths and addresses stay as they are.
    """
    if "/" not in text and "\\" not in text:
        return text
    for pattern in _PATTERNS:
        text = pattern.sub("", text)
    return text


def shown(value: Any) -> Any:
    """Returns a value as a page shows it: texts without folders, markup and all else unchanged.

    Args:
        value: what a template prints.
    """
    return without_folders(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def all_without_folders(value: Any) -> Any:
    """Returns a JSON value with every text in it without folders. Names of objects stay.

    Args:
        value: any JSON value.
    """
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, list):
        return [all_without_folders(item) for item in value]
    if isinstance(value, dict):
        return {name: all_without_folders(item) for name, item in value.items()}
    return value
