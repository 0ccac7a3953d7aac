"""Precision and recall, density and coverage: where the pictures lie among the photos, by nearest neighbours.

The manifold of a set is the union of balls around its members; each reaches to its member's k-th neighbour in the set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from entoptic.base.estimates import wilson
from entoptic.errors import UserError
from entoptic.metrics.sets.contract import POSITIVE, SHARE, Measured, SetCard
from entoptic.metrics.sets.rows import RowMetric, clipped

PRECISION = SetCard(name="precision", title="Precision", direction="higher", bounds=SHARE)
RECALL = SetCard(name="recall", title="Recall", direction="higher", bounds=SHARE)
DENSITY = SetCard(name="density", title="Density", direction="higher", bounds=POSITIVE)
COVERAGE = SetCard(name="coverage", title="Coverage", direction="higher", bounds=SHARE)
LEAST = 50
"""Fewest pictures, and fewest photos: the balls of fewer say nothing of a manifold."""
CHUNK = 1024


def precision(reference: Tensor, embedder: str, *, k: int = 3) -> RowMetric:
    """Returns the share of pictures on the photos' manifold (Kynkäänniemi et al. 2019); Wilson's interval over pictures.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
        k: the neighbour that a ball reaches to.
    """

    reach = _Reach(k)

    def statistic(rows: Tensor, photos: Tensor) -> Measured:
        inside = balls_around(rows, photos, reach.of(photos)) > 0
        return _share(int(inside.sum()), len(rows), k, "pictures")

    return _metric(PRECISION, reference, embedder, k, statistic)


def recall(reference: Tensor, embedder: str, *, k: int = 3) -> RowMetric:
    """Returns the share of photos on the pictures' manifold (Kynkäänniemi et al. 2019); Wilson's interval over photos.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
        k: the neighbour that a ball reaches to.
    """

    def statistic(rows: Tensor, photos: Tensor) -> Measured:
        inside = balls_around(photos, rows, radii(rows, k)) > 0
        return _share(int(inside.sum()), len(photos), k, "photos")

    return _metric(RECALL, reference, embedder, k, statistic)


def density(reference: Tensor, embedder: str, *, k: int = 5) -> RowMetric:
    """Returns in how many photos' balls a picture lies, over k (Naeem et al. 2020); Student's interval over pictures.

    It is about 1 where both sets have one law, and may be larger where the pictures keep to crowded places.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
        k: the neighbour that a ball reaches to.
    """

    reach = _Reach(k)

    def statistic(rows: Tensor, photos: Tensor) -> Measured:
        counts = (balls_around(rows, photos, reach.of(photos)).double() / k).tolist()
        return Measured(sum(counts) / len(counts), clipped(counts, DENSITY.bounds), {"k": k, "over": "pictures"})

    return _metric(DENSITY, reference, embedder, k, statistic)


def coverage(reference: Tensor, embedder: str, *, k: int = 5) -> RowMetric:
    """Returns the share of photos whose ball holds a picture (Naeem et al. 2020); Wilson's interval over photos.

    Args:
        reference: features of real photos, M×C.
        embedder: name of the network whose features they are.
        k: the neighbour that a ball reaches to.
    """

    reach = _Reach(k)

    def statistic(rows: Tensor, photos: Tensor) -> Measured:
        covered = 0
        for part, radius in zip(photos.double().split(CHUNK), reach.of(photos).split(CHUNK)):
            covered += int((_exact(part, rows.double()).amin(1) <= radius).sum())
        return _share(covered, len(photos), k, "photos")

    return _metric(COVERAGE, reference, embedder, k, statistic)


def radii(rows_NC: Tensor, k: int) -> Tensor:
    """Returns the distance of each row to its k-th neighbour among the others, N float64."""
    rows = rows_NC.double()
    found = [
        _exact(part, rows).kthvalue(k + 1, dim=1).values for part in rows.split(CHUNK)
    ]  # the first is the row itself
    return torch.cat(found)


class _Reach:
    """`radii` of one table of photos after the other; those of the last one are kept, because many sets are compared with it."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._last: Tensor | None = None
        self._radii: Tensor | None = None

    def of(self, photos_MC: Tensor) -> Tensor:
        if self._last is not photos_MC or self._radii is None:
            self._last, self._radii = photos_MC, radii(photos_MC, self._k)
        return self._radii


def balls_around(points_NC: Tensor, centres_MC: Tensor, radii_M: Tensor) -> Tensor:
    """Returns for each point in how many balls it lies, N."""
    centres = centres_MC.double()
    return torch.cat([(_exact(part, centres) <= radii_M).sum(1) for part in points_NC.double().split(CHUNK)])


def _exact(a: Tensor, b: Tensor) -> Tensor:
    """Distances without the shortcut by dot products, which gives equal rows a distance above 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _share(hits: int, n: int, k: int, over: str) -> Measured:
    return Measured(hits / n, wilson(hits, n), {"k": k, "over": over})


def _metric(
    card: SetCard, reference: Tensor, embedder: str, k: int, statistic: Callable[[Tensor, Tensor], Measured]
) -> RowMetric:
    if not 1 <= k < LEAST:
        raise UserError(f"k is from 1 to {LEAST - 1}, not {k}")

    def of(rows: Tensor, photos: Tensor | None) -> Measured:
        assert photos is not None
        return statistic(rows, photos)

    return RowMetric(
        card=card, embedder=embedder, least=LEAST, statistic=of, reference=reference, settings=f"k={k}",
        why="the neighbours of so few say little of where a set lies",
    )  # fmt: skip
