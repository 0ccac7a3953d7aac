"""TensorBoard, through its own library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entoptic.base.files import user_path, writing_to

if TYPE_CHECKING:
    import numpy as np


class TensorBoard:
    """Writes events that `tensorboard --logdir DIR` shows.

    Args:
        writer: of torch.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def number(self, name: str, value: float, step: int) -> None:
        """Writes one point of a curve."""
        self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: np.ndarray, caption: str, step: int) -> None:
        """Writes a picture; the caption is part of its name, as TensorBoard has no other place for it."""
        self._writer.add_image(f"{name}/{caption}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def open_tracker(target: str) -> TensorBoard:
    """Returns a tracker.

    Args:
        target: folder of the events.

    Raises:
        ImportError: tensorboard is not installed.
        UserError: the folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = user_path(target)
    with writing_to(folder):
        return TensorBoard(SummaryWriter(str(folder)))
