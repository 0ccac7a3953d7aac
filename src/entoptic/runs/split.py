"""Splitting units from start to file: `entoptic split`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from entoptic.base.bounds import check_options
from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.dictionaries.split import split_units
from entoptic.models.model import Model, pick_device
from entoptic.models.sources import load
from entoptic.units.dictionary import save
from entoptic.units.unit import Unit, bind


@names_unread
@with_gradients
def split(
    model: str | Model,
    units: str | Unit | Sequence[str | Unit],
    photos: Any,
    out: str | Path = "split.safetensors",
    *,
    labels: Sequence[str] = (),
    most: int = 6,
    limit: int = 400,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Splits units into sub-units that add up to them, and writes these as a dictionary.

    Args:
        model: the network.
        units: channels of one Conv2d or Linear layer (or of a BatchNorm2d behind a Conv2d).
        photos: anything `Photos.open` takes.
        out: the file; another is replaced.
        labels: split by these classes of the photos (Hesse et al.); none splits by clusters of inputs.
        most: sub-units of one unit that are tried.
        limit: most photos that are read.
        seed: of positions, clusters and nulls.
        device: "auto", "cpu", "cuda:1", ….
        progress: show how far the work is.
        log: called with a line for each unit.

    Returns:
        The file, whose sub-units are units `dict(FILE):NUMBER`.

    Raises:
        UserError: as `split_units`.
    """
    check_options(limit=limit, seed=seed)
    subject = load(model, device=str(pick_device(device))) if isinstance(model, str) else model
    bound = bind(subject, units)
    with reporter(progress) as report:
        made = split_units(
            subject, bound, photos, limit=limit, most=most, labels=labels, seed=seed, progress=report.progress, log=log
        )
    return save(made, out)
