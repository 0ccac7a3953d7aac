"""Features of a study's pictures by a network, for simulated participants and the machine score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable
from entoptic.study.records import WITH_RIGHT_ANSWER, Plan
from entoptic.study.stimuli import FOLDER

NETWORK = "builtin:lite1"


@dataclass(frozen=True, kw_only=True)
class PictureFeatures:
    """Features of pictures.

    Attributes:
        by_name: one vector a picture.
        network: that they are of.
        weights_sha256: of the network.
    """

    by_name: dict[str, np.ndarray]
    network: str
    weights_sha256: str


def with_right_answer(plan: Plan) -> list[str]:
    """Returns the names of the pictures that main trials with a right answer show."""
    return sorted(
        {
            one.stimulus
            for assignment in plan.assignments
            for trial in assignment.trials
            if trial.task in WITH_RIGHT_ANSWER and trial.kind == "main"
            for one in trial.pictures
        }
    )


def picture_features(
    folder: Path, names: Iterable[str], network: Any, *, device: str = "auto", progress: Progress = silent
) -> PictureFeatures:
    """Returns the pooled features of pictures of a study.

    Args:
        folder: of the study.
        names: of the pictures.
        network: a name, or a `Model`.
        device: "auto", "cpu", "cuda:1", ….
        progress: called with (what, done, total).

    Raises:
        UserError: there is no such network, or it has no pooled features.
    """
    import torch
    from PIL import Image

    from entoptic.base.pixels import to_float
    from entoptic.metrics.distribution import features, has_features
    from entoptic.models.sources import load

    model = load(network, device=device)
    if not has_features(model):
        raise NotAvailable(f"{model.card.name} has no pooled features; a timm network has them, such as {NETWORK}")
    found: dict[str, np.ndarray] = {}
    wanted = list(names)
    for name in wanted:  # one at a time: pictures of a study may differ in size
        with Image.open(folder / FOLDER / f"{name}.png") as image:
            pixels = to_float(np.array(image.convert("RGB")))
        with torch.no_grad():
            found[name] = features(model, pixels.to(model.device))[0].double().cpu().numpy()
        progress("pictures", len(found), len(wanted))
    return PictureFeatures(by_name=found, network=model.card.name, weights_sha256=str(model.card.weights_sha256))
