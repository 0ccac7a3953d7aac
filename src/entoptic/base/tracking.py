"""Numbers and pictures for other programs that show them: TensorBoard or Weights & Biases, where the user asks for one.

A job says `tell("loss", 0.3, 100)` wherever it is; without a tracker nothing happens. Each program is one file beside this one.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from entoptic.base.progress import Reporter
from entoptic.errors import NotAvailable, UserError, instead

if TYPE_CHECKING:
    import numpy as np

_KINDS = {"tensorboard": ("tracking_tensorboard", "DIR"), "wandb": ("tracking_wandb", "PROJECT")}


class Tracker(Protocol):
    """Shows numbers and pictures of a job elsewhere."""

    def number(self, name: str, value: float, step: int) -> None:
        """Shows one point of a curve."""
        ...

    def picture(self, name: str, pixels: np.ndarray, caption: str, step: int) -> None:
        """Shows a picture, H×W×3 uint8."""
        ...

    def close(self) -> None:
        """Says that the job has ended."""
        ...


_current: ContextVar[Tracker | None] = ContextVar("tracker", default=None)


@contextlib.contextmanager
def tracking(where: str) -> Iterator[None]:
    """Tells a program what jobs `tell` while it lasts.

    Args:
        where: `tensorboard:DIR` or `wandb:PROJECT`; "" for none.

    Raises:
        UserError: it is written otherwise, or the program's library is not installed.
    """
    if not where:
        yield
        return
    tracker = _open(where)
    token = _current.set(tracker)
    try:
        yield
    finally:
        _current.reset(token)
        tracker.close()


def tell(name: str, value: float, step: int) -> None:
    """Tells the tracker, if there is one, a number.

    Args:
        name: of the curve.
        value: at the step.
        step: from 0.
    """
    if (tracker := _current.get()) is not None:
        tracker.number(name, float(value), step)


def tell_picture(name: str, pixels: np.ndarray, caption: str, step: int) -> None:
    """Tells the tracker, if there is one, a picture.

    Args:
        name: that pictures of one kind share.
        pixels: H×W×3 uint8.
        caption: what it shows.
        step: from 0.
    """
    if (tracker := _current.get()) is not None:
        tracker.picture(name, pixels, caption, step)


def is_tracked() -> bool:
    """Returns whether anybody listens."""
    return _current.get() is not None


def _open(where: str) -> Tracker:
    kind, _, target = where.partition(":")
    if kind not in _KINDS or not target:
        forms = ", ".join(f"{name}:{what}" for name, (_, what) in _KINDS.items())
        hint = "" if kind in _KINDS else instead(kind, _KINDS)
        raise UserError(f'--report is one of {forms}, got "{where[:80]}"{hint}')
    module = importlib.import_module(f"entoptic.base.{_KINDS[kind][0]}")
    try:
        tracker: Tracker = module.open_tracker(target)
    except ImportError:
        raise NotAvailable(f"--report {kind} needs the package {kind}; `pip install {kind}`") from None
    return tracker


class Telling(Reporter):
    """Tells how many pictures are made, beside what another reporter shows.

    Args:
        inner: the other reporter.
    """

    def __init__(self, inner: Reporter) -> None:
        self._inner, self._made = inner, 0

    def start(self, method: str, todo: int, done: int) -> None:
        self._inner.start(method, todo, done)

    def step(self, step: int, steps: int, pictures: int) -> None:
        self._inner.step(step, steps, pictures)

    def finish(self, pictures: int, seconds: float) -> None:
        self._inner.finish(pictures, seconds)
        self._made += pictures
        tell("run/pictures", self._made, self._made)
        tell("run/seconds_per_picture", seconds / max(1, pictures), self._made)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self._inner.progress(what, done, total)
