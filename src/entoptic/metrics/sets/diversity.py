"""How different the pictures of one unit are from each other, and how many of its facets they show."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from entoptic.errors import UserError
from entoptic.metrics.sets.contract import SHARE, Measured, SetCard, checked
from entoptic.metrics.sets.rows import RowMetric

DIVERSITY = SetCard(
    name="diversity", title="Diversity", direction="none", bounds=(0.0, 2.0), scale="cosine distance"
)  # fmt: skip
FACETS = SetCard(name="facet_coverage", title="Facets shown", direction="higher", bounds=SHARE)
LEAST = 4
"""Fewest pictures of a unit whose jackknife means something."""


def diversity(embedder: str, photos: Tensor | None = None) -> RowMetric:
    """Returns the mean cosine distance over pairs of pictures, with the jackknife's interval over pictures.

    No direction is better: compare it with that of photos of the same unit, `real` in its detail.

    Args:
        embedder: name of the network whose features are taken.
        photos: features of photos that drive the same unit, M×C with M at least twice the number of pictures.
    """
    return RowMetric(
        card=DIVERSITY, embedder=embedder, least=LEAST, statistic=lambda rows, _: _pairs(rows), reference=photos,
        why="one or two pairs say nothing of a spread",
    )  # fmt: skip


def _pairs(rows_NC: Tensor) -> Measured:
    rows = normalize(rows_NC.double(), dim=1)
    far = (1 - rows @ rows.T).clamp(*DIVERSITY.bounds)  # rounding leaves them
    far.fill_diagonal_(0)
    n, sums, total = len(rows), far.sum(1), float(far.sum())
    value = total / (n * (n - 1))
    left_out = (total - 2 * sums) / ((n - 1) * (n - 2))
    half = 1.96 * math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    low, high = DIVERSITY.bounds
    return Measured(value, (max(low, value - half), min(high, value + half)), {"pairs": n * (n - 1) // 2})


def facet_coverage(centres: Tensor, embedder: str, *, photos: Tensor | None = None) -> RowMetric:
    """Returns the share of a unit's facets that at least one picture shows, exact for these pictures.

    A picture shows the facet whose centre its features have the largest cosine with. The detail says how many pictures each facet
    has, and what as many photos drawn at random would cover on average.

    Args:
        centres: K×C, mean features of each facet's photos.
        embedder: name of the network whose features they are.
        photos: how many photos each facet has, K.

    Raises:
        UserError: fewer than 2 facets, or numbers of photos that do not fit them.
    """
    kept = normalize(checked(centres).double(), dim=1)
    k = len(kept)
    if k < 2:
        raise UserError(f"facets are counted from 2 on, got {k}")
    if photos is not None and (photos.shape != (k,) or bool((photos < 0).any()) or float(photos.sum()) <= 0):
        raise UserError(f"expected the number of photos of each of {k} facets, got {photos.tolist()}")

    def statistic(rows: Tensor, _: Tensor | None) -> Measured:
        if rows.shape[1] != kept.shape[1]:
            raise UserError(
                f"expected {kept.shape[1]} features for each picture, got {rows.shape[1]}: use one embedder"
            )
        own = (normalize(rows.double(), dim=1) @ kept.T).argmax(1)
        counts = torch.bincount(own, minlength=k)
        value = int((counts > 0).sum()) / k
        detail: dict[str, object] = {"facets": k, "pictures of each": counts.tolist()}
        if photos is not None:
            shares = photos.double() / photos.double().sum()
            detail["real"] = float((1 - (1 - shares) ** len(rows)).mean())
        return Measured(value, (value, value), detail)

    return RowMetric(
        card=FACETS, embedder=embedder, least=1, statistic=statistic, settings=f"{k} facets {kept.sum():.9g}"
    )
