"""Kernel distances of a set of pictures to real photos: KID and CMMD."""

from __future__ import annotations

import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.images.unit_reference import evenly_spaced
from entoptic.metrics.sets.contract import POSITIVE, Measured, SetCard
from entoptic.metrics.sets.mmd import BLOCK, Kernel, cubic, gaussian, mmd
from entoptic.metrics.sets.rows import RowMetric

KID = SetCard(name="kid", title="Kernel distance", direction="lower", bounds=POSITIVE)
CMMD = SetCard(name="cmmd", title="Gaussian kernel distance", direction="lower", bounds=(0.0, 2.0))
LEAST = 20
"""Fewest pictures: the jackknife's interval is too narrow for less."""


def kid(reference: Tensor, embedder: str) -> RowMetric:
    """Returns the kernel distance with the kernel (x·y/C + 1)³ (Bińkowski et al. 2018), unbiased at every n.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
    """
    return _metric(KID, reference, embedder, cubic, {})


def cmmd(reference: Tensor, embedder: str, *, bandwidth: float | None = None) -> RowMetric:
    """Returns the squared MMD with a Gaussian kernel (Jayasumana et al. 2024), unbiased, without their factor of 1000.

    They take features of CLIP that are scaled to length 1, and a bandwidth of 10.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
        bandwidth: σ of exp(-|x - y|²/(2 σ²)). None takes the median distance between photos, which is stated.

    Raises:
        UserError: a bandwidth that is not above 0.
    """
    stated = "given"
    if bandwidth is None:
        bandwidth, stated = median_distance(reference), "median distance between photos"
    if not 0 < bandwidth < float("inf"):
        raise UserError(f"the bandwidth is a number above 0, not {bandwidth:g}")
    return _metric(CMMD, reference, embedder, gaussian(bandwidth), {"bandwidth": bandwidth, "bandwidth is": stated})


def median_distance(features_NC: Tensor) -> float:
    """Returns the median distance between different rows, of at most 1000 rows at even distances."""
    rows = features_NC.detach().cpu().double()[evenly_spaced(len(features_NC), 1000)]
    return float(torch.nn.functional.pdist(rows).median()) if len(rows) > 1 else 0.0


def _metric(
    card: SetCard, reference: Tensor, embedder: str, kernel: Kernel, stated: dict[str, float | str]
) -> RowMetric:
    def statistic(rows: Tensor, photos: Tensor | None) -> Measured:
        assert photos is not None
        value, interval, blocks = mmd(rows, photos, kernel, BLOCK)
        return Measured(value, interval, {**stated, "blocks": blocks})

    return RowMetric(
        card=card, embedder=embedder, least=LEAST, statistic=statistic, reference=reference, settings=f"{stated}",
        why="its interval would be too narrow",
    )  # fmt: skip
