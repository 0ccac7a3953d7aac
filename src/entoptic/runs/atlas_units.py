"""What a run holds of the units of an atlas: a picture of each, and its evidence."""

from __future__ import annotations

import numpy as np

from entoptic.errors import UserError
from entoptic.metrics import METRICS
from entoptic.models.model import Model
from entoptic.runs.atlas_points import Column, Points
from entoptic.runs.pictures import Picture
from entoptic.runs.store import Run

_PHOTOS = ("retrieval", "retrieval-tilted", "retrieval-bottom")


def pictures_of(run: Run, points: Points, model: Model) -> list[Picture | None]:
    """Returns a picture of each point: the first that is made and not found, else the first.

    Args:
        run: with pictures.
        points: units or features.
        model: the network; pictures of others are left out.

    Raises:
        UserError: the run has a picture of none of them.
    """
    wanted = set(points.names)
    best: dict[str, Picture] = {}
    for picture in run:
        of = picture.record["model"].get("weights_sha256")
        if picture.unit not in wanted or of != model.card.weights_sha256:
            continue
        known = best.get(picture.unit)
        if known is None or (known.method in _PHOTOS and picture.method not in _PHOTOS):
            best[picture.unit] = picture
    if not best:
        units = run.pictures.units
        holds = f"; it has {', '.join(units[:3])}" if units else ""
        raise UserError(
            f"the run in {run.path} has no picture of {model.card.name}'s {points.names[0]} or any other point{holds}"
        )
    return [best.get(name) for name in points.names]


def evidence_columns(pictures: list[Picture | None]) -> list[Column]:
    """Returns a column for each measurement that any of the pictures carries."""
    found: dict[str, np.ndarray] = {}
    for i, picture in enumerate(pictures):
        for name, entry in (picture.evidence if picture is not None else {}).items():
            value = entry.get("value")
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, np.full(len(pictures), np.nan))[i] = value
    return [
        Column(name=name, title=METRICS[name].title if name in METRICS else name.replace("_", " "), values=values)
        for name, values in found.items()
        if name not in ("class", "strength", "fires", "purity", "kept")
    ]
