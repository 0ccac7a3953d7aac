"""Weights & Biases, through its own library. Its key is the user's own login; nothing here reads or keeps it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class WeightsAndBiases:
    """Sends numbers and pictures to a run of a project.

    Args:
        library: the module wandb.
        run: that was begun.
    """

    def __init__(self, library: Any, run: Any) -> None:
        self._library, self._run = library, run

    def number(self, name: str, value: float, step: int) -> None:
        """Sends one point of a curve; each curve has its own axis, since steps of several need not be in order."""
        self._run.log({name: value, f"{name}/step": step})

    def picture(self, name: str, pixels: np.ndarray, caption: str, step: int) -> None:
        """Sends a picture."""
        self._run.log({name: self._library.Image(pixels, caption=caption), f"{name}/step": step})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def open_tracker(target: str) -> WeightsAndBiases:
    """Returns a tracker.

    Args:
        target: name of the project.

    Raises:
        ImportError: wandb is not installed.
    """
    library = importlib.import_module("wandb")
    run = library.init(project=target)
    return WeightsAndBiases(library, run)
