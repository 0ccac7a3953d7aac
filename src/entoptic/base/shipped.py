"""What is part of the package: folders by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_folder(room: str) -> Path:
    """Returns the folder of what a room ships.

    Args:
        room: "priors", "inversion" or "dictionaries".
    """
    return Path(str(resources.files("entoptic"))) / room / "shipped"


def shipped_names(room: str) -> list[str]:
    """Returns the names behind `builtin:` of what a room ships.

    Args:
        room: "priors", "inversion" or "dictionaries".
    """
    shipped = shipped_folder(room)
    return sorted(folder.name for folder in shipped.iterdir() if folder.is_dir()) if shipped.is_dir() else []
